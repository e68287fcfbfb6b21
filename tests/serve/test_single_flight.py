"""Equal requests are computed once, and whoever joins or leaves, everyone gets the whole answer."""

import asyncio
import dataclasses
import random
import threading

import pytest
from fakes import FakeProgram, fake_engine, parrot
from live_server import SlowProgram, run_async

from slipstream.engine.answer import fold
from slipstream.engine.request import SamplingParams
from slipstream.errors import EngineError, UnavailableError
from slipstream.serve.admission import AdmissionLimits
from slipstream.serve.answering import completions, deltas
from slipstream.serve.caller import Caller
from slipstream.serve.response_cache import ResponseCache
from slipstream.serve.response_cache_use import CacheUse
from slipstream.serve.served import Served

TEXT = "The quick brown fox jumps over the lazy dog. " * 4


def served_of(program, cache=None, **more):
    one = Served("fake", fake_engine(program, **more), AdmissionLimits(), cache=cache)
    one.service.start()
    return one


async def requests_of(served, count=1, prompt="Hi>", **params):
    made = await served.requests([prompt] * count, SamplingParams(**params), Caller())
    return made


async def text_of(served, use=None, **params):
    (done,) = await completions(served, await requests_of(served, **params), use)
    return done.text


async def at_rest(served):
    """Nothing is left of any request."""
    for _ in range(200):
        if not served.service.requests_open and not len(served.flights) and served.engine.idle:
            break
        await asyncio.sleep(0.01)
    assert not served.service.requests_open and not len(served.flights)
    await served.service.call(lambda engine: engine.check())
    assert served.engine.idle
    await served.service.stop()


@run_async
async def test_equal_requests_compute_once():
    program = FakeProgram(257, parrot(TEXT))
    served = served_of(program)
    answers = await asyncio.gather(*(text_of(served) for _ in range(20)))
    assert answers == [TEXT] * 20
    assert served.engine.snapshot().answer_tokens_total == len(TEXT) + 1
    await at_rest(served)


@run_async
async def test_a_late_joiner_gets_the_answer_from_its_first_token():
    program = SlowProgram(257, parrot("abcdefgh"))
    served = served_of(program)
    first = asyncio.create_task(text_of(served))
    for _ in range(4):
        program.gate.release()
    while served.engine.snapshot().answer_tokens_total < 4:
        await asyncio.sleep(0.01)
    use = CacheUse()
    late = asyncio.create_task(text_of(served, use))
    await asyncio.sleep(0.05)
    for _ in range(20):
        program.gate.release()
    assert await first == await late == "abcdefgh"
    assert use.told == {"X-Slipstream-Cache": "shared"}
    assert served.engine.snapshot().answer_tokens_total == 9
    await at_rest(served)


@run_async
async def test_the_computation_outlives_the_client_that_began_it():
    program = SlowProgram(257, parrot("abcdefgh"))
    served = served_of(program)
    first, second = (asyncio.create_task(text_of(served)) for _ in range(2))
    program.gate.release()
    await asyncio.sleep(0.1)
    first.cancel()
    await asyncio.sleep(0.05)
    for _ in range(20):
        program.gate.release()
    assert await second == "abcdefgh"
    assert served.engine.snapshot().answer_tokens_total == 9
    await at_rest(served)


@run_async
async def test_the_last_one_to_leave_ends_the_computation():
    program = SlowProgram(257, parrot("abcdefgh" * 20))
    served = served_of(program)
    tasks = [asyncio.create_task(text_of(served)) for _ in range(3)]
    program.gate.release()
    await asyncio.sleep(0.1)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for _ in range(5):
        program.gate.release()
    await at_rest(served)
    assert served.engine.snapshot().answer_tokens_total < 10


@run_async
async def test_draws_without_a_seed_are_not_shared():
    served = served_of(FakeProgram(257, lambda ids: FakeProgram(257).hashed(ids)))
    drawn = await asyncio.gather(
        *(text_of(served, temperature=1.0, max_tokens=40, ignore_eos=True) for _ in range(4))
    )
    assert len(set(drawn)) > 1
    seeded = await asyncio.gather(
        *(text_of(served, temperature=1.0, max_tokens=40, seed=5) for _ in range(4))
    )
    assert len(set(seeded)) == 1
    await at_rest(served)


