"""The engine on its own thread: every client gets its deltas, a refusal in words, or was cancelled."""

import asyncio
import functools
import random
from contextlib import asynccontextmanager

import numpy as np
import pytest
from fakes import FakeProgram, fake_engine, parrot

from slipstream.engine.request import SamplingParams
from slipstream.engine.service import Service
from slipstream.errors import EngineError, NumericError, UnavailableError


def run_async(test):
    @functools.wraps(test)
    def run():
        asyncio.run(asyncio.wait_for(test(), 30))

    return run


@asynccontextmanager
async def serving(engine):
    service = Service(engine)
    service.start()
    try:
        yield service
    finally:
        await service.stop()
        engine.check()
        assert engine.idle and engine.snapshot().pages_used == 0


def talking(**more):
    return fake_engine(FakeProgram(257, parrot("Hello, wörld!")), **more)


async def text_of(stream):
    with stream:
        return "".join([delta.text async for delta in stream])


@run_async
async def test_each_client_gets_its_own_answer():
    async with serving(fake_engine(max_batch=4)) as service:
        params = SamplingParams(max_tokens=20)
        requests = [service.engine.request([n % 16, 1], params) for n in range(12)]

        async def ids_of(request):
            with service.submit(request) as stream:
                return [token async for delta in stream for token in delta.ids]

        got = await asyncio.gather(*map(ids_of, requests))
    alone = fake_engine()
    for request, ids in zip(requests, got, strict=True):
        assert list(alone.generate([request.prompt_ids], params)[0].ids) == ids


@run_async
async def test_leaving_early_cancels():
    async with serving(talking()) as service:
        with service.submit(service.engine.request("Hi>")) as stream:
            await anext(stream)
        assert service.requests_open == 0
        assert [delta async for delta in stream] == []


@run_async
async def test_a_failed_step_reaches_every_client_and_the_next_is_served():
    def broken(ids):
        raise ValueError("the kernel is broken")

    program = FakeProgram(257, broken)
    async with serving(fake_engine(program)) as service:
        streams = [service.submit(service.engine.request("Hi>")) for _ in range(3)]
        for stream in streams:
            with pytest.raises(EngineError, match="the kernel is broken"):
                await text_of(stream)
        program.answer = parrot("fine")
        assert await text_of(service.submit(service.engine.request("Hi>"))) == "fine"


@run_async
async def test_a_step_that_breaks_off_with_half_of_its_books_done_is_forgotten_whole():
    engine = talking()

    def broken(count):
        raise AssertionError("no page is where it should be")

    engine.scheduler.state.pools[0].take = broken  # after the request has left the queue
    async with serving(engine) as service:
        with pytest.raises(EngineError, match="no page is where"):
            await text_of(service.submit(engine.request("Hi>")))
        assert await text_of(service.submit(engine.request("Hi>"))) == "Hello, wörld!"
        engine.check()


@run_async
async def test_a_request_without_a_next_token_fails_alone():
    talk = parrot("fine")

    def answer(ids):
        return np.full(257, np.nan, np.float32) if ids[0] == ord("X") else talk(ids)

    async with serving(fake_engine(FakeProgram(257, answer))) as service:
        lost, other = (service.submit(service.engine.request(text)) for text in ("X>", "Hi>"))
        with pytest.raises(NumericError, match="not finite"):
            await text_of(lost)
        assert await text_of(other) == "fine" and service.requests_open == 0
        service.engine.check()


@run_async
async def test_draining_answers_what_is_open_and_takes_no_more():
    async with serving(talking()) as service:
        streams = [service.submit(service.engine.request("Hi>")) for _ in range(5)]
        await service.drain()
        assert not service.alive and service.requests_open == 0
        assert [await text_of(stream) for stream in streams] == ["Hello, wörld!"] * 5
        with pytest.raises(UnavailableError, match="stopping"):
            service.submit(service.engine.request("Hi>"))


@run_async
async def test_stopping_tells_those_who_wait():
    service = Service(fake_engine(FakeProgram(257, parrot("x" * 900))))
    service.start()
    stream = service.submit(service.engine.request("Hi>"))
    await anext(stream)
    await service.stop()
    with pytest.raises(UnavailableError, match="stopped"):
        await text_of(stream)


@run_async
async def test_an_idle_service_drains_and_stops_at_once():
    async with serving(talking()) as service:
        assert service.alive
        await service.drain()


@run_async
async def test_random_comings_and_goings_leave_nothing_behind():
    chance = random.Random(7)
    async with serving(fake_engine(max_batch=4, page_count=24, context=512)) as service:

        async def visit():
            await asyncio.sleep(chance.random() * 0.05)
            prompt = [chance.randrange(16) for _ in range(chance.randint(1, 120))]
            params = SamplingParams(max_tokens=chance.randint(1, 60), temperature=1, seed=1)
            patience = chance.choice([1, 3, 1000])
            with service.submit(service.engine.request(prompt, params)) as stream:
                async for _ in stream:
                    patience -= 1
                    if not patience:
                        break

        await asyncio.gather(*(visit() for _ in range(150)))
        assert service.requests_open == 0


@run_async
async def test_a_thread_that_dies_leaves_nobody_waiting():
    engine = talking()

    def broken():
        raise AssertionError("our own mistake")

    engine.step = engine.start_afresh = broken
    service = Service(engine)
    service.start()
    stream = service.submit(engine.request("Hi>"))
    with pytest.raises(EngineError, match="restart the server"):
        await text_of(stream)
    assert not service.alive
    with pytest.raises(UnavailableError):
        service.submit(engine.request("Hi>"))
