"""What every request passes: keys, limits, ids, origins, time; over a live server."""

import asyncio

import httpx
import pytest
from fakes import FakeProgram, fake_engine, parrot
from live_server import SlowProgram, live, run_async

from slipstream.serve.admission import AdmissionLimits
from slipstream.serve.app import make_app
from slipstream.serve.keys import KeyRing
from slipstream.serve.rates import AccountLimits, Accounts

ALICE, BATCH = "sk-alice-0123456789", "sk-batch-0123456789"
CHAT = {"model": "fake", "messages": [{"role": "user", "content": "Hi"}]}
PATH = "/v1/chat/completions"


def app_with(limits=None, keys="", program=None, **doors):
    limits = limits or AdmissionLimits()
    engine = fake_engine(program or FakeProgram(257, parrot("Hello, wörld!")), max_batch=2)
    ring = KeyRing(limits.accounts, text=keys)
    return make_app(engine, name="fake", limits=limits, keyring=ring, **doors)


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture(scope="module")
def locked():
    keys = f"alice:{ALICE};batch:{BATCH}:rpm=2,tpm=1000000"
    with (
        live(app_with(keys=keys, cors_origins=("https://a.example",))) as url,
        httpx.Client(base_url=url, timeout=10) as client,
    ):
        yield client


@pytest.mark.parametrize(
    "headers",
    [{}, bearer("wrong"), {"Authorization": ALICE}, {"X-API-Key": "x" * 5000}],
)
def test_without_a_known_key_nothing_is_done(locked, headers):
    for method, path in (("POST", PATH), ("GET", "/v1/models"), ("GET", "/metrics")):
        reply = locked.request(method, path, headers=headers, json=CHAT)
        assert reply.status_code == 401, path
        assert reply.json()["error"]["code"] == "invalid_api_key"
        assert reply.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("headers", [bearer(ALICE), {"X-API-Key": ALICE}])
def test_a_known_key_opens(locked, headers):
    assert locked.post(PATH, headers=headers, json=CHAT).status_code == 200


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_probes_need_no_key(locked, path):
    assert locked.get(path).json() == {"status": "ok"}


def test_a_key_has_its_own_rate(locked):
    replies = [locked.post(PATH, headers=bearer(BATCH), json=CHAT) for _ in range(3)]
    assert [r.status_code for r in replies] == [200, 200, 429]
    assert 1 <= int(replies[-1].headers["retry-after"]) <= 31
    assert "2 requests a minute" in replies[-1].json()["error"]["message"]
    assert locked.post(PATH, headers=bearer(ALICE), json=CHAT).status_code == 200


def test_a_page_of_a_named_origin_may_ask_and_no_other(locked):
    def ask(origin):
        wish = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        return locked.options(PATH, headers=wish)

    assert ask("https://a.example").headers["access-control-allow-origin"] == "https://a.example"
    assert "access-control-allow-origin" not in ask("https://b.example").headers
    refused = locked.post(PATH, json=CHAT, headers={"Origin": "https://a.example"})
    assert refused.status_code == 401 and "access-control-allow-origin" in refused.headers


def test_every_reply_has_an_id_and_a_sane_one_is_kept(http):
    for path in ("/health", "/v1/models", "/nowhere"):
        assert len(http.get(path).headers["x-request-id"]) == 32
    assert http.get("/health", headers={"X-Request-Id": "a-1.b:C"}).headers["x-request-id"] == (
        "a-1.b:C"
    )
    for odd in ("a b", "x" * 129, "<script>"):
        assert http.get("/health", headers={"X-Request-Id": odd}).headers["x-request-id"] != odd


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Request-Timeout": "soon"},
        {"X-Request-Timeout": "-1"},
        {"X-Request-Timeout": "nan"},
        {"X-Request-Priority": "1e9"},
    ],
)
def test_headers_that_make_no_sense_are_refused(http, headers):
    reply = http.post(PATH, json=CHAT, headers=headers)
    assert reply.status_code == 400, reply.text


