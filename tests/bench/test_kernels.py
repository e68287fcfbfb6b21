"""Kernels timed inside steps: named by shape, counted once, held against given ceilings."""

from typing import Literal

import numpy as np
import pytest

from slipstream.backends.native import NativeOptions, compile_native, native_module
from slipstream.bench.kernel_shapes import (
    SHAPES,
    Format,
    RandomWeights,
    Shape,
    random_tensor,
    read_format,
    shaped,
)
from slipstream.bench.kernels import (
    Steps,
    batch_of,
    format_word,
    kernels_of,
    look_at,
    measure_kernels,
    step_shape,
)
from slipstream.errors import MachineError, UnsupportedError
from slipstream.formats.tensor import Affine, NestedTensor
from slipstream.machine import Ceilings, Rate
from slipstream.models.registry import blueprint_of

TINY = Shape(64, 2, 4, 2, 128, 96)
RATE = Rate(1e9, 1e9, 1e9)
CEILINGS = Ceilings("portable", 1, RATE, RATE, RATE, RATE, RATE, RATE, RATE)


INT4 = Affine(4, 32, "symmetric")


def tiny(format=INT4):
    blueprint = blueprint_of(TINY.config())
    return blueprint.graph, RandomWeights(blueprint.shapes, Format(format))


@pytest.fixture(scope="module")
def program():
    try:
        native_module()
    except MachineError:
        pytest.skip("the native kernels were not built")
    graph, weights = tiny()
    return compile_native(graph, weights, NativeOptions(threads=1)), look_at(graph, weights)


def test_every_operation_is_in_exactly_one_kernel(program):
    compiled, weights = program
    nodes = [name for kernel in kernels_of(compiled.graph, weights) for name in kernel.nodes]
    assert sorted(nodes) == sorted(node.name for node in compiled.graph)


def test_equal_shapes_are_one_kernel_and_its_name_says_shape_and_format(program):
    compiled, weights = program
    kernels = {kernel.name: kernel for kernel in kernels_of(compiled.graph, weights)}
    gated = kernels["gated linear 64 → 128+128, int4/32"]
    assert len(gated.nodes) == TINY.blocks and gated.kind == "gated linear"
    assert "attention 4/2 heads of 16" in kernels


def test_few_rows_are_sequences_and_many_are_a_prompt():
    assert step_shape(8, 100).rows == (1,) * 8
    assert step_shape(8, 100).contexts == (100,) * 8
    assert step_shape(512, 100).rows == (512,)
    assert step_shape(512, 100).contexts == (0,)


def test_a_batch_gives_every_sequence_pages_of_its_own():
    batch = batch_of(step_shape(3, 130), 96)
    assert batch.pages.shape == (3, 3)
    assert len(np.unique(batch.pages)) == 9
    assert batch.row_starts.tolist() == [0, 1, 2, 3]


def test_rows_hold_times_rates_and_noise(program):
    compiled, weights = program
    rows = list(measure_kernels(compiled, weights, Steps((1, 130), 70, 4), CEILINGS))
    assert {row.rows for row in rows} == {1, 130}
    for row in rows:
        assert len(row.seconds.values) == 8  # four steps of each arm
        assert row.noise >= 0
        assert row.share == pytest.approx(row.roof_s / row.seconds.median)
    one = next(row for row in rows if row.kernel.kind == "gated linear" and row.rows == 1)
    assert one.cost.operations == 2 * 2 * 64 * 128
    assert one.bytes_per_s == pytest.approx(one.cost.bytes_weights / one.seconds.median)


@pytest.mark.parametrize("format", [Affine(4, 32), Affine(8, None), Affine(4, 64, "minimum")])
def test_random_weights_have_the_shapes_of_the_graph(format):
    graph, weights = tiny(format)
    assert set(graph.weight_names()) <= set(weights)
    for name in graph.weight_names():
        assert np.isfinite(weights[name].dequantize()).all()


def test_a_shape_that_is_not_known_is_refused_with_those_that_are():
    with pytest.raises(UnsupportedError, match=", ".join(SHAPES)):
        shaped("70B", Format(Affine(4, 32)))


@pytest.mark.parametrize("word", ["int2", "int3", "int5", "int6", "int8", "nf4", "mxfp4", "iq4_nl"])
def test_a_format_is_known_by_its_word(word: str) -> None:
    tensor = random_tensor((16, 512), read_format(word, 64))
    assert format_word(tensor) == f"{word}/64"
    values = tensor.dequantize()
    assert values.shape == (16, 512) and len(np.unique(values)) > 3


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6])
def test_k_quants_have_groups_of_their_own(bits: int) -> None:
    tensor = random_tensor((16, 512), read_format(f"q{bits}_k", 64))
    assert isinstance(tensor, NestedTensor) and tensor.format.bits == bits
    assert np.isfinite(tensor.dequantize()).all()


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="int2"):
        read_format("int7", 32)


def test_sparse_weights_count_the_bytes_that_are_packed():
    form = Format(Affine(8, 32), sparse=True)
    tensor = random_tensor((64, 128), form)
    dense = random_tensor((64, 128), Format(Affine(8, 32)))
    assert np.count_nonzero(tensor.codes.reshape(64, -1, 4)[..., 2:]) == 0
    graph, _ = shaped("smol", form)
    names = graph.weight_names()
    thin = look_at(graph, dict.fromkeys(names, tensor), "2:4")
    full = look_at(graph, dict.fromkeys(names, dense))
    assert full.sizes[names[0]].size_bytes - thin.sizes[names[0]].size_bytes == 64 * 128 * 3 // 8
    assert thin.formats[names[0]] == "int8/32 2:4"


@pytest.mark.parametrize("bits", [4, 8])
def test_masked_weights_count_a_bit_each_and_the_codes_that_are_kept(bits: Literal[4, 8]) -> None:
    form = Format(Affine(bits, 32), sparse=True, zeros=0.75)
    tensor = random_tensor((64, 128), form)
    kept = np.count_nonzero(tensor.dequantize())
    assert 0.15 < kept / (64 * 128) < 0.3
    graph, _ = shaped("smol", form)
    weights = dict.fromkeys(graph.weight_names(), tensor)
    name = graph.weight_names()[0]
    masked, full = look_at(graph, weights, form.pattern), look_at(graph, weights)
    saved = full.sizes[name].size_bytes - masked.sizes[name].size_bytes
    assert saved == (64 * 128 * (bits - 1) - bits * kept) // 8
    assert masked.formats[name] == f"int{bits}/32 mask"
