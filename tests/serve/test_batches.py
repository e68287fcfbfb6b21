"""/v1/files and /v1/batches: OpenAI's client runs batches, restarts lose nothing, accounts are apart."""

import json
import time

import httpx
import pytest
from fakes import FakeProgram, fake_engine, parrot
from live_server import SlowProgram, live
from openai import BadRequestError, NotFoundError, OpenAI

from slipstream.errors import MachineError
from slipstream.serve.admission import AdmissionLimits
from slipstream.serve.app import make_app
from slipstream.serve.keys import KeyRing

ENDED = ("completed", "failed", "expired", "cancelled")


def new_app(state, program=None, **doors):
    program = program or FakeProgram(257, parrot("Hello, wörld!"))
    return make_app(
        fake_engine(program, max_batch=4, context=256), name="fake", state_folder=state, **doors
    )


def line(custom_id, url="/v1/chat/completions", **body):
    body = {"model": "fake", "messages": [{"role": "user", "content": "Hi>"}]} | body
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def client_of(url, key="none"):
    return OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)


def uploaded(client, *lines):
    text = "".join(json.dumps(one) + "\n" for one in lines)
    return client.files.create(file=("in.jsonl", text.encode()), purpose="batch")


def created(client, *lines, endpoint="/v1/chat/completions", **more):
    file = uploaded(client, *lines)
    return client.batches.create(
        input_file_id=file.id, endpoint=endpoint, completion_window="24h", **more
    )


def ended(client, batch_id, seconds=20):
    until = time.monotonic() + seconds
    while (batch := client.batches.retrieve(batch_id)).status not in ENDED:
        assert time.monotonic() < until, f"still {batch.status}"
        time.sleep(0.02)
    return batch


def results(client, file_id):
    return [json.loads(text) for text in client.files.content(file_id).text.splitlines()]


def test_a_batch_from_upload_to_results(tmp_path):
    with live(new_app(tmp_path)) as url, client_of(url) as client:
        lines = [line(f"id-{i}", max_tokens=5 + i % 3) for i in range(20)]
        batch = created(client, *lines, line("bad", nonsense=1), metadata={"who": "me"})
        assert batch.status in ("validating", "in_progress") and batch.metadata == {"who": "me"}
        batch = ended(client, batch.id)
        assert batch.status == "completed" and batch.completed_at >= batch.created_at
        assert batch.request_counts.to_dict() == {"total": 21, "completed": 20, "failed": 1}
        answers = results(client, batch.output_file_id)
        assert [one["custom_id"] for one in answers] == [one["custom_id"] for one in lines]
        for i, one in enumerate(answers):
            choice = one["response"]["body"]["choices"][0]
            assert choice["message"]["content"] == "Hello, wörld!"[: 5 + i % 3]
        (refused,) = results(client, batch.error_file_id)
        assert refused["custom_id"] == "bad" and refused["response"]["status_code"] == 400
        assert [one.id for one in client.batches.list().data] == [batch.id]
        assert {one.purpose for one in client.files.list().data} == {"batch", "batch_output"}
    assert not list((tmp_path / "batches").glob("*.journal"))


def test_input_that_cannot_be_run_fails_with_its_lines(tmp_path):
    with live(new_app(tmp_path)) as url, client_of(url) as client:
        batch = created(client, line("a"), line("a"), {"custom_id": "b"})
        batch = ended(client, batch.id)
        assert batch.status == "failed" and batch.output_file_id is None
        assert [(one.line, one.code) for one in batch.errors.data] == [
            (2, "duplicate_custom_id"),
            (3, "invalid_line"),
        ]


def test_a_restart_goes_on_where_it_was(tmp_path):
    slow = SlowProgram(257, parrot("abc"))
    lines = [line(str(i), max_tokens=3) for i in range(30)]
    with live(new_app(tmp_path, slow)) as url, client_of(url) as client:
        batch = created(client, *lines)
        for _ in range(12):
            slow.gate.release()
        until = time.monotonic() + 10
        while client.batches.retrieve(batch.id).request_counts.completed < 4:
            assert time.monotonic() < until
            time.sleep(0.02)
        done = client.batches.retrieve(batch.id).request_counts.completed
        for _ in range(1000):
            slow.gate.release()
    with live(new_app(tmp_path, FakeProgram(257, parrot("abc")))) as url, client_of(url) as client:
        batch = ended(client, batch.id)
        assert batch.status == "completed" and batch.request_counts.completed == 30
        ids = [one["custom_id"] for one in results(client, batch.output_file_id)]
        assert ids == [str(i) for i in range(30)] and done >= 4


def test_a_cancelled_batch_keeps_what_is_answered(tmp_path):
    slow = SlowProgram(257, parrot("abc"))
    with live(new_app(tmp_path, slow)) as url, client_of(url) as client:
        batch = created(client, *[line(str(i), max_tokens=1) for i in range(100)])
        slow.gate.release()
        until = time.monotonic() + 10
        while client.batches.retrieve(batch.id).request_counts.completed < 1:
            assert time.monotonic() < until
            slow.gate.release()
            time.sleep(0.02)
        assert client.batches.cancel(batch.id).status == "cancelling"
        for _ in range(1000):
            slow.gate.release()
        batch = ended(client, batch.id)
        assert batch.status == "cancelled" and batch.cancelled_at
        kept = results(client, batch.output_file_id)
        assert 1 <= len(kept) == batch.request_counts.completed < 100
        assert client.batches.cancel(batch.id).status == "cancelled"


