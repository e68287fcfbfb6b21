"""Life of a server: clients that leave, full queues, failing steps, health, metrics, draining."""

import asyncio
import time

import httpx
import numpy as np
import pytest
from fakes import FakeProgram, fake_engine, parrot
from live_server import live, run_async

from slipstream.serve.app import make_app

CHAT = {"model": "fake", "messages": [{"role": "user", "content": "Hi"}]}


def wait_for(condition, seconds=20, pause=0.01):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(pause)


def release(program, steps):
    for _ in range(steps):
        program.gate.release()


def step_until_idle(program, engine):
    """Lets one step after another run: a cancellation is seen between two of them."""
    wait_for(lambda: release(program, 1) or engine.idle, pause=0.05)


async def post(client, **more):
    return await client.post("/v1/chat/completions", json={**CHAT, **more})


@run_async
async def test_a_client_that_leaves_a_stream_frees_its_pages(gated):
    url, program, engine = gated
    async with httpx.AsyncClient(base_url=url) as client:
        release(program, 3)
        async with client.stream(
            "POST", "/v1/chat/completions", json={**CHAT, "stream": True}
        ) as r:
            async for line in r.aiter_lines():
                assert line.startswith("data: ")
                break
    await asyncio.to_thread(step_until_idle, program, engine)
    assert engine.snapshot().pages_used == 0


@run_async
async def test_a_client_that_leaves_while_it_waits_frees_its_pages(gated):
    url, program, engine = gated
    async with httpx.AsyncClient(base_url=url, timeout=1) as client:
        with pytest.raises(httpx.ReadTimeout):
            await post(client)
    await asyncio.to_thread(step_until_idle, program, engine)
    assert engine.snapshot().answer_tokens_total < 4000  # it might have written 4,096
    async with httpx.AsyncClient(base_url=url) as client:
        counts = (await client.get("/metrics")).text
    assert (
        'request_success_total{finished_reason="abort",model_name="fake",version="1"} 1.0' in counts
    )


@run_async
async def test_a_full_queue_says_when_to_come_back(gated):
    url, program, _ = gated
    async with httpx.AsyncClient(base_url=url, timeout=10) as client:
        tasks = [asyncio.create_task(post(client, max_tokens=5)) for _ in range(3)]
        await asyncio.sleep(0.3)
        refused = await post(client)
        assert refused.status_code == 429 and int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert "3 requests" in refused.json()["error"]["message"]
        release(program, 30)
        assert [r.status_code for r in await asyncio.gather(*tasks)] == [200] * 3


@run_async
async def test_a_request_joins_the_running_batch(gated):
    url, program, _ = gated
    async with httpx.AsyncClient(base_url=url, timeout=10) as client:
        first = asyncio.create_task(post(client, max_tokens=9))
        release(program, 3)
        await asyncio.sleep(0.2)
        second = asyncio.create_task(post(client, max_tokens=4))
        await asyncio.sleep(0.2)
        release(program, 20)
        answers = [
            r.json()["choices"][0]["message"]["content"] for r in (await first, await second)
        ]
    assert answers == ["abcdefghi", "abcd"]
    assert program.steps < 13  # alone one after the other it would take 13


class Fails(FakeProgram):
    """Its third step fails, once."""

    def step(self, batch, kv):
        if self.steps == 2:
            self.steps += 1
            raise RuntimeError("out of luck")
        return super().step(batch, kv)


def test_a_failed_step_is_told_and_the_server_goes_on():
    with (
        live(make_app(fake_engine(Fails(257, parrot("Hello"))), name="fake")) as url,
        httpx.Client(base_url=url) as client,
    ):
        failed = client.post("/v1/chat/completions", json=CHAT)
        assert failed.status_code == 500 and "out of luck" in failed.json()["error"]["message"]
        answered = client.post("/v1/chat/completions", json=CHAT)
        assert answered.json()["choices"][0]["message"]["content"] == "Hello"


def test_a_failure_within_a_stream_is_told_in_the_stream():
    with (
        live(make_app(fake_engine(Fails(257, parrot("Hello"))), name="fake")) as url,
        httpx.Client(base_url=url) as client,
    ):
        text = client.post("/v1/chat/completions", json={**CHAT, "stream": True}).text
    assert '"content":"H"' in text and "out of luck" in text
    assert text.endswith("data: [DONE]\n\n")


def test_logits_that_are_not_numbers_are_told():
    program = FakeProgram(257, lambda ids: np.full(257, np.nan, np.float32))
    with live(make_app(fake_engine(program), name="fake")) as url:
        reply = httpx.post(f"{url}/v1/chat/completions", json=CHAT)
    assert reply.status_code == 500 and "not finite" in reply.json()["error"]["message"]


def test_health_and_metrics(http):
    http.post("/v1/chat/completions", json=CHAT)
    http.post("/v1/chat/completions", json={**CHAT, "n": 0})
    assert http.get("/health").json() == {"status": "ok"}
    text = http.get("/metrics").text
    for line in (
        'slipstream:num_requests_running{model_name="fake",version="1"} 0.0',
        'slipstream:kv_cache_usage_perc{model_name="fake",version="1"} 0.0',
        'slipstream:request_success_total{finished_reason="stop",model_name="fake",version="1"}',
        'slipstream:time_to_first_token_seconds_count{model_name="fake",version="1"}',
        'slipstream:inter_token_latency_seconds_bucket{le="0.01",model_name="fake",version="1"}',
        'slipstream:generation_tokens_total{model_name="fake",version="1"}',
        'slipstream:request_refused_total{status="400"}',
    ):
        assert line in text, line


def test_what_is_open_is_answered_before_the_server_stops():
    program = FakeProgram(257, parrot("Hello"))
    with (
        live(make_app(fake_engine(program), name="fake")) as url,
        httpx.Client(base_url=url) as client,
    ):
        stream = client.stream("POST", "/v1/chat/completions", json={**CHAT, "stream": True})
        with stream as response:
            lines = response.iter_lines()
            next(lines)
            rest = list(lines)
    assert rest[-2] == "data: [DONE]"
