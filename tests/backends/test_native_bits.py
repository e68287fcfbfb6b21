"""Promise 1: a row's logits are the same bits whatever is computed beside it, and however."""

import itertools

import ml_dtypes
import numpy as np
import pytest

from slipstream.backends.batch import PAGE_SIZE, Batch
from slipstream.backends.native import NativeOptions, NativeProgram, compile_native, native_module
from slipstream.errors import MachineError
from slipstream.formats.affine import quantize_affine
from slipstream.formats.tensor import Affine, DenseTensor
from slipstream.models.registry import blueprint_of

try:
    ISAS = native_module().isa_available()
except MachineError:
    pytest.skip("the native kernels were not built", allow_module_level=True)

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 97,
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 20,
    "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 1e4,
}  # fmt: skip
MISTRAL = CONFIG | {
    "architectures": ["MistralForCausalLM"],
    "model_type": "mistral",
    "sliding_window": 40,
}
PAGES = 64


def tiny_weights(shapes, seed=7, *, quantized=True):
    """Random weights of every kind of format, tied to nothing but their names."""
    rng = np.random.default_rng(seed)
    formats = itertools.cycle(
        [Affine(4, 32), Affine(8, 16, "minimum"), Affine(4, 16, "minimum")] if quantized else [None]
    )
    weights = {}
    for name, shape in shapes.items():
        values = rng.normal(0, 0.15, shape).astype(np.float32)
        if len(shape) == 1:
            values = 1 + values
        weights[name] = quantize(values, next(formats))
    return weights


def quantize(values, affine):
    if affine is None:
        return DenseTensor(values.astype(ml_dtypes.bfloat16))
    if values.ndim == 1 or values.shape[1] % affine.group:
        return DenseTensor(values)
    return quantize_affine(values, affine)


def program_of(config=CONFIG, **options) -> NativeProgram:
    blueprint = blueprint_of(config)
    options = {"threads": 2, **options}
    weights = tiny_weights(blueprint.shapes, quantized=options.get("activations") != "bf16")
    return compile_native(blueprint.graph, weights, NativeOptions(**options))


class Session:
    """Sequences on pages of a shared KV; `feed` runs a batch of (sequence, ids) pieces."""

    def __init__(self, program: NativeProgram, rng: np.random.Generator) -> None:
        self.program = program
        self.kv = program.new_kv(PAGES)
        self.free = list(rng.permutation(PAGES))
        self.pages: dict[int, list[int]] = {}
        self.lengths: dict[int, int] = {}

    def feed(self, *pieces: tuple[int, np.ndarray]) -> list[np.ndarray]:
        """Logits of every row of each piece."""
        for sequence, ids in pieces:
            held = self.pages.setdefault(sequence, [])
            while len(held) * PAGE_SIZE < self.lengths.get(sequence, 0) + len(ids):
                held.append(self.free.pop())
        counts = [len(ids) for _, ids in pieces]
        width = max(len(self.pages[s]) for s, _ in pieces)
        pages = np.full((len(pieces), width), -1, np.int32)
        for row, (sequence, _) in enumerate(pieces):
            pages[row, : len(self.pages[sequence])] = self.pages[sequence]
        batch = Batch(
            ids=np.concatenate([ids for _, ids in pieces]).astype(np.int32),
            row_starts=np.cumsum([0, *counts]).astype(np.int32),
            lengths=np.array([self.lengths.get(s, 0) for s, _ in pieces], np.int32),
            pages=pages,
            logit_rows=np.arange(sum(counts), dtype=np.int32),
        )
        logits = self.program.step(batch, self.kv)
        for sequence, ids in pieces:
            self.lengths[sequence] = self.lengths.get(sequence, 0) + len(ids)
        return np.split(logits, batch.row_starts[1:-1])


def prompts(rng: np.random.Generator, *lengths: int) -> list[np.ndarray]:
    return [rng.integers(0, CONFIG["vocab_size"], length).astype(np.int32) for length in lengths]


def alone(program: NativeProgram, ids: np.ndarray) -> np.ndarray:
    return Session(program, np.random.default_rng(1)).feed((0, ids))[0]


@pytest.mark.parametrize("config", [CONFIG, MISTRAL], ids=["llama", "mistral"])
@pytest.mark.parametrize("seed", range(3))
def test_random_batches_give_the_bits_of_sequences_alone(seed, config):
    """Sequences are cut into random chunks and run in random company on scattered pages."""
    rng = np.random.default_rng(seed)
    program = program_of(config)
    texts = prompts(rng, 1, 7, 65, 130, 640)
    expected = [alone(program, ids) for ids in texts]
    session = Session(program, rng)
    done = [0] * len(texts)
    while any(n < len(ids) for n, ids in zip(done, texts, strict=True)):
        running = [i for i, ids in enumerate(texts) if done[i] < len(ids)]
        chosen = rng.choice(running, rng.integers(1, len(running) + 1), replace=False)
        pieces = [(int(i), texts[i][done[i] : done[i] + int(rng.integers(1, 200))]) for i in chosen]
        for (i, ids), logits in zip(pieces, session.feed(*pieces), strict=True):
            np.testing.assert_array_equal(logits, expected[i][done[i] : done[i] + len(ids)])
            done[i] += len(ids)


