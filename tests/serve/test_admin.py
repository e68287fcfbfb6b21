"""Managing a server over HTTP: who may, what changes, and what is refused."""

import httpx
import pytest
from fakes import FakeProgram, fake_engine, parrot
from live_server import live
from test_catalog import Adaptable, open_fake

from slipstream.errors import MachineError
from slipstream.serve.admin_key import AdminKey
from slipstream.serve.admission import AdmissionLimits
from slipstream.serve.app import make_server_app
from slipstream.serve.catalog import Catalog, Served
from slipstream.serve.keys import KeyRing
from slipstream.serve.loader import Loader
from slipstream.serve.server import Server

ADMIN, ALICE = "the-key-of-the-admin", "the-key-of-alice"
KEYS = f"admin:{ADMIN}\nalice:{ALICE}"


def app_of(**doors):
    limits = AdmissionLimits()
    engine = fake_engine(FakeProgram(257, parrot("one")))
    Adaptable(engine)
    catalog = Catalog(
        [Served("m", engine, limits, source="one")], loader=Loader(open_one=open_fake)
    )
    keys = doors.pop("keys", "")
    return make_server_app(
        Server(catalog, limits, keyring=KeyRing(limits.accounts, text=keys), **doors)
    )


@pytest.fixture
def admin():
    """A client with the admin key of an open server."""
    with live(app_of(admin_key=AdminKey(ADMIN))) as url:
        headers = {"Authorization": f"Bearer {ADMIN}"}
        with httpx.Client(base_url=url, headers=headers, timeout=10) as client:
            yield client


def post(client, path, status=200, **body):
    reply = client.post(f"/admin/{path}", json=body)
    assert reply.status_code == status, reply.text
    content = reply.json()
    return content["error"] if status >= 400 else content["data"]


def says(client, model, **more):
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], **more}
    reply = client.post("/v1/chat/completions", json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()["choices"][0]["message"]["content"]


def test_versions_are_loaded_made_default_and_unloaded(admin):
    (first,) = admin.get("/admin/models").json()["data"]
    assert first == {
        "name": "m",
        "version": "1",
        "state": "serving",
        "source": "one",
        "exchanges": 0,
        "requests": 0,
        "adapters": [],
        "default": True,
        "canary_percent": 0,
    }
    post(admin, "models/load", name="m", source="two", version="2", wait=True)
    assert [says(admin, name) for name in ("m", "m:1", "m:2")] == ["one", "one", "two"]
    assert {card["id"] for card in admin.get("/v1/models").json()["data"]} == {"m", "m:2"}
    assert admin.get("/v1/models/m:2").json()["version"] == "2"
    post(admin, "models/default", name="m", version="2")
    assert says(admin, "m") == "two"
    (left,) = post(admin, "models/unload", name="m", version="1", wait=True)
    assert (left["version"], left["default"]) == ("2", True)


def test_loading_goes_on_in_the_background(admin):
    started = post(admin, "models/load", 202, name="n", source="later")
    assert started[-1]["state"] in ("loading", "serving")
    while admin.get("/admin/models").json()["data"][-1]["state"] != "serving":
        pass
    assert says(admin, "n") == "later"


def test_a_failure_is_told_in_words(admin):
    told = post(admin, "models/load", 500, name="n", source="broken", wait=True)
    assert told["message"] == "this file is damaged"
    (_, failed) = admin.get("/admin/models").json()["data"]
    assert (failed["state"], failed["error"]) == ("failed", "this file is damaged")
    post(admin, "models/load", 202, name="x", source="broken")


def test_a_canary_gets_its_share(admin):
    post(admin, "models/load", name="m", source="two", version="2", wait=True)
    data = post(admin, "models/canary", name="m", version="2", percent=40)
    assert [entry["canary_percent"] for entry in data] == [0, 40]
    answers = [says(admin, "m", user=f"user {n}") for n in range(30)]
    assert 3 < answers.count("two") < 24
    assert answers == [says(admin, "m", user=f"user {n}") for n in range(30)]
    post(admin, "models/canary", name="m", version="2", percent=0)
    assert {says(admin, "m") for _ in range(10)} == {"one"}


def test_adapters_come_and_go(admin):
    (entry,) = post(admin, "adapters/load", name="poet", source="/a/poet", base="m")
    assert entry["adapters"] == ["poet"]
    assert {card["id"] for card in admin.get("/v1/models").json()["data"]} == {"m", "poet"}
    assert "carries the adapters" in post(admin, "models/unload", 409, name="m")["message"]
    (entry,) = post(admin, "adapters/unload", name="poet")
    assert entry["adapters"] == []
    post(admin, "adapters/unload", 404, name="poet")


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("models/load", {"name": "m", "source": "x"}, 409, "'m:1' is serving already"),
        ("models/load", {"name": "a b", "source": "x"}, 400, "letters, digits"),
        ("models/load", {"name": "a", "source": ""}, 400, "at least 1 character"),
        ("models/load", {"name": "a", "source": "x", "versoin": "2"}, 400, "versoin"),
        ("models/unload", {"name": "nobody"}, 404, "no version '1'"),
        ("models/unload", {"name": "m", "timeout": -1}, 400, "greater than or equal to 0"),
        ("models/default", {"name": "m", "version": "7"}, 400, "has no version '7'"),
        ("models/default", {"name": "z", "version": "7"}, 404, "'z' does not exist"),
        ("models/canary", {"name": "m", "version": "1", "percent": 5}, 409, "default already"),
        ("models/canary", {"name": "m", "version": "1", "percent": 101}, 400, "percent"),
        ("adapters/load", {"name": "a", "source": "/b", "base": "z"}, 404, "'z' does not exist"),
    ],
)
def test_what_cannot_be_done_is_refused_in_words(admin, path, body, status, words):
    error = post(admin, path, status, **body)
    assert words in error["message"], error


