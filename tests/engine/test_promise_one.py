"""Promise 1, in full: a request's tokens and log-probabilities are the same bits, always.

Each request is answered alone first: whole prompt, one thread, nothing cached. Then all of them
come at random moments into engines that batch, chunk, share prompts, run out of pages, use two
threads, or were opened anew; over every weight format and every format of keys and values.
"""

import random
from itertools import product
from typing import get_args, get_type_hints

import ml_dtypes
import numpy as np
import pytest
from fakes import ByteTokenizer

from slipstream.backends.native import NativeOptions, compile_native, native_module
from slipstream.engine.engine import Engine
from slipstream.engine.options import EngineOptions, Settings
from slipstream.engine.request import SamplingParams
from slipstream.engine.scheduler import Limits
from slipstream.errors import MachineError
from slipstream.formats.affine import quantize_affine
from slipstream.formats.affine_tensor import Zero
from slipstream.formats.codebook import Codebook, CodebookName
from slipstream.formats.codebook_round import quantize_codebook
from slipstream.formats.ggml import GGML_TYPES, to_tensor
from slipstream.formats.kv import KVType
from slipstream.formats.tensor import Affine, DenseTensor, NestedTensor
from slipstream.models.load import load
from slipstream.models.registry import blueprint_of

try:
    native_module()
except MachineError:
    pytest.skip("the native kernels were not built", allow_module_level=True)

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 97,
    "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
    "max_position_embeddings": 1024, "rms_norm_eps": 1e-5, "rope_theta": 1e4,
}  # fmt: skip
WINDOWED = CONFIG | {
    "architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": 40,
}  # fmt: skip
MIXED = CONFIG | {
    "architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "num_hidden_layers": 4,
    "sliding_window": 40, "query_pre_attn_scalar": 32, "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0, "hidden_activation": "gelu_pytorch_tanh",
}  # fmt: skip
WIDE = CONFIG | {"hidden_size": 256, "head_dim": 64}  # whole blocks of 256 weights
CONTEXT = 512
KV_TYPES = get_args(KVType)
WEIGHTS = {
    "float32": np.float32,
    "bfloat16": ml_dtypes.bfloat16,
    "int8-row": Affine(8, None),
    "int8-32-minimum": Affine(8, 32, "minimum"),
    "int4-32": Affine(4, 32),
    "int4-64": Affine(4, 64),
    "int4-128": Affine(4, 128),
    "int4-32-minimum": Affine(4, 32, "minimum"),
    "int4-128-zero-point": Affine(4, 128, "zero_point"),
    "int3-64": Affine(3, 64),
    "int2-32-minimum": Affine(2, 32, "minimum"),
    "int5-32": Affine(5, 32),
    "int5-32-minimum": Affine(5, 32, "minimum"),
    "int6-16": Affine(6, 16),
    "nf4-64": Codebook("nf4", 64),
    "iq4_nl-32": Codebook("iq4_nl", 32),
    "mxfp4-32": Codebook("mxfp4", 32),
}
GGML = ("Q5_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS", "MXFP4")  # as files hold them
HALVES = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}