def test_a_batch_that_takes_too_long_expires(tmp_path, monkeypatch):
    monkeypatch.setattr("slipstream.serve.batch_record.WINDOW_S", -5)
    with live(new_app(tmp_path)) as url, client_of(url) as client:
        batch = ended(client, created(client, line("a"), line("b")).id)
        assert batch.status == "expired" and batch.output_file_id is None
        errors = results(client, batch.error_file_id)
        assert [one["error"]["code"] for one in errors] == ["batch_expired"] * 2


def test_files_are_kept_listed_and_deleted(tmp_path):
    with live(new_app(tmp_path)) as url, client_of(url) as client:
        files = [uploaded(client, line(str(i))) for i in range(3)]
        assert files[0].bytes > 50 and files[0].filename == "in.jsonl"
        listed = [one.id for one in client.files.list(order="asc", limit=2).data]
        assert len(listed) == 2 and set(listed) < {one.id for one in files}
        assert {one.id for one in client.files.list()} == {one.id for one in files}
        assert client.files.delete(files[0].id).deleted
        for gone in (files[0].id, "file-../../etc", "file-" + "0" * 32, "x"):
            with pytest.raises(NotFoundError):
                client.files.retrieve(gone)
    with live(new_app(tmp_path)) as url, client_of(url) as client:
        assert {one.id for one in client.files.list()} == {one.id for one in files[1:]}


def test_accounts_see_their_own_only(tmp_path):
    limits = AdmissionLimits()
    ring = KeyRing(limits.accounts, text="ann:key-of-ann-123456;bob:key-of-bob-123456")
    app = new_app(tmp_path, limits=limits, keyring=ring)
    ann_key, bob_key = "key-of-ann-123456", "key-of-bob-123456"
    with live(app) as url, client_of(url, ann_key) as ann, client_of(url, bob_key) as bob:
        batch = created(ann, line("a"))
        ended(ann, batch.id)
        assert not bob.files.list().data and not bob.batches.list().data
        for call in (
            lambda: bob.files.content(batch.input_file_id),
            lambda: bob.files.delete(batch.input_file_id),
            lambda: bob.batches.retrieve(batch.id),
            lambda: bob.batches.cancel(batch.id),
            lambda: bob.batches.create(
                input_file_id=batch.input_file_id,
                endpoint="/v1/chat/completions",
                completion_window="24h",
            ),
        ):
            with pytest.raises(NotFoundError):
                call()


def test_a_state_folder_has_one_server(tmp_path):
    app = new_app(tmp_path)
    with pytest.raises(MachineError, match="another server"):
        new_app(tmp_path)
    del app


FORMS = {
    "purpose": dict(data={"purpose": "fine-tune"}, files={"file": b"x"}),
    "no file": dict(data={"purpose": "batch", "file": "text"}, files={"other": b"x"}),
    "unknown": dict(data={"purpose": "batch", "extra": "1"}, files={"file": b"x"}),
    "two files": dict(data={"purpose": "batch"}, files=[("file", b"x"), ("file", b"y")]),
    "cut": dict(
        content=b"--b\r\nContent-Disposition: form-data; name=file\r\n",
        headers={"content-type": "multipart/form-data; boundary=b"},
    ),
    "no boundary": dict(content=b"x", headers={"content-type": "multipart/form-data"}),
    "json": dict(json={"purpose": "batch"}),
}


def test_requests_that_make_no_sense_are_refused_in_words(tmp_path):
    with live(new_app(tmp_path)) as url, httpx.Client(base_url=url) as http:
        for name, form in FORMS.items():
            reply = http.post("/v1/files", **form)
            assert reply.status_code in (400, 415), name
            assert reply.json()["error"]["message"], name
        file = uploaded(client_of(url), line("a")).id
        batch = {
            "input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h",
        }  # fmt: skip
        for change in (
            {"endpoint": "/v1/images"}, {"completion_window": "1h"}, {"output_expires_after": {}},
            {"metadata": {"a": 3}}, {"input_file_id": None},
        ):  # fmt: skip
            assert http.post("/v1/batches", json=batch | change).status_code == 400, change
        for query in ("limit=0", "limit=x", "after=nobody", "before=x"):
            assert http.get(f"/v1/batches?{query}").status_code == 400, query
        assert http.get("/v1/files?order=up").status_code == 400


def test_without_a_state_folder_they_are_refused_in_words(url):
    with client_of(url) as client:
        with pytest.raises(BadRequestError, match="--state"):
            client.files.list()
        with pytest.raises(BadRequestError, match="--state"):
            client.batches.list()


def test_a_file_that_a_batch_reads_is_not_deleted(tmp_path):
    slow = SlowProgram(257, parrot("abc"))
    with live(new_app(tmp_path, slow)) as url, client_of(url) as client:
        batch = created(client, line("a", max_tokens=2))
        assert httpx.delete(f"{url}/v1/files/{batch.input_file_id}").status_code == 409
        for _ in range(100):
            slow.gate.release()
        ended(client, batch.id)
        assert client.files.delete(batch.input_file_id).deleted