@run_async
async def test_a_client_that_says_no_store_is_alone():
    served = served_of(FakeProgram(257, parrot("abc")))
    uses = [CacheUse(read=False, share=False) for _ in range(2)]
    assert await asyncio.gather(*(text_of(served, use) for use in uses)) == ["abc"] * 2
    assert [use.told["X-Slipstream-Cache"] for use in uses] == ["bypass"] * 2
    assert served.engine.snapshot().answer_tokens_total == 8
    await at_rest(served)


@run_async
async def test_greedy_siblings_are_computed_once_and_seeded_ones_each():
    served = served_of(FakeProgram(257, parrot("abc")))
    greedy = await completions(served, await requests_of(served, n=3))
    assert [done.text for done in greedy] == ["abc"] * 3
    assert served.engine.snapshot().answer_tokens_total == 4
    seeded = await completions(served, await requests_of(served, n=3, temperature=0.1, seed=3))
    assert [done.text for done in seeded] == ["abc"] * 3
    assert served.engine.snapshot().answer_tokens_total == 16
    await at_rest(served)


@run_async
async def test_each_follower_has_its_own_id_and_times():
    program = SlowProgram(257, parrot("abc"))
    served = served_of(program)
    first = asyncio.create_task(completions(served, await requests_of(served)))
    program.gate.release()
    await asyncio.sleep(0.1)
    second = asyncio.create_task(completions(served, await requests_of(served)))
    await asyncio.sleep(0.05)
    for _ in range(9):
        program.gate.release()
    (one,), (two,) = await first, await second
    assert one.request_id != two.request_id and one.ids == two.ids
    assert one.timings.arrived_s + 0.05 < two.timings.arrived_s <= two.timings.started_s
    assert two.timings.started_s <= two.timings.first_token_s <= two.timings.finished_s
    assert one.timings.answer_tokens == two.timings.answer_tokens == 4
    await at_rest(served)


@run_async
async def test_a_deadline_ends_its_own_request_alone():
    program = SlowProgram(257, parrot("abcdef"))
    served = served_of(program)
    made = await served.requests(["Hi>"], SamplingParams(), Caller(timeout_s=0.2))
    hurried = asyncio.create_task(_collected(served, made))
    patient = asyncio.create_task(text_of(served))
    program.gate.release()
    parts = await hurried
    assert [part.finish for part in parts] == [None, "timeout"]
    assert fold((), parts).text == "a"
    for _ in range(9):
        program.gate.release()
    assert await patient == "abcdef"
    await at_rest(served)


@run_async
async def test_a_stream_that_joins_a_whole_answer_hears_of_every_token():
    program = SlowProgram(257, parrot("abcdef"))
    served = served_of(program)
    whole = asyncio.create_task(text_of(served))
    for _ in range(2):
        program.gate.release()
    while served.engine.snapshot().answer_tokens_total < 2:
        await asyncio.sleep(0.01)
    heard = []

    async def listen():
        async for _, delta in deltas(served, await requests_of(served)):
            heard.append(delta.text)

    listening = asyncio.create_task(listen())
    while served.flights.under_way[0].followers < 2:
        await asyncio.sleep(0.01)
    for tokens in (3, 4, 5):
        program.gate.release()
        while len(heard) < tokens:
            await asyncio.sleep(0.01)
        assert len(heard) == tokens
    for _ in range(3):
        program.gate.release()
    await listening
    assert "".join(heard) == await whole == "abcdef"
    await at_rest(served)


@run_async
async def test_a_whole_answer_knows_when_its_first_token_came():
    program = SlowProgram(257, parrot("ab"))
    served = served_of(program)
    asked = asyncio.create_task(completions(served, await requests_of(served)))
    program.gate.release()
    await asyncio.sleep(0.1)
    for _ in range(3):
        program.gate.release()
    (done,) = await asked
    assert done.timings.first_token_s + 0.05 < done.timings.finished_s
    await at_rest(served)


async def _collected(served, requests):
    return [delta async for _, delta in deltas(served, requests)]


class FailsOnce(FakeProgram):
    """Step `at` fails, once the test has said so."""

    at = 3

    def __init__(self, *args, **more):
        super().__init__(*args, **more)
        self.may_fail = threading.Event()

    def step(self, batch, kv):
        if self.steps == self.at:
            assert self.may_fail.wait(20)
            self.steps += 1
            raise RuntimeError("out of luck")
        return super().step(batch, kv)