def test_a_prompt_or_an_answer_longer_than_the_server_allows():
    limits = AdmissionLimits(max_prompt_tokens=30, max_answer_tokens=4)
    with live(app_with(limits)) as url, httpx.Client(base_url=url) as client:
        short = client.post(PATH, json=CHAT).json()
        assert short["choices"][0]["message"]["content"] == "Hell"
        assert short["choices"][0]["finish_reason"] == "length"
        asks = client.post(PATH, json={**CHAT, "max_tokens": 5})
        assert asks.status_code == 400 and "4 tokens here, not 5" in asks.text
        long = [{"role": "user", "content": "x" * 40}]
        assert "30 tokens here, not 58" in client.post(PATH, json={**CHAT, "messages": long}).text


def test_tokens_a_minute_count_prompts_and_answers():
    limits = AdmissionLimits(accounts=Accounts(AccountLimits(tpm=40)))
    with live(app_with(limits)) as url, httpx.Client(base_url=url) as client:
        assert client.post(PATH, json=CHAT).status_code == 200  # 20 of the prompt, 15 of the answer
        refused = client.post(PATH, json=CHAT)
        assert refused.status_code == 429 and "40 tokens a minute" in refused.text
        assert int(refused.headers["retry-after"]) >= 20


@run_async
async def test_requests_at_once_are_bounded_for_each_account():
    program = SlowProgram(257, parrot("ab"))
    limits = AdmissionLimits(accounts=Accounts(AccountLimits(concurrent=1)))
    with live(app_with(limits, program=program)) as url:
        async with httpx.AsyncClient(base_url=url, timeout=10) as client:
            first = asyncio.create_task(client.post(PATH, json=CHAT))
            await asyncio.sleep(0.2)
            refused = await client.post(PATH, json=CHAT)
            assert refused.status_code == 429 and "1 requests open" in refused.text
            for _ in range(20):
                program.gate.release()
            assert (await first).status_code == 200
            assert (await client.post(PATH, json=CHAT)).status_code == 200


class Steady(SlowProgram):
    """A step every 30 ms, gate or no gate."""

    def step(self, batch, kv):
        self.gate.acquire(timeout=0.03)
        return FakeProgram.step(self, batch, kv)


@pytest.fixture(scope="module")
def steady():
    limits = AdmissionLimits(timeout_s=1)
    app = app_with(limits, program=Steady(257, parrot("abcdefghij" * 200)))
    with live(app) as url, httpx.Client(base_url=url, timeout=20) as client:
        yield client


@pytest.mark.parametrize("how", [{"headers": {"X-Request-Timeout": "0.2"}}, {}])
def test_an_answer_that_takes_too_long_is_an_error_in_words(steady, how):
    reply = steady.post(PATH, json=CHAT, **how)
    assert reply.status_code == 504 and "timeout" in reply.json()["error"]["message"]


def test_within_a_stream_the_timeout_is_an_event(steady):
    text = steady.post(PATH, json={**CHAT, "stream": True, "timeout": 0.3}).text
    events = [line for line in text.splitlines() if line]
    assert '"content":"a"' in text and '"code": "timeout"' in text.replace('":"', '": "')
    assert events[-1] == "data: [DONE]"


def test_a_failure_that_nobody_foresaw_is_told_with_the_id(http, app, monkeypatch):
    served = next(iter(app.state.server.catalog))

    def broken(count=1):
        raise RuntimeError("secret")

    monkeypatch.setattr(served.admission, "admit", broken)
    reply = http.post(PATH, json=CHAT, headers={"X-Request-Id": "mine"})
    assert reply.status_code == 500 and "secret" not in reply.text
    assert reply.headers["x-request-id"] == "mine"


def test_the_state_balances(http):
    http.post(PATH, json=CHAT)
    state = http.get("/state?check=1").json()
    (model,) = state["models"]
    assert state["ready"] and model["balanced"] and model["kv_pages_used"] == 0
    assert model["kv_bytes"] == 0 and model["weight_bytes"] is None, "a fake program has neither"
    assert http.get("/state?check=2").status_code == 400