def test_metrics_of_several_models_are_one_page(admin):
    from prometheus_client.parser import text_string_to_metric_families

    post(admin, "models/load", name="m", source="two", version="2", wait=True)
    says(admin, "m"), says(admin, "m:2")
    families = list(text_string_to_metric_families(admin.get("/metrics").text))
    names = [family.name for family in families]
    assert len(names) == len(set(names)), "a family appears twice"
    (tokens,) = [one for one in families if one.name == "slipstream:generation_tokens"]
    assert {
        (sample.labels["model_name"], sample.labels["version"])
        for sample in tokens.samples
        if sample.name.endswith("_total")
    } == {("m", "1"), ("m", "2")}


def status_of(app, key=None, header="Authorization", **more):
    with live(app) as url, httpx.Client(base_url=url) as client:
        value = {"Authorization": f"Bearer {key}", "X-API-Key": key or ""}[header]
        return client.get("/admin/models", headers={header: value} if key else {}).status_code


def test_without_an_admin_key_nobody_manages():
    assert status_of(app_of(), "anything-at-all-16") == 403
    assert status_of(app_of(keys=f"alice:{ALICE}"), ALICE) == 403


def test_only_the_admin_key_manages_an_open_server():
    def app():
        return app_of(admin_key=AdminKey(ADMIN))

    assert [status_of(app(), key) for key in (None, "x" * 20, ADMIN)] == [401, 401, 200]
    assert status_of(app(), ADMIN, "X-API-Key") == 200


def test_the_account_admin_manages_a_server_with_keys():
    assert [status_of(app_of(keys=KEYS), key) for key in (None, ALICE, ADMIN)] == [401, 401, 200]


def test_an_admin_key_beside_api_keys_opens_admin_and_nothing_else():
    app = app_of(keys=f"alice:{ALICE}", admin_key=AdminKey(ADMIN))
    with live(app) as url, httpx.Client(base_url=url) as client:
        headers = {"Authorization": f"Bearer {ADMIN}"}
        assert client.get("/admin/models", headers=headers).status_code == 200
        assert client.get("/v1/models", headers=headers).status_code == 401


def test_a_key_that_is_none_is_refused_at_the_start(tmp_path):
    with pytest.raises(MachineError, match="at least 16"):
        AdminKey("short")
    with pytest.raises(MachineError, match="cannot be read"):
        AdminKey.read(tmp_path / "nowhere")
    (tmp_path / "key").write_text(f"  {ADMIN}\n")
    assert AdminKey.read(tmp_path / "key").opens(ADMIN)
