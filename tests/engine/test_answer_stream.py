"""A reader gets all that has come in one go; a patient one is woken once, at the end."""

import asyncio

import pytest
from fakes import FakeProgram, fake_engine, parrot

from slipstream.engine.answer import Delta
from slipstream.engine.answer_stream import AnswerStream
from slipstream.engine.service import Service
from slipstream.errors import EngineError


def stream_of(cancelled, patient=False):
    request = fake_engine().request([1, 2])
    return AnswerStream(request, cancelled.append, patient=patient)


def delta(text, finish=None):
    return Delta(1, (7,), text, finish=finish)


def test_what_has_come_meanwhile_is_read_at_once():
    async def reads():
        stream = stream_of([])
        stream.hear(delta("a"))
        stream.hear(delta("b"))
        assert [d.text for d in await stream.more()] == ["a", "b"]
        later = asyncio.create_task(stream.more())
        await asyncio.sleep(0)
        assert not later.done()
        stream.hear(delta("c", "stop"))
        assert [d.text for d in await later] == ["c"]
        assert await stream.more() == []

    asyncio.run(reads())


def test_a_patient_reader_waits_for_the_whole_answer():
    async def reads():
        stream = stream_of([], patient=True)
        later = asyncio.create_task(stream.more())
        for text in "abc":
            stream.hear(delta(text))
            await asyncio.sleep(0)
            assert not later.done()
        stream.hear(delta("d", "length"))
        assert "".join(d.text for d in await later) == "abcd"

    asyncio.run(reads())


@pytest.mark.parametrize("patient", [False, True])
def test_an_error_comes_after_what_was_said_before_it(patient):
    async def reads():
        cancelled = []
        with stream_of(cancelled, patient) as stream:
            stream.hear(delta("a"))
            stream.hear(EngineError("broken"))
            assert [d.text for d in await stream.more()] == ["a"]
            with pytest.raises(EngineError, match="broken"):
                await stream.more()
            assert await stream.more() == []
        assert not cancelled

    asyncio.run(reads())


def test_a_reader_that_was_cancelled_loses_nothing():
    async def reads():
        cancelled = []
        with stream_of(cancelled) as stream:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(stream), 0.01)
            stream.hear(delta("a"))
            assert (await anext(stream)).text == "a"
        assert cancelled == [stream.request.id]

    asyncio.run(reads())


def test_the_texts_of_a_step_are_handed_over_while_the_next_one_computes():
    """A program whose second step does not end until the first one's text was read."""

    async def reads():
        loop, read = asyncio.get_running_loop(), asyncio.Event()

        class Waiting(FakeProgram):
            def step(self, batch, kv):
                if self.steps == 1:
                    asyncio.run_coroutine_threadsafe(read.wait(), loop).result(20)
                return super().step(batch, kv)

        service = Service(fake_engine(Waiting(257, parrot("ab"))))
        service.start()
        with service.submit(service.engine.request([ord(">")])) as stream:
            assert (await stream.more())[0].text == "a"
            read.set()
            assert (await stream.more())[0].text == "b"
        await service.stop()

    asyncio.run(reads())


class Rounds:
    """A service over a parrot of `text`, counting how often it hands over to the event loop."""

    def __init__(self, text, **more):
        self.service = Service(fake_engine(FakeProgram(257, parrot(text)), context=4096, **more))
        self.service.start()
        self.counts = []
        deliver = self.service._deliver
        self.service._deliver = lambda computed: (self.counts.append(computed), deliver(computed))

    async def text_of(self, patient):
        request = self.service.engine.request([ord(">")])
        with self.service.submit(request, patient=patient) as stream:
            return "".join([delta.text async for delta in stream])


def test_the_loop_is_woken_once_for_an_answer_that_is_wanted_whole():
    async def asks():
        rounds = Rounds("abcdefgh" * 8)
        assert await rounds.text_of(patient=True) == "abcdefgh" * 8
        assert len(rounds.counts) == 1
        assert await rounds.text_of(patient=False) == "abcdefgh" * 8
        assert len(rounds.counts) == 1 + 65, "a stream hears of every token"
        await rounds.service.stop()

    asyncio.run(asks())


def test_what_a_patient_client_waits_for_does_not_pile_up():
    async def asks():
        rounds = Rounds("abcdefgh" * 300)
        assert await rounds.text_of(patient=True) == "abcdefgh" * 300
        assert [len(kept) for kept in rounds.counts] == [1025, 1025, 351]
        await rounds.service.stop()

    asyncio.run(asks())


def test_a_stream_beside_a_whole_answer_waits_for_nothing():
    async def asks():
        rounds = Rounds("abcdefgh" * 8, max_batch=4)
        texts = await asyncio.gather(*map(rounds.text_of, (True, False, True)))
        assert texts == ["abcdefgh" * 8] * 3
        assert len(rounds.counts) >= 65
        await rounds.service.stop()

    asyncio.run(asks())
