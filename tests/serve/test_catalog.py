"""Versions come and go while others serve, and no request that was accepted is lost."""

import asyncio
import gc
import random
import threading
import weakref

import pytest
from fakes import FakeProgram, fake_engine, parrot
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from live_server import SlowProgram, run_async

from slipstream.engine.request import SamplingParams
from slipstream.errors import MachineError, RequestError, UnavailableError
from slipstream.serve.admission import AdmissionLimits
from slipstream.serve.answering import completions
from slipstream.serve.caller import Caller
from slipstream.serve.canary import Canary
from slipstream.serve.catalog import Catalog, Served
from slipstream.serve.leases import exchange
from slipstream.serve.loader import Loader, Opened
from slipstream.serve.refusal import ModelNotFound
from slipstream.serve.versions import Conflict


class Paced(FakeProgram):
    """Steps take a moment, so that answers are under way while the catalog changes."""

    def step(self, batch, kv):
        threading.Event().wait(0.001)
        return super().step(batch, kv)


def open_fake(source, options):
    """`source` is what the model says; "broken" cannot be loaded, "big" has no room."""
    if source == "broken":
        raise MachineError("this file is damaged")
    return Opened(fake_engine(Paced(257, parrot(source))), content=source)


def served(name="m", text="one", version="1", program=None):
    engine = fake_engine(program or FakeProgram(257, parrot(text)))
    return Served(name, engine, AdmissionLimits(), version=version, content=text)


def started(*ones):
    catalog = Catalog(ones, loader=Loader(open_one=open_fake))
    catalog.start()
    return catalog


async def ask(catalog, name, who="", pause_s=0.0, **params):
    """What a route does, as far as models are concerned."""
    with exchange():
        one = catalog.choose(name, who)
        if pause_s:
            await asyncio.sleep(pause_s)  # tokenizing, in a queue of threads
        requests = await one.requests(["Hi>"], SamplingParams(**params), Caller())
        (done,) = await completions(one, requests)
    return done.text


@run_async
async def test_a_version_is_loaded_beside_the_one_that_serves():
    catalog = started(served())
    task = catalog.load("m", "two", "2")
    assert [entry.state for entry in catalog.entries()] == ["serving", "loading"]
    assert await ask(catalog, "m") == "one"
    await task
    assert await ask(catalog, "m") == "one"  # still the default
    assert await ask(catalog, "m:2") == "two" and await ask(catalog, "m:1") == "one"
    catalog.set_default("m", "2")
    assert await ask(catalog, "m") == "two"
    catalog.check()
    await catalog.stop()


@run_async
async def test_what_cannot_be_loaded_is_told_and_may_be_tried_again():
    catalog = started(served())
    task = catalog.load("n", "broken")
    with pytest.raises(UnavailableError, match="'n' is being loaded"):
        catalog.choose("n")
    with pytest.raises(MachineError, match="damaged"):
        await task
    (_, failed) = catalog.entries()
    assert (failed.state, failed.error) == ("failed", "this file is damaged")
    with pytest.raises(ModelNotFound, match="this server has 'm'"):
        catalog.choose("n")
    await catalog.load("n", "fine")
    assert await ask(catalog, "n") == "fine"
    with pytest.raises(MachineError):
        await catalog.load("x", "broken")
    await catalog.unload("x")
    assert {entry.name for entry in catalog.entries()} == {"m", "n"}
    await catalog.stop()


@run_async
async def test_names_are_taken_once_and_cannot_be_mistaken():
    catalog = started(served(), served("a:b", "ab"))
    for name, version in (("m", "1"), ("a", "b"), ("m:1", "1")):
        with pytest.raises(Conflict):
            catalog.load(name, "x", version)
    for name, version in (("", "1"), ("m", "a:b"), ("../m", "1"), ("m", ""), ("m\n", "1")):
        with pytest.raises(RequestError):
            catalog.load(name, "x", version)
    assert await ask(catalog, "a:b") == "ab" and await ask(catalog, "a:b:1") == "ab"
    await catalog.stop()


@run_async
async def test_an_old_version_goes_when_its_answers_are_complete():
    program = SlowProgram(257, parrot("old answer"))
    catalog = started(served(program=program))
    await catalog.load("m", "new", "2", default=True)
    await catalog.load("m", "newer", "3")
    running = asyncio.create_task(ask(catalog, "m:1"))
    queued = asyncio.create_task(ask(catalog, "m:1", pause_s=0.2, max_tokens=3))
    await asyncio.sleep(0.1)
    going = catalog.unload("m", "1")
    with pytest.raises(ModelNotFound):
        catalog.choose("m:1")
    with pytest.raises(Conflict, match="is draining"):
        catalog.unload("m", "1")
    assert await ask(catalog, "m") == "new"
    await asyncio.sleep(0.3)
    assert not going.done()
    for _ in range(40):
        program.gate.release()
    assert await running == "old answer" and await queued == "old"
    await going
    assert [entry.version for entry in catalog.entries()] == ["2", "3"]
    await catalog.stop()


