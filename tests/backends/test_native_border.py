"""What the native backend refuses, and in which words; captures, timings and sizes."""

import numpy as np
import pytest

from slipstream.backends.batch import Batch, single
from slipstream.backends.native import NativeOptions, compile_native, native_module
from slipstream.backends.reference import compile_reference
from slipstream.errors import MachineError
from slipstream.formats.affine import quantize_affine
from slipstream.formats.tensor import Affine, DenseTensor
from slipstream.graph import ops
from slipstream.graph.graph import Builder, Graph

try:
    MODULE = native_module()
except MachineError:
    pytest.skip("the native kernels were not built", allow_module_level=True)

IDS = np.arange(70, dtype=np.int32) % 30


def dense(*shape: int, seed: int = 0) -> DenseTensor:
    return DenseTensor(np.random.default_rng(seed).normal(0, 0.3, shape).astype(np.float32))


def graph() -> Graph:
    build = Builder()
    x = build.add("embed", ops.Embed("embed"), "ids")
    q = build.add("q", ops.Linear(("q",), (None,)), x)
    k = build.add("k", ops.Linear(("k",), (None,)), x)
    v = build.add("v", ops.Linear(("v",), (None,)), x)
    x = build.add("attention", ops.Attention(0, 2, 1, 16, 0.25), q, k, v)
    x = build.add("select", ops.Select(), x)
    build.add("head", ops.Linear(("embed",), (None,)), x)
    return Graph("test", tuple(build.nodes), 32, 30, 256)


WEIGHTS = {
    "embed": quantize_affine(dense(30, 32).data, Affine(8, 32)),
    "q": dense(32, 32, seed=1),
    "k": dense(16, 32, seed=2),
    "v": dense(16, 32, seed=3),
}


@pytest.fixture(scope="module")
def program():
    return compile_native(graph(), WEIGHTS, NativeOptions(threads=2))


def batch(**changes) -> Batch:
    whole = single(IDS)
    return Batch(**({name: getattr(whole, name) for name in Batch.__annotations__} | changes))