@run_async
async def test_an_error_reaches_all_and_the_next_one_is_answered():
    program = FailsOnce(257, parrot("abcdef"))
    served = served_of(program)
    asking = asyncio.gather(*(text_of(served) for _ in range(5)), return_exceptions=True)
    while sum(flight.followers for flight in served.flights.under_way) < 5:
        await asyncio.sleep(0.01)
    program.may_fail.set()
    told = await asking
    assert all(isinstance(one, EngineError) and "out of luck" in str(one) for one in told)
    assert await text_of(served) == "abcdef"
    await at_rest(served)


@run_async
async def test_all_are_told_when_the_server_stops():
    program = SlowProgram(257, parrot("abcdef"))
    served = served_of(program)
    tasks = [asyncio.create_task(text_of(served)) for _ in range(3)]
    await asyncio.sleep(0.05)
    program.gate.release()
    stopping = asyncio.create_task(served.service.stop())
    await asyncio.sleep(0.05)
    program.gate.release()
    told = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(one, UnavailableError) for one in told)
    await stopping
    assert not len(served.flights)


class Sometimes(FakeProgram):
    """A step in forty fails; the rest take a moment, so that requests overlap."""

    def __init__(self, random_, failures, **more):
        super().__init__(257, parrot(TEXT), **more)
        self.random, self.failures, self.pause = random_, failures, threading.Event()

    def step(self, batch, kv):
        self.pause.wait(0.0005)
        if self.random.random() < self.failures:
            raise RuntimeError("out of luck")
        return super().step(batch, kv)


@pytest.mark.parametrize("seed", range(6))
def test_random_joins_leaves_and_failures(seed):
    """Each client gets exactly the one right answer, a prefix of it if it left, or the error."""
    chance = random.Random(seed)
    asyncio.run(_stress(chance, failures=0.02 if seed % 2 else 0))


async def _stress(chance, failures):
    served = served_of(Sometimes(random.Random(chance.random()), failures), max_batch=4)
    prompts = ["a>", "bb>", "ccc>"]
    outcomes = {"whole": 0, "left": 0, "failed": 0}

    async def client():
        await asyncio.sleep(chance.random() * 0.3)
        length = chance.choice([5, 30, 90])
        leaves_after = chance.choice([None, None, 0, 1, 7])
        params = {"max_tokens": length, **chance.choice([{}, {"temperature": 0.01, "seed": 4}])}
        requests = await requests_of(
            served, chance.choice([1, 2]), chance.choice(prompts), **params
        )
        if chance.random() < 0.2:
            requests = [dataclasses.replace(one, priority=1) for one in requests]
        use = CacheUse(read=True, share=chance.random() < 0.9)
        texts, seen = ["" for _ in requests], 0
        stream = deltas(served, requests, use)
        try:
            async for index, delta in stream:
                assert delta.request_id == requests[index].id
                texts[index] += delta.text
                seen += 1
                if seen == leaves_after:
                    break
                if chance.random() < 0.05:
                    await asyncio.sleep(0.01)  # a slow reader
        except EngineError:
            outcomes["failed"] += 1
            assert failures
        else:
            whole = seen != leaves_after
            outcomes["whole" if whole else "left"] += 1
            if whole:
                assert texts == [TEXT[:length]] * len(requests)
        finally:
            await stream.aclose()
        assert all(TEXT.startswith(text) for text in texts)

    await asyncio.gather(*(client() for _ in range(60)))
    assert outcomes["whole"] and outcomes["left"]
    await at_rest(served)


class MemoryStore:
    """A dictionary."""

    size_bytes = 0

    def __init__(self):
        self.values = {}

    async def get(self, key):
        return self.values.get(key)

    async def put(self, key, value):
        self.values[key] = value

    async def close(self):
        pass


class TardyCache(ResponseCache):
    """Its first look misses, and says so only when another request's answer has been kept."""

    looks = 0

    async def find(self, key):
        self.looks += 1
        first = self.looks == 1
        found = await super().find(key)
        while first and not self.stats.kept:
            await asyncio.sleep(0.001)
        return found


@run_async
async def test_a_look_that_missed_what_has_landed_meanwhile_looks_again():
    served = served_of(FakeProgram(257, parrot(TEXT)), cache=TardyCache(MemoryStore()))
    late, early = await asyncio.gather(text_of(served), text_of(served))
    assert late == early == TEXT
    assert served.engine.snapshot().answer_tokens_total == len(TEXT) + 1
    await at_rest(served)