def stored(values, kind):
    """Weights of a format; those of GGML's names are random blocks of that type."""
    if not isinstance(kind, Affine | Codebook | str):
        return DenseTensor(values.astype(kind))
    if values.ndim == 1:
        return DenseTensor(values)
    if isinstance(kind, Affine):
        return quantize_affine(values, kind)
    if isinstance(kind, Codebook):
        return quantize_codebook(values, kind)
    number, block = next((n, t) for n, t in GGML_TYPES.items() if t.name == kind)
    draw = np.random.default_rng(values.size)
    raw = draw.integers(0, 256, (values.size // block.block, block.bytes), dtype=np.uint8)
    for at in HALVES.get(kind, (0,)):
        scale = draw.normal(0, 0.002, (len(raw), 1)).astype(np.float16)
        raw[:, at : at + 2] = scale.view(np.uint8)
    if kind == "MXFP4":
        raw[:, 0] = draw.integers(119, 123, len(raw))
    return to_tensor(raw.reshape(-1), number, values.shape)


def compiled(config, kind, kv_dtype, threads, activations="auto"):
    blueprint = blueprint_of(config)
    rng = np.random.default_rng(3)
    weights = {}
    for name, shape in blueprint.shapes.items():
        values = rng.normal(0, 0.12, shape).astype(np.float32)
        weights[name] = stored(values + (len(shape) == 1), kind)
    options = NativeOptions(threads=threads, kv_dtype=kv_dtype, activations=activations)
    return compile_native(blueprint.graph, weights, options)


def engine_of(program, *, max_batch, budget, pages, prefix_cache=True) -> Engine:
    settings = Settings(
        backend="native",
        limits=Limits(max_batch, budget, windows=program.graph.windows),
        context=CONTEXT,
        page_counts=(pages,) * len(program.graph.windows),
        kv_dtype="bfloat16",
        activations="auto",
        threads=None,
        prefix_cache=prefix_cache,
    )
    return Engine(program, ByteTokenizer(), settings)


def random_jobs(chance, count, vocabulary, longest=150):
    """(prompt, params): many begin alike, some have several answers, some are drawn."""
    system = [chance.randrange(vocabulary) for _ in range(130)]
    jobs = []
    for number in range(count):
        own = [chance.randrange(vocabulary) for _ in range(chance.choice([1, 20, 64, longest]))]
        prompt = system[: chance.choice([0, 64, 100, 130])] + own
        params = SamplingParams(
            temperature=chance.choice([0.0, 0.9]),
            top_p=chance.choice([1.0, 0.9]),
            repetition_penalty=chance.choice([1.0, 1.2]),
            seed=number,
            max_tokens=chance.randint(1, 30),
            ignore_eos=True,
            logprobs=True,
            top_logprobs=2,
            n=chance.choice([1, 1, 3]),
        )
        jobs.append((prompt, params))
    return jobs


def run_mixed(engine, jobs, chance):
    """The answers of all jobs that come in while others run; some others are cancelled."""
    got, real, noise = {}, [], []
    for prompt, params in jobs:
        for request in engine.requests(prompt, params):
            got[request.id] = ([], [])
            real.append(request.id)
            engine.submit(request)
        if chance.random() < 0.5:
            other = engine.request(prompt[::-1], SamplingParams(max_tokens=9, ignore_eos=True))
            engine.submit(other)
            noise.append(other.id)
        for _ in range(chance.randrange(6)):
            collect(engine, got)
        if noise and chance.random() < 0.5:
            engine.cancel(noise.pop())
    while not engine.idle:
        collect(engine, got)
    return [got[number] for number in real]


def collect(engine, got):
    for delta in engine.step():
        ids, logprobs = got.get(delta.request_id, ([], []))
        ids += delta.ids
        logprobs += delta.logprobs
    engine.check()


def alone(engine, jobs):
    """Each answer by itself: no other request, no page of another."""
    answers = []
    for prompt, params in jobs:
        for request in engine.requests(prompt, params):
            got = {request.id: ([], [])}
            engine.submit(request)
            while not engine.idle:
                collect(engine, got)
            answers.append(got[request.id])
    return answers


def hold(program_of, jobs, vocabulary_pages):
    """The promise for one model; `program_of(threads)` opens it anew."""
    chance = random.Random(11)
    first, second = program_of(1), program_of(2)
    truth = alone(engine_of(first, max_batch=1, budget=CONTEXT, pages=8, prefix_cache=False), jobs)
    engines = {
        "batched, cut in small chunks, one thread": engine_of(
            first, max_batch=4, budget=9, pages=64
        ),
        "batched, shared, two threads": engine_of(second, max_batch=8, budget=64, pages=64),
        "short of pages": engine_of(second, max_batch=6, budget=40, pages=vocabulary_pages),
        "opened anew": engine_of(program_of(2), max_batch=3, budget=256, pages=64),
    }
    for how, engine in engines.items():
        assert run_mixed(engine, jobs, chance) == truth, how
    engine = engines["batched, shared, two threads"]
    assert run_mixed(engine, jobs, chance) == truth, "all prompts known"
    shared = engines["batched, shared, two threads"].snapshot()
    assert shared.prefix_hits_total > 0
    return engines["short of pages"].snapshot().preemptions_total


QUICK = [("float32", "float32"), ("int8-row", "bfloat16"), ("int4-32", "int4")]
# Every weight with the plain pages, some with float32, and every kind of page with one weight.
WITH_F32 = ("bfloat16", "int8-32-minimum", "int4-32", "int4-128-zero-point", "int2-32-minimum")
SLOW = [
    (kind, kv)
    for kind, kv in product(WEIGHTS, KV_TYPES)
    if (kv == "bfloat16" or kind == "int8-row" or (kv == "float32" and kind in WITH_F32))
    and (kind, kv) not in QUICK
]


@pytest.mark.parametrize(
    ("kind", "kv_dtype"), [*QUICK, *(pytest.param(*pair, marks=pytest.mark.slow) for pair in SLOW)]
)
def test_bits_are_the_same_whatever_happens_around_a_request(kind, kv_dtype):
    jobs = random_jobs(random.Random(9), 5, CONFIG["vocab_size"])
    set_back = hold(lambda threads: compiled(CONFIG, WEIGHTS[kind], kv_dtype, threads), jobs, 6)
    assert set_back > 0, "the pages sufficed: nothing was tested"


@pytest.mark.slow
@pytest.mark.parametrize("kind", GGML)
def test_bits_are_the_same_over_the_blocks_of_ggml(kind):
    """Read as files hold them: nested scales, codebooks with exponents, five bits."""
    jobs = random_jobs(random.Random(9), 5, CONFIG["vocab_size"])
    set_back = hold(lambda threads: compiled(WIDE, kind, "bfloat16", threads), jobs, 6)
    assert set_back > 0, "the pages sufficed: nothing was tested"


def test_every_format_is_held_to_the_promise():
    """A new format must join: what these lists lack is not promised."""
    affine = {kind for kind in WEIGHTS.values() if isinstance(kind, Affine)}
    assert {kind.bits for kind in affine} == set(get_args(get_type_hints(Affine)["bits"]))
    assert {kind.zero for kind in affine} == set(get_args(Zero))
    books = {kind.name for kind in WEIGHTS.values() if isinstance(kind, Codebook)}
    assert books == set(get_args(CodebookName))
    draw = np.random.default_rng(0).normal(size=(16, 256)).astype(np.float32)
    nested = {name for name in GGML if isinstance(stored(draw, name), NestedTensor)}
    assert nested == {"Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"}
    assert {kv for _, kv in [*QUICK, *SLOW]} == set(KV_TYPES)


@pytest.mark.slow
@pytest.mark.parametrize("activations", ["f32", "bf16", "int8"])
def test_with_every_kind_of_activations(activations):
    jobs = random_jobs(random.Random(5), 4, CONFIG["vocab_size"])
    kind = ml_dtypes.bfloat16 if activations == "bf16" else Affine(8, 32)
    hold(lambda threads: compiled(CONFIG, kind, "bfloat16", threads, activations), jobs, 6)


@pytest.mark.parametrize(
    "kv_dtype",
    [pytest.param(k, marks=[] if k in ("float32", "k8v4") else pytest.mark.slow) for k in KV_TYPES],
)
def test_with_windows_and_pages_freed_behind_them(kv_dtype):
    jobs = random_jobs(random.Random(6), 5, CONFIG["vocab_size"], longest=300)
    kind = WEIGHTS["int4-32"]
    hold(lambda threads: compiled(WINDOWED, kind, kv_dtype, threads), jobs, 6)


@pytest.mark.parametrize(
    "kv_dtype",
    [pytest.param(k, marks=[] if k == "bfloat16" else pytest.mark.slow) for k in KV_TYPES],
)
def test_with_windows_in_some_layers_only(kv_dtype):
    """Two kinds of attention, each with pages of its own, the windowed ones freed on the way."""
    jobs = random_jobs(random.Random(8), 5, CONFIG["vocab_size"], longest=300)
    kind = WEIGHTS["int8-row"]
    set_back = hold(lambda threads: compiled(MIXED, kind, kv_dtype, threads), jobs, 8)
    assert set_back > 0, "the pages sufficed: nothing was tested"


def test_windowed_layers_hold_no_more_than_they_see():
    """On a long answer their pages stay those of window and step; the others' grow."""
    program = compiled(MIXED, WEIGHTS["int8-row"], "bfloat16", threads=1)
    assert program.graph.windows == (40, None)
    engine = engine_of(program, max_batch=1, budget=16, pages=8)
    engine.submit(engine.request([5, 7, 11], SamplingParams(max_tokens=400, ignore_eos=True)))
    held = []
    while not engine.idle:
        engine.step()
        held.append([pool.used_count for pool in engine.scheduler.state.pools])
    windowed, whole = np.array(held[:-1]).T
    assert windowed.max() == 2 and whole.max() == 7 and whole[-1] == 7


@pytest.mark.slow
def test_on_a_real_model(smollm2_path):
    """SmolLM2: long prompts that begin alike, drawn and greedy, several answers."""
    model = load(smollm2_path)
    chance = random.Random(2)
    jobs = random_jobs(chance, 4, 40_000)
    single = Engine.open(
        model,
        EngineOptions(max_batch=1, token_budget=CONTEXT, context=CONTEXT, prefix_cache=False,
                      threads=1),
    )  # fmt: skip
    truth = alone(single, jobs)
    page_bytes = single.kv.size_bytes // single.kv.page_count
    for options in (
        EngineOptions(max_batch=8, token_budget=33, context=CONTEXT, threads=1),
        EngineOptions(max_batch=8, token_budget=128, context=CONTEXT, threads=2,
                      kv_memory_bytes=10 * page_bytes),
    ):  # fmt: skip
        engine = Engine.open(model, options)
        assert run_mixed(engine, jobs, chance) == truth
        assert engine.snapshot().prefix_hits_total > 0
