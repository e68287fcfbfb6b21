"""The engine's adapters: named by requests, batched together, never mixed up, never pulled away."""

import sys
from pathlib import Path

import numpy as np
import pytest
from fakes import ByteTokenizer

sys.path.insert(0, str(Path(__file__).parent.parent / "backends"))

from adapter_worlds import random_adapter, tiny_model

from slipstream.backends.native import NativeOptions, compile_native, native_module
from slipstream.engine.adapters import Adapters
from slipstream.engine.engine import Engine
from slipstream.engine.options import EngineOptions, resolve
from slipstream.engine.request import SamplingParams
from slipstream.errors import MachineError, RequestError, UnsupportedError
from slipstream.machine import machine

try:
    native_module()
except MachineError:
    pytest.skip("the native kernels were not built", allow_module_level=True)

SHAPES = {
    f"model.layers.{layer}.self_attn.{part}_proj": shape
    for layer in (0, 1)
    for part, shape in {"q": (80, 64), "v": (40, 64), "o": (64, 80)}.items()
}
GREEDY = SamplingParams(max_tokens=12, ignore_eos=True)
PROMPT = list(range(1, 90))  # more than a page, so that prefixes are kept


def new_engine(**options) -> Engine:
    graph, weights = tiny_model("llama")
    settings = resolve(EngineOptions(context=512, max_batch=8, **options), graph, machine())
    return Engine(compile_native(graph, weights, NativeOptions(1)), ByteTokenizer(), settings)


def adapter(seed):
    return random_adapter(SHAPES, seed, size=1.0)


def answers(engine, names, prompts=None, params=GREEDY):
    """The ids of one answer for each adapter name, all under way together."""
    prompts = prompts or [PROMPT] * len(names)
    requests = [
        engine.request(p, params, adapter=name) for p, name in zip(prompts, names, strict=True)
    ]
    for request in requests:
        engine.submit(request)
    ids = {request.id: [] for request in requests}
    while not engine.idle:
        for delta in engine.step():
            ids[delta.request_id] += delta.ids
        engine.check()
    return list(ids.values())


def test_requests_run_with_the_adapter_they_name():
    engine = new_engine()
    plain = answers(engine, [None])[0]
    engine.load_adapter("a", adapter(1))
    engine.load_adapter("b", adapter(2))
    alone = {name: answers(new_with("a", "b"), [name])[0] for name in ("a", "b", None)}
    assert alone[None] == plain and len({tuple(ids) for ids in alone.values()}) == 3
    names = ["a", None, "b", "b", "a", None, "a", "b", None]
    assert answers(engine, names) == [alone[name] for name in names]
    assert answers(engine, names) == [alone[name] for name in names]  # from the prefix cache


def new_with(*names):
    engine = new_engine()
    for seed, name in enumerate(names, start=1):
        engine.load_adapter(name, adapter(seed))
    return engine


def test_prefixes_of_one_adapter_are_not_taken_for_another():
    engine = new_with("a", "b")
    expected = answers(new_with("a", "b"), ["b"])[0]
    answers(engine, ["a", None])
    assert answers(engine, ["b"])[0] == expected


def test_a_name_that_stands_for_other_values_forgets_the_old_ones():
    engine = new_with("a")
    before = answers(engine, ["a"])[0]
    key = engine.adapter_key("a")
    engine.unload_adapter("a")
    engine.load_adapter("a", adapter(2))
    assert engine.adapter_key("a") != key
    assert answers(engine, ["a"])[0] == answers(new_with("x", "a"), ["a"])[0] != before


def test_what_a_request_runs_with_is_not_unloaded():
    engine = new_with("a", "b")
    request = engine.request(PROMPT, GREEDY, adapter="a")
    engine.submit(request)
    engine.step()
    with pytest.raises(RequestError, match="in use by 1"):
        engine.unload_adapter("a")
    engine.unload_adapter("b")
    engine.cancel(request.id)
    engine.unload_adapter("a")
    assert len(engine.adapters) == 0 and engine.adapters.size_bytes == 0
    engine.adapters.check()


def test_unknown_adapters_are_refused_in_words():
    engine = new_with("a")
    request = engine.request(PROMPT, GREEDY, adapter="b")
    with pytest.raises(RequestError, match="no adapter is called 'b'; loaded are 'a'"):
        engine.submit(request)
    assert engine.idle
    with pytest.raises(RequestError, match="'b'"):
        engine.unload_adapter("b")
    with pytest.raises(RequestError, match="already"):
        engine.load_adapter("a", adapter(1))
    with pytest.raises(UnsupportedError, match="no linear"):
        engine.load_adapter("c", random_adapter({"model.layers.7.mlp.up_proj": (3, 3)}))
    assert [one.name for one in engine.adapters] == ["a"]


def test_slots_are_used_again_and_counted():
    program = new_engine().program
    adapters = Adapters(program, most=2)
    adapters.load("a", adapter(1))
    adapters.load("b", adapter(2))
    with pytest.raises(RequestError, match="most"):
        adapters.load("c", adapter(3))
    adapters.unload("a", in_use=0)
    loaded, replaces = adapters.load("c", adapter(3))
    assert (loaded.slot, loaded.rank, replaces) == (0, 5, False)
    assert loaded.size_bytes == adapter(3).size_bytes <= adapters.size_bytes
    adapters.check()


def test_prompts_offline_run_with_an_adapter():
    engine = new_with("a")
    expected = answers(new_with("a"), ["a"])[0]
    assert [list(one.ids) for one in engine.generate([PROMPT], GREEDY, adapter="a")] == [expected]
    beams = SamplingParams(max_tokens=4, beam_width=2, ignore_eos=True)
    plain, adapted = (engine.generate([PROMPT], beams, adapter=a)[0].ids for a in (None, "a"))
    assert plain != adapted


def test_embeddings_are_computed_with_an_adapter():
    engine = new_with("a")
    plain, adapted = (engine.embed([PROMPT], adapter=name)[0] for name in (None, "a"))
    assert not np.array_equal(plain, adapted)
    np.testing.assert_array_equal(plain, new_engine().embed([PROMPT])[0])