@pytest.mark.parametrize("length", [63, 64, 65, 513, 1030])
def test_decoding_gives_the_bits_of_prefill(length):
    """The last rows one by one, near the borders of pages and splits, against all at once."""
    rng = np.random.default_rng(length)
    program = program_of()
    (ids,) = prompts(rng, length)
    session = Session(program, rng)
    session.feed((0, ids[:-4]))
    steps = [session.feed((0, ids[i : i + 1]))[0] for i in range(length - 4, length)]
    np.testing.assert_array_equal(np.concatenate(steps), alone(program, ids)[-4:])


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_a_long_sequence_among_short_ones_gives_its_bits_alone(threads):
    """Its keys are parted among the threads, and with its company that of all others."""
    rng = np.random.default_rng(6)
    program = program_of(threads=threads)
    texts = prompts(rng, *[20] * 6, 1200, *[20] * 6)
    single = program_of(threads=1)
    expected = [alone(single, ids)[-1:] for ids in texts]
    session = Session(program, rng)
    for i, ids in enumerate(texts):
        session.feed((i, ids[:-1]))
    found = session.feed(*[(i, ids[-1:]) for i, ids in enumerate(texts)])
    np.testing.assert_array_equal(np.concatenate(found), np.concatenate(expected))


@pytest.mark.parametrize("kv_dtype", ["float32", "bfloat16", "int8", "int4"])
@pytest.mark.parametrize("activations", ["auto", "f32", "bf16"])
def test_threads_do_not_show(activations, kv_dtype):
    rng = np.random.default_rng(5)
    (ids,) = prompts(rng, 600)
    results = [
        alone(program_of(threads=n, activations=activations, kv_dtype=kv_dtype), ids)
        for n in (1, 2, 3)
    ]
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


@pytest.mark.parametrize("kv_dtype", ["float32", "bfloat16", "int8", "int4"])
@pytest.mark.parametrize("activations", ["auto", "f32", "bf16"])
@pytest.mark.parametrize("config", [CONFIG, MISTRAL], ids=["llama", "mistral"])
def test_instruction_sets_do_not_show(config, activations, kv_dtype):
    rng = np.random.default_rng(6)
    (ids,) = prompts(rng, 150)
    results = [
        alone(program_of(config, isa=isa, activations=activations, kv_dtype=kv_dtype), ids)
        for isa in ISAS
    ]
    for other in results[1:]:
        np.testing.assert_array_equal(results[0], other)


def test_stale_pages_do_not_show():
    """Whatever an earlier sequence left in a page, infinities included, is never seen."""
    program = program_of()
    rng = np.random.default_rng(8)
    (ids,) = prompts(rng, 100)
    kv = program.new_kv(2)
    batch = Batch(
        ids=ids, row_starts=np.array([0, 100], np.int32), lengths=np.zeros(1, np.int32),
        pages=np.array([[1, 0]], np.int32), logit_rows=np.arange(100, dtype=np.int32),
    )  # fmt: skip
    first = program.step(batch, kv)
    np.testing.assert_array_equal(program.step(batch, kv), first)
    np.testing.assert_array_equal(alone(program, ids), first)


def test_fusing_changes_no_bit(monkeypatch):
    rng = np.random.default_rng(9)
    (ids,) = prompts(rng, 80)
    fused = program_of()
    monkeypatch.setattr("slipstream.backends.native.fuse", lambda graph: graph)
    plain = program_of()
    assert len(plain.graph.nodes) > len(fused.graph.nodes)
    np.testing.assert_array_equal(alone(plain, ids), alone(fused, ids))


def test_selecting_logits_changes_no_bit():
    rng = np.random.default_rng(10)
    (ids,) = prompts(rng, 80)
    program = program_of()
    whole = alone(program, ids)
    batch = Batch(
        ids=ids, row_starts=np.array([0, 80], np.int32), lengths=np.zeros(1, np.int32),
        pages=np.array([[3, 1]], np.int32), logit_rows=np.array([2, 17, 79], np.int32),
    )  # fmt: skip
    np.testing.assert_array_equal(program.step(batch, program.new_kv(4)), whole[[2, 17, 79]])


PLANS = [(1, 0, 1, 1), (4, 1024, 7, 3), (64, 65536, 4096, 50)]  # csrc/step/linear_operation.h


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("activations", ["int8", "f32"])
def test_plans_of_linears_change_no_bit(isa, activations):
    program = program_of(isa=isa, activations=activations)
    ids = np.random.default_rng(3).integers(0, 97, 70)
    expected = [Session(program, np.random.default_rng(4)).feed((0, ids[:n])) for n in (3, 20, 70)]
    nodes = [node for node, _, _ in program._handle.linears()]
    for plan in PLANS:
        for rows in (1, 16, 64):
            program._handle.plan_linears(nodes, rows, plan)
            assert program._handle.linear_plan(nodes[0], rows) == plan
        for length, logits in zip((3, 20, 70), expected, strict=True):
            again = Session(program, np.random.default_rng(4)).feed((0, ids[:length]))
            assert np.array_equal(again[0].view(np.int32), logits[0].view(np.int32))


def test_timing_linears_leaves_the_program_as_it_was():
    program = program_of()
    ids = np.arange(9)
    before = Session(program, np.random.default_rng(4)).feed((0, ids))
    nodes = [node for node, _, _ in program._handle.linears()]
    plan = program._handle.linear_plan(nodes[0], 16)
    assert program._handle.time_linears(nodes, 16, (1, 0, 3, 2)) > 0
    assert program._handle.linear_plan(nodes[0], 16) == plan
    after = Session(program, np.random.default_rng(4)).feed((0, ids))
    assert np.array_equal(before[0].view(np.int32), after[0].view(np.int32))


def test_a_plan_or_a_node_that_cannot_be_is_refused():
    handle = program_of()._handle
    node = handle.linears()[0][0]
    for plan in [(0, 0, 1, 1), (1, -1, 1, 1), (1, 0, 0, 1), (1, 0, 1, 0), (1, 0, 1, 1 << 21)]:
        with pytest.raises(ValueError, match="out of range"):
            handle.plan_linears([node], 1, plan)
    with pytest.raises(ValueError, match="no linear"):
        handle.time_linears([0, -5], 1, (1, 0, 1, 1))
