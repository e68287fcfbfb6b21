"""The engine on the real model: promise 1 across batches, chunks and threads, and a known answer."""

import random

import pytest

from slipstream.engine.engine import Engine
from slipstream.engine.options import EngineOptions
from slipstream.engine.request import SamplingParams
from slipstream.models.load import load

pytestmark = pytest.mark.slow

PROMPTS = [
    "What is the capital of France?",
    "Write one sentence about rain.",
    "Count from one to five.",
    "Name three colors, separated by commas. " * 12,
]


@pytest.fixture(scope="module")
def model(smollm2_path):
    return load(smollm2_path)


def open_engine(model, **options):
    return Engine.open(model, EngineOptions(context=1024, **options))


def test_it_knows_the_capital_of_france(model):
    engine = open_engine(model, activations="f32", max_batch=1)
    completion = engine.chat(
        [{"role": "user", "content": PROMPTS[0]}], SamplingParams(max_tokens=20)
    )
    assert "Paris" in completion.text and completion.finish == "stop"


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_bits_are_those_of_the_request_alone(model, temperature):
    """Alone and whole; then together, in small chunks, set back for want of pages, on 1 and 2 threads."""
    params = [
        SamplingParams(
            temperature=temperature, seed=n, max_tokens=24, logprobs=True, ignore_eos=True
        )
        for n in range(len(PROMPTS))
    ]
    alone = open_engine(model, max_batch=1, token_budget=1024, threads=1)
    prompts = [alone.chat_ids([{"role": "user", "content": text}]) for text in PROMPTS]
    expected = [alone.generate([p], how)[0] for p, how in zip(prompts, params, strict=True)]
    for threads, budget in ((1, 17), (2, 64), (2, 5)):
        together = open_engine(model, max_batch=4, token_budget=budget, threads=threads)
        got = run_mixed(together, prompts, params)
        for one, other in zip(expected, got, strict=True):
            assert one.ids == other["ids"] and one.logprobs == other["logprobs"]
        together.check()


def run_mixed(engine, prompts, params):
    """Requests that come in one after the other while earlier ones run."""
    chance = random.Random(1)
    got = {}
    for ids, how in zip(prompts, params, strict=True):
        request = engine.request(ids, how)
        got[request.id] = {"ids": (), "logprobs": ()}
        engine.submit(request)
        for _ in range(chance.randrange(4)):
            collect(engine, got)
    while not engine.idle:
        collect(engine, got)
    return list(got.values())


def collect(engine, got):
    for delta in engine.step():
        got[delta.request_id]["ids"] += delta.ids
        got[delta.request_id]["logprobs"] += delta.logprobs


def test_a_request_set_back_goes_on_bit_by_bit(model):
    """Pages for one and a half requests: the later one is computed again."""
    params = SamplingParams(max_tokens=100, ignore_eos=True, logprobs=True)
    alone = open_engine(model, max_batch=2)
    prompts = [list(range(1000, 1100)), list(range(2000, 2100))]
    expected = [alone.generate([prompt], params)[0] for prompt in prompts]
    page_bytes = alone.kv.size_bytes // alone.kv.page_count
    tight = Engine.open(
        model, EngineOptions(context=320, max_batch=2, kv_memory_bytes=6 * page_bytes)
    )
    got = tight.generate(prompts, params)
    assert tight.snapshot().preemptions_total > 0
    for one, other in zip(expected, got, strict=True):
        assert one.ids == other.ids and one.logprobs == other.logprobs