@run_async
async def test_a_drain_that_takes_too_long_ends_in_words():
    program = SlowProgram(257, parrot("old answer"))
    catalog = started(served(program=program))
    running = asyncio.create_task(ask(catalog, "m"))
    await asyncio.sleep(0.1)
    going = catalog.unload("m", timeout_s=0.1)
    await asyncio.sleep(0.2)
    for _ in range(3):
        program.gate.release()
    with pytest.raises(UnavailableError):
        await running
    await going
    assert not catalog.entries()
    with pytest.raises(ModelNotFound, match="this server has none"):
        catalog.choose("m")
    await catalog.stop()


@run_async
async def test_nothing_of_an_engine_is_left_when_it_has_gone():
    catalog = started(served())
    await catalog.load("m", "two", "2", default=True)
    await ask(catalog, "m:1")
    gone = weakref.ref(catalog.choose("m:1").engine)
    await catalog.unload("m", "1")
    gc.collect()
    assert gone() is None
    await catalog.stop()


@run_async
async def test_the_default_of_others_is_not_unloaded_and_versions_are_named():
    catalog = started(served(), served(version="2"))
    with pytest.raises(Conflict, match="make another one the default"):
        catalog.unload("m", "1")
    with pytest.raises(RequestError, match="has versions '1', '2'; say which"):
        catalog.unload("m")
    with pytest.raises(ModelNotFound, match="no version '9'"):
        catalog.unload("m", "9")
    catalog.check()
    await catalog.stop()


@run_async
async def test_a_canary_gets_its_share_and_each_caller_one_version():
    catalog = started(served(), served(text="two", version="2"))
    catalog.set_canary("m", Canary("2", 30))
    names = [f"user {n}" for n in range(60)]
    first = [catalog.choose("m", who).version for who in names]
    assert first == [catalog.choose("m", who).version for who in names]
    assert 5 < first.count("2") < 35
    assert {catalog.choose("m").version for _ in range(100)} == {"1", "2"}  # nobody: by request
    await catalog.stop()


@run_async
async def test_work_outside_of_an_exchange_is_waited_for_once_it_is_submitted():
    program = SlowProgram(257, parrot("batch"))
    catalog = started(served(program=program))
    one = catalog.choose("m")
    requests = await one.requests(["Hi>"], SamplingParams(), Caller())
    running = asyncio.create_task(completions(one, requests))
    await asyncio.sleep(0.05)
    going = catalog.unload("m")
    await asyncio.sleep(0.05)
    for _ in range(20):
        program.gate.release()
    assert (await running)[0].text == "batch"
    await going
    await catalog.stop()


class Adaptable:
    """An engine's adapters, faked: a list of names."""

    def __init__(self, engine):
        self.slots = []
        engine.load_adapter = self.load
        engine.unload_adapter = self.slots.remove

    def load(self, name, path):
        if path.name == "broken":
            raise RequestError("this is no adapter")
        self.slots.append(name)
        return type("Loaded", (), {"content_hash": path.name})()


@run_async
async def test_an_adapter_is_a_model_on_its_base():
    base = served()
    adapters = Adaptable(base.engine)
    catalog = started(base, served(text="two", version="2"))
    view = await catalog.load_adapter("poet", "/adapters/poet", "m")
    assert catalog.choose("poet") is view and view.engine is base.engine
    (request,) = await view.requests(["Hi>"], SamplingParams(), Caller())
    assert [request.adapter] == adapters.slots
    (plain,) = await base.requests(["Hi>"], SamplingParams(), Caller())
    assert plain.adapter is None and view.key_of(request) != base.key_of(plain)
    catalog.set_default("m", "2")
    with pytest.raises(Conflict, match="carries the adapters 'poet'"):
        catalog.unload("m", "1")
    with pytest.raises(Conflict, match="called 'poet' already"):
        await catalog.load_adapter("poet", "/x", "m")
    with pytest.raises(Conflict, match="'m:1' is serving already"):
        await catalog.load_adapter("m", "/x", "m")
    with pytest.raises(RequestError, match="is an adapter itself"):
        await catalog.load_adapter("other", "/x", "poet")
    with pytest.raises(RequestError, match="no adapter"):
        await catalog.load_adapter("other", "/x/broken", "m:1")
    assert [one.name for one in catalog.listed()] == ["m", "m", "poet"]
    await catalog.adapters.unload("poet")
    assert not adapters.slots
    with pytest.raises(ModelNotFound):
        await catalog.adapters.unload("poet")
    await catalog.unload("m", "1")
    await catalog.stop()