def integers(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


@pytest.mark.parametrize(
    "changes",
    [
        dict(ids=np.full(70, 30, np.int32)),
        dict(ids=np.full(70, -1, np.int32)),
        dict(ids=IDS.astype(np.int64)),
        dict(ids=IDS[None, :]),
        dict(ids=IDS[:0], row_starts=integers(0, 0)),
        dict(row_starts=integers(0, 69)),
        dict(row_starts=integers(0, 71)),
        dict(row_starts=integers(1, 70)),
        dict(row_starts=integers(0, 35, 70)),
        dict(row_starts=integers(0)),
        dict(lengths=integers(-1)),
        dict(lengths=integers(2**31 - 1)),
        dict(lengths=integers(100)),
        dict(pages=integers(0, 1)),
        dict(pages=np.array([[0]], np.int32)),
        dict(pages=np.array([[0, 4]], np.int32)),
        dict(pages=np.array([[0, -1]], np.int32)),
        dict(pages=np.array([[0, 1], [2, 3]], np.int32)),
        dict(logit_rows=integers(70)),
        dict(logit_rows=integers(-1)),
        dict(logit_rows=integers(3, 3)),
        dict(logit_rows=integers(4, 3)),
    ],
    ids=str,
)
def test_a_batch_out_of_range_is_refused(program, changes):
    with pytest.raises(ValueError, match=r"\w"):
        program.step(batch(**changes), program.new_kv(4))


def test_sequences_must_not_be_empty(program):
    changed = batch(
        row_starts=integers(0, 70, 70), lengths=integers(0, 0),
        pages=np.array([[0, 1], [2, 3]], np.int32),
    )  # fmt: skip
    with pytest.raises(ValueError, match="row_starts"):
        program.step(changed, program.new_kv(4))


def test_no_logits_may_be_wanted(program):
    logits = program.step(batch(logit_rows=np.zeros(0, np.int32)), program.new_kv(2))
    assert logits.shape == (0, 30)


def test_arrays_that_are_not_contiguous_are_taken(program):
    strided = np.repeat(IDS, 2)[::2]
    kv = program.new_kv(2)
    np.testing.assert_array_equal(
        program.step(batch(ids=strided), kv), program.step(batch(), program.new_kv(2))
    )


def test_a_kv_of_another_program_is_refused(program):
    other = compile_native(graph(), WEIGHTS, NativeOptions(threads=1, kv_dtype="float32"))
    with pytest.raises(ValueError, match="another program"):
        program.step(batch(), other.new_kv(4))


@pytest.mark.parametrize("count", [0, -1])
def test_a_kv_without_pages_is_refused(program, count):
    with pytest.raises(ValueError, match="page_count"):
        program.new_kv(count)


def test_a_kv_knows_its_size(program):
    kv = program.new_kv(3)
    assert kv.page_count == 3
    assert kv.size_bytes == 3 * 2 * 64 * 16 * 2


def test_an_unknown_instruction_set_is_refused():
    with pytest.raises(MachineError):
        compile_native(graph(), WEIGHTS, NativeOptions(isa="vax"))


@pytest.mark.parametrize("threads", [0, -3, 5000])
def test_an_absurd_number_of_threads_is_refused(threads):
    with pytest.raises(ValueError, match="threads"):
        compile_native(graph(), WEIGHTS, NativeOptions(threads=threads))


def test_weights_whose_shapes_disagree_are_refused():
    with pytest.raises(ValueError, match="width"):
        compile_native(graph(), WEIGHTS | {"q": dense(32, 48)})
    with pytest.raises(ValueError, match="heads"):
        compile_native(graph(), WEIGHTS | {"k": dense(24, 32)})


def test_resident_bytes_count_a_tied_matrix_once(program):
    sizes = [WEIGHTS[name].size_bytes for name in WEIGHTS]
    assert sum(sizes) <= program.resident_bytes < 4 * sum(sizes)


def test_captures_are_the_inputs_that_linears_read(program):
    reference = compile_reference(graph(), WEIGHTS)
    names = ("q", "v", "embed")
    ours = program.capture(batch(), program.new_kv(2), names)
    truth = reference.capture(batch(), reference.new_kv(2), names)
    assert ours["q"].shape == (70, 32)
    assert ours["embed"].shape == (1, 32)
    np.testing.assert_array_equal(ours["q"], ours["v"])
    np.testing.assert_allclose(ours["q"], truth["q"], rtol=1e-6)
    np.testing.assert_allclose(ours["embed"], truth["embed"], rtol=2e-2, atol=1e-2)


def test_only_linears_can_be_captured(program):
    with pytest.raises(ValueError, match="no linear"):
        program.capture(batch(), program.new_kv(2), ("norm",))


def test_a_timed_step_is_the_same_step(program):
    logits, times = program.step_timed(batch(), program.new_kv(2))
    np.testing.assert_array_equal(logits, program.step(batch(), program.new_kv(2)))
    assert list(times) == [node.name for node in program.graph]
    assert all(time >= 0 for time in times.values())


def test_positions_beyond_the_learned_ones_are_refused():
    build = Builder()
    x = build.add("embed", ops.Embed("embed"), "ids")
    x = build.add("positions", ops.PositionEmbed("positions", 2), x)
    build.add("select", ops.Select(), x)
    nodes = tuple(build.nodes)
    weights = {"embed": dense(30, 32), "positions": dense(72, 32)}
    program = compile_native(Graph("test", nodes, 32, 30, 70), weights)
    program.step(single(IDS), program.new_kv(2))
    with pytest.raises(ValueError, match="position"):
        program.step(single(np.append(IDS, IDS[:1])), program.new_kv(2))


def test_a_builder_refuses_what_makes_no_sense():
    builder = MODULE.Builder(1, MODULE.isa_available()[0], "float32")
    table = builder.add_dense(np.zeros((30, 64), np.float32), "float32")
    codes = np.zeros((16, 64), np.int8)
    with pytest.raises(ValueError, match="before its operations"):
        builder.embed(table, 1.0)
    builder.begin_node(0)
    x = builder.embed(table, 1.0)
    refused = [
        lambda: builder.add_quantized(
            codes, "int8", np.ones((16, 8), np.float32), None, "symmetric"
        ),
        lambda: builder.add_quantized(
            codes, "int8", np.ones((16, 4), np.float64), None, "symmetric"
        ),
        lambda: builder.add_quantized(
            codes, "int9", np.ones((16, 4), np.float32), None, "symmetric"
        ),
        lambda: builder.add_quantized(
            codes, "int8", np.ones((8, 4), np.float32), None, "symmetric"
        ),
        lambda: builder.add_quantized(codes, "int8", np.ones((16, 4), np.float32), None, "minimum"),
        lambda: builder.add_dense(np.zeros((8, 8), np.float32)[:, ::2], "float32"),
        lambda: builder.add_dense(np.zeros((0, 8), np.float32), "float32"),
        lambda: builder.add_dense(np.zeros((8, 8), np.float64), "float32"),
        lambda: builder.linear(x, [table], [-1], 8, 32),
        lambda: builder.linear(x, [table], [], 32, 0),
        lambda: builder.linear(99, [table], [-1], 32, 0),
        lambda: builder.rotary(x, 3, 16, [1.0], 1.0),
        lambda: builder.rotary(x, 4, 16, [1.0] * 9, 1.0),
        lambda: builder.attention(x, x, x, 4, 3, 16, 1.0, 0, 0.0),
        lambda: builder.soft_cap(x, 0.0),
        lambda: builder.activate(x, "sine"),
        lambda: builder.finish(x, 30),
        lambda: builder.finish(builder.select(x), 31),
    ]
    for call in refused:
        with pytest.raises(ValueError, match=r"\w"):
            call()
    builder.finish(builder.select(x), 30)
    for call in (lambda: builder.add_dense(np.zeros((2, 2), np.float32), "float32"),
                 lambda: builder.begin_node(1)):  # fmt: skip
        with pytest.raises(ValueError, match="finished"):
            call()
