"""Batches over a fake engine: answered as live requests are, resumed, and each line once."""

import asyncio
import json
import random
from collections import Counter

import httpx
import pytest
from fakes import FakeProgram, fake_engine, parrot
from live_server import run_async

from slipstream.errors import UnavailableError
from slipstream.serve import batch_jobs
from slipstream.serve.admission import AdmissionLimits
from slipstream.serve.app import make_app
from slipstream.serve.batch_answers import RouteAnswers
from slipstream.serve.batch_jobs import BatchRun, LineReply, begun
from slipstream.serve.batch_journal import Journal
from slipstream.serve.batch_lines import read_lines

OK = {"usage": {"prompt_tokens": 2, "completion_tokens": 3}}


def request(custom_id, url="/v1/completions", **body):
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": {"model": "fake"} | body}


def written(tmp_path, requests):
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in requests))
    return read_lines(path)


def new_run(tmp_path, lines, answer, **more):
    journal = Journal(tmp_path / "journal", {"input": lines.digest})
    return BatchRun(lines, journal, answer, begun(lines, journal), **more)


@run_async
async def test_killed_at_random_moments_each_line_is_answered_once(tmp_path):
    """A run that breaks off anywhere, again and again, ends with one result for every line."""
    lines = written(tmp_path, [request(f"id {i}", prompt="x") for i in range(60)])
    answered, rng = Counter(), random.Random(3)
    lethal, enough = 0, asyncio.Event()

    async def answer(line):
        await asyncio.sleep(rng.random() * 0.003)
        answered[line.custom_id] += 1
        if sum(answered.values()) >= lethal:
            enough.set()
        return LineReply(200, "r", OK | {"said": line.custom_id})

    kills = 0
    while True:
        run = new_run(tmp_path, lines, answer, window=5)
        enough.clear()
        lethal = sum(answered.values()) + rng.randrange(15)
        task, killer = asyncio.create_task(run.run()), asyncio.create_task(enough.wait())
        await asyncio.wait([task, killer], return_when=asyncio.FIRST_COMPLETED)
        killer.cancel()
        if task.done():
            break
        task.cancel()
        await asyncio.wait([task])
        kept = len(run.journal)
        run.journal.close()
        assert sum(answered.values()) <= kept + 5 * (kills + 1), "an answered line was lost"
        kills += 1
    assert kills > 2 and set(answered) == set(lines.ids)
    run.journal.write(tmp_path / "out")
    results = [json.loads(text) for text in (tmp_path / "out").read_text().splitlines()]
    assert [one["custom_id"] for one in results] == lines.ids
    assert all(one["response"]["body"]["said"] == one["custom_id"] for one in results)
    assert (run.progress.done, run.progress.failed) == (60, 0)


@run_async
async def test_a_busy_server_is_asked_again(tmp_path, monkeypatch):
    lines = written(tmp_path, [request(str(i), prompt="x") for i in range(8)])
    tries = Counter()

    async def answer(line):
        tries[line.custom_id] += 1
        if tries[line.custom_id] < 3:
            return LineReply([429, 503][len(tries) % 2], "r", {}, retry_after_s=0.001)
        return LineReply(200, "r", OK)

    run = new_run(tmp_path, lines, answer, window=3)
    progress = await run.run()
    assert (progress.done, progress.failed, progress.answer_tokens) == (8, 0, 24)
    assert set(tries.values()) == {3}


@run_async
async def test_a_server_that_takes_nothing_any_more_ends_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(batch_jobs, "PATIENCE_S", 0.01)
    lines = written(tmp_path, [request(str(i), prompt="x") for i in range(8)])

    async def answer(line):
        if line.custom_id == "0":
            return LineReply(200, "r", OK)
        return LineReply(503, "r", {"error": {"message": "gone fishing"}}, 0.005)

    run = new_run(tmp_path, lines, answer, window=2)
    with pytest.raises(UnavailableError, match="gone fishing"):
        await run.run()
    assert len(run.journal) == 1


@run_async
async def test_failures_are_tried_twice_then_told(tmp_path):
    lines = written(tmp_path, [request("once", prompt="x"), request("ever", prompt="x")])
    tries = Counter()

    async def answer(line):
        tries[line.custom_id] += 1
        broken = line.custom_id == "ever" or tries["once"] == 1
        return LineReply(500, "r", {"error": {}}) if broken else LineReply(200, "r", OK)

    progress = await new_run(tmp_path, lines, answer).run()
    assert (progress.done, progress.failed) == (2, 1) and tries == {"once": 2, "ever": 2}


@run_async
async def test_a_run_that_is_not_wanted_begins_no_further_line(tmp_path):
    lines = written(tmp_path, [request(str(i), prompt="x") for i in range(50)])

    async def answer(line):
        await asyncio.sleep(0)
        return LineReply(200, "r", OK)

    run = new_run(tmp_path, lines, answer, window=2)
    run.wanted = lambda: run.progress.done < 10
    await run.run()
    assert 10 <= len(run.journal) <= 12


@run_async
async def test_lines_are_answered_as_live_requests_are(tmp_path):
    """The same bodies over HTTP and in a batch: equal answers and equal refusals."""
    app = make_app(
        fake_engine(FakeProgram(257, parrot("Hello, wörld!")), context=256),
        name="fake",
        limits=AdmissionLimits(max_answer_tokens=50),
    )
    user = [{"role": "user", "content": "Hi>"}]
    requests = [
        request("chat", "/v1/chat/completions", messages=user, max_tokens=9, logprobs=True),
        request("n", "/v1/chat/completions", messages=user, n=2, seed=3, temperature=1.0),
        request("text", prompt="Hi>", max_tokens=4, seed=5, temperature=0.7),
        request("several", prompt=["a>", "b>"], echo=True),
        request("unknown", prompt="x", wonders=1),
        request("model", prompt="x", model="other"),
        request("long", prompt="x" * 300),
        request("many", prompt="x", max_tokens=51),
        request("type", prompt=7),
        request("stream", prompt="x", stream=True),
        request("empty", "/v1/chat/completions"),
    ]
    lines = written(tmp_path, requests)
    async with app.router.lifespan_context(app):
        run = new_run(tmp_path, lines, RouteAnswers(app.state.server), window=4)
        progress = await run.run()
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            for index, one in enumerate(requests):
                ours = run.journal.get(index)["response"]
                if one["custom_id"] == "stream":
                    assert (ours["status_code"], "stream" in str(ours["body"])) == (400, True)
                    continue
                live = await client.post(one["url"], json=one["body"])
                assert ours["status_code"] == live.status_code, one
                assert bare(ours["body"]) == bare(live.json()), one
    assert (progress.done, progress.failed) == (11, 7)


def bare(body):
    """Without what differs from call to call: ids, the time, what the prefix cache had."""
    kept = {key: value for key, value in body.items() if key not in ("id", "created")}
    kept.get("usage", {}).pop("prompt_tokens_details", None)
    return kept