@run_async
async def test_an_adapter_in_use_is_unloaded_after_its_answers():
    base = served()
    adapters = Adaptable(base.engine)
    catalog = started(base)
    await catalog.load_adapter("poet", "/adapters/poet", "m")
    with exchange():
        catalog.choose("poet")
        going = asyncio.create_task(catalog.adapters.unload("poet"))
        await asyncio.sleep(0.05)
        assert not going.done() and adapters.slots
        with pytest.raises(ModelNotFound):
            catalog.choose("poet")
    await going
    assert not adapters.slots
    await catalog.stop()


@run_async
async def test_an_adapter_that_a_batch_job_runs_with_stays():
    base = served()
    base.engine.load_adapter = Adaptable(base.engine).load

    def refuse(name):
        raise RequestError("in use by 1 requests")

    base.engine.unload_adapter = refuse
    catalog = started(base)
    view = await catalog.load_adapter("poet", "/adapters/poet", "m")
    with pytest.raises(RequestError, match="in use"):
        await catalog.adapters.unload("poet")
    assert catalog.choose("poet") is view
    await catalog.stop()


NAMES, VERSIONS = st.sampled_from(["m", "n"]), st.sampled_from(["1", "2", "3"])


class Transitions(RuleBasedStateMachine):
    """Random loads, unloads, defaults and canaries, with requests under way all the time."""

    def __init__(self):
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.asked, self.going = [], []
        self.chance = random.Random(1)
        self.run(self.begin())

    async def begin(self):
        self.catalog = started(served("m", "m 1"))

    def run(self, work):
        return self.loop.run_until_complete(work)

    @rule(name=NAMES, version=VERSIONS, default=st.booleans(), broken=st.booleans())
    def load(self, name, version, default, broken):
        async def load():
            source = "broken" if broken else f"{name} {version}"
            try:
                self.going.append(self.catalog.load(name, source, version, default=default))
            except Conflict:
                assert self.state(name, version) in ("loading", "serving", "draining")

        self.run(load())

    @rule(name=NAMES, version=VERSIONS)
    def unload(self, name, version):
        async def unload():
            before = self.state(name, version)
            try:
                self.going.append(self.catalog.unload(name, version))
            except Conflict:
                assert before != "failed"
            except ModelNotFound:
                assert before is None

        self.run(unload())

    @rule(name=NAMES, version=VERSIONS, percent=st.sampled_from([None, 0, 40, 100]))
    def point(self, name, version, percent):
        async def point():
            try:
                if percent is None:
                    self.catalog.set_default(name, version)
                else:
                    self.catalog.set_canary(name, Canary(version, percent) if percent else None)
            except (Conflict, RequestError, ModelNotFound):
                pass

        self.run(point())

    @rule(name=NAMES, version=VERSIONS | st.none(), count=st.integers(1, 3))
    def ask(self, name, version, count):
        async def ask_some():
            label = name if version is None else f"{name}:{version}"
            for _ in range(count):
                self.asked.append(asyncio.create_task(self.client(label, name, version)))
            await asyncio.sleep(0)

        self.run(ask_some())

    async def client(self, label, name, version):
        try:
            self.catalog.choose(label)
        except (ModelNotFound, UnavailableError):
            return  # refused at once, in words
        text = await ask(self.catalog, label, pause_s=self.chance.choice([0, 0.005, 0.02]))
        assert text[:1] == name and (version is None or text == f"{name} {version}")

    @rule(seconds=st.sampled_from([0.0, 0.002, 0.01]))
    def wait(self, seconds):
        self.run(asyncio.sleep(seconds))

    @precondition(lambda self: len(self.going) > 3)
    @rule()
    def settle(self):
        self.run(asyncio.wait(self.going))
        self.going.clear()

    def state(self, name, version):
        entries = {(entry.name, entry.version): entry.state for entry in self.catalog.entries()}
        return entries.get((name, version))

    @invariant()
    def books_balance(self):
        self.catalog.check()

    def teardown(self):
        async def end():
            for result in await asyncio.gather(*self.asked, return_exceptions=True):
                assert result is None, f"an accepted request was lost: {result!r}"
            for result in await asyncio.gather(*self.going, return_exceptions=True):
                assert not isinstance(result, BaseException) or "damaged" in str(result)
            for one in self.catalog:
                await one.service.call(lambda engine: engine.check())
                assert one.engine.idle and not len(one.flights)
            await self.catalog.stop()

        self.run(end())
        self.loop.close()


Transitions.TestCase.settings = settings(max_examples=15, stateful_step_count=30, deadline=None)
TestTransitions = Transitions.TestCase
