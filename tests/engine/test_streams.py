"""Answers as they grow, for programs and notebooks; and batches with a bar."""

import asyncio
import threading

import pytest
from fakes import FakeProgram, fake_engine, parrot

from slipstream.engine.request import SamplingParams
from slipstream.engine.service import Service
from slipstream.errors import EngineError

PARAMS = SamplingParams(max_tokens=20, ignore_eos=True)


def talking(**more):
    return fake_engine(FakeProgram(257, parrot("Hello, wörld!")), **more)


def test_a_stream_is_read_where_a_loop_runs_already():
    async def notebook():
        async with talking().astream("Hi>") as stream:
            return "".join([delta.text async for delta in stream])

    assert asyncio.run(notebook()) == "Hello, wörld!"


def test_several_tasks_share_an_engine():
    engine, alone = fake_engine(), fake_engine()

    async def ids_of(number):
        async with engine.astream([number, 1], PARAMS) as stream:
            return [token async for delta in stream for token in delta.ids]

    async def run():
        return await asyncio.gather(*(ids_of(number) for number in range(6)))

    expected = [list(alone.generate([[n, 1]], PARAMS)[0].ids) for n in range(6)]
    assert asyncio.run(run()) == expected
    engine.check()


def test_several_threads_share_an_engine():
    engine, alone = fake_engine(), fake_engine()
    got = {}

    def read(number):
        got[number] = [token for delta in engine.stream([number], PARAMS) for token in delta.ids]

    threads = [threading.Thread(target=read, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert got == {n: list(alone.generate([[n]], PARAMS)[0].ids) for n in range(6)}
    engine.check()


def test_leaving_an_async_stream_cancels():
    engine = talking()

    async def leave():
        async with engine.astream("Hi>") as stream:
            await anext(stream)

    asyncio.run(leave())
    assert engine.idle and engine.snapshot().pages_used == 0


def test_a_cancelled_task_leaves_nothing_behind():
    engine = talking()

    async def run():
        async def read():
            async with engine.astream("Hi>", SamplingParams(max_tokens=900)) as stream:
                async for _ in stream:
                    pass

        task = asyncio.create_task(read())
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    engine.program.answer = parrot("x" * 2000)
    asyncio.run(run())
    assert engine.idle
    engine.check()


def test_a_bar_shows_and_changes_nothing(capsys):
    expected = fake_engine().generate([[1], [2], [3]], PARAMS)
    got = fake_engine().generate([[1], [2], [3]], PARAMS, progress=True)
    assert [c.ids for c in got] == [c.ids for c in expected]
    assert "3/3" in capsys.readouterr().out


def test_several_answers_to_each_prompt_come_side_by_side():
    params = SamplingParams(n=3, temperature=1, seed=7, max_tokens=9)
    engine = fake_engine()
    got = engine.generate([[1] * 100, [2]], params)
    assert [c.prompt_ids[0] for c in got] == [1, 1, 1, 2, 2, 2]
    assert len({c.ids for c in got[:3]}) == 3
    assert [c.cached_tokens for c in got] == [0, 99, 99, 0, 0, 0]
    (first,) = fake_engine().generate(
        [[1] * 100], SamplingParams(temperature=1, seed=7, max_tokens=9)
    )
    assert first.ids == got[0].ids, "the first answer is that of n=1"


def test_logprobs_of_the_prompt_come_with_the_first_token():
    ids = [3, 1, 4, 1, 5, 9, 2, 6] * 12
    params = SamplingParams(max_tokens=3, prompt_logprobs=2, logprobs=True)
    whole = fake_engine(token_budget=200).generate([ids], params)[0]
    assert [entry.id for entry in whole.prompt_logprobs] == ids[1:]
    assert all(len(entry.top) == 2 for entry in whole.prompt_logprobs)
    engine = fake_engine(token_budget=9)
    assert engine.generate([ids, ids], params)[1].prompt_logprobs == whole.prompt_logprobs
    plain = SamplingParams(max_tokens=2, logprobs=True)  # the answer's first is the prompt's next
    other = fake_engine().generate([ids[:50]], plain)[0]
    assert whole.prompt_logprobs[49].top[0] == (other.ids[0], other.logprobs[0].logprob)
    assert [d.prompt_logprobs is None for d in engine.stream(ids, params)] == [False, True, True]


def test_a_deadline_ends_what_runs_and_what_waits():
    now = [0.0]
    engine = fake_engine(max_batch=1, clock=lambda: now[0])
    requests = [
        engine.request([n], PARAMS, timeout_s=t) for n, t in ((1, 5.0), (2, 3.0), (3, 99.0))
    ]
    for request in requests:
        engine.submit(request)
    ends = {}
    while not engine.idle:
        ends |= {d.request_id: d.finish for d in engine.step() if d.finish}
        engine.check()
        now[0] += 1.0
    assert [ends[request.id] for request in requests] == ["timeout", "timeout", "length"]


def test_a_dynamic_batch_that_is_never_full_runs_all_the_same():
    engine = fake_engine(batching="dynamic", max_wait_s=0.02)
    assert len(engine.generate([[1], [2]], PARAMS)) == 2


def run_service(test, engine):
    async def run():
        service = Service(engine)
        service.start()
        try:
            return await test(service)
        finally:
            await service.stop()

    return asyncio.run(run())


def test_functions_are_called_between_steps():
    async def test(service):
        stream = service.submit(service.engine.request([1], PARAMS))
        steps = await service.call(lambda engine: engine.stats.steps)
        ids = [token async for delta in stream for token in delta.ids]
        with pytest.raises(ZeroDivisionError):
            await service.call(lambda engine: 1 // 0)
        return steps, ids

    steps, ids = run_service(test, fake_engine())
    assert steps < 20 and len(ids) == 20


def test_books_that_do_not_balance_end_the_service():
    async def test(service):
        stream = service.submit(service.engine.request([1], PARAMS))
        service.engine.scheduler.state.pools[0].take(1)  # nobody holds it
        assert [delta async for delta in stream][-1].finish == "length"
        while service._thread.is_alive():
            await asyncio.sleep(0.01)
        return service.alive

    assert not run_service(test, fake_engine())


def test_a_call_that_was_not_made_is_refused_in_words():
    async def broken():
        service = Service(fake_engine())
        service.start()

        def give_up(_):
            raise SystemExit

        with pytest.raises(EngineError, match="restart"):
            await service.call(give_up)

    asyncio.run(broken())
