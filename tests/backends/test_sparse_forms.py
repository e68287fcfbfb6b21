"""Matrices without their zeros: the bits of the dense ones, and taken only where they are faster."""

import json
from pathlib import Path

import numpy as np
import pytest

from slipstream.backends.batch import single
from slipstream.backends.native import NativeOptions, compile_native
from slipstream.backends.native_module import native_module
from slipstream.backends.native_weights import add_matrix, map_weights, pack_weights, packed_weights
from slipstream.backends.sparse_forms import (
    SparseForms,
    SparseMode,
    can_be_sparse,
    read_sparse,
    resolved,
)
from slipstream.compress.passes.masks import mask_of
from slipstream.errors import MachineError
from slipstream.formats.affine import quantize_affine
from slipstream.formats.tensor import Affine, AffineTensor, DenseTensor, Tensor
from slipstream.models.registry import blueprint_of


def matrix(bits: int, *, pattern: bool = True) -> AffineTensor:
    """A float matrix pruned to 2:4 by its sizes, then rounded."""
    weight = np.random.default_rng(bits).normal(size=(48, 64)).astype(np.float32)
    if pattern:
        weight[mask_of(np.abs(weight), "2:4", 0.5, block=16, by_row=False)] = 0
    return quantize_affine(weight, Affine(bits, 32))


try:
    native_module()
except MachineError:
    pytest.skip("the native kernels were not built", allow_module_level=True)

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 96,
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 1e4,
}  # fmt: skip


def pruned_weights(shapes, bits):
    """A tiny model of which every matrix is 2:4."""
    rng = np.random.default_rng(bits)
    weights = {}
    for name, shape in shapes.items():
        values = rng.normal(0, 0.15, shape).astype(np.float32)
        if len(shape) == 1:
            weights[name] = DenseTensor(1 + values)
            continue
        values[mask_of(np.abs(values), "2:4", 0.5, block=16, by_row=False)] = 0
        weights[name] = quantize_affine(values, Affine(bits, 32))
    return weights


def new_builder():
    return native_module().Builder(1, native_module().isa_available()[-1], "float32")


class FakeBuilder:
    """Dense copies have even numbers, sparse ones odd; each takes the time it is told."""

    def __init__(self, few: float, many: float) -> None:
        self.sparse_s = {1: few, 64: many}
        self.count = 0

    def is_two_of_four(self, codes: object, kind: str) -> bool:
        return True

    def add(self, builder: object, tensor: Tensor, sparse: bool) -> int:
        self.count += 2
        return self.count + sparse

    def time_matrices(self, numbers: list[int], rows: int) -> float:
        return 1e6 * (self.sparse_s[rows] if numbers[0] % 2 else 1.0)


@pytest.mark.parametrize("bits", [4, 8])
def test_rounding_keeps_the_zeros_that_pruning_made(bits):
    assert can_be_sparse(new_builder(), matrix(bits))
    assert not can_be_sparse(new_builder(), matrix(bits, pattern=False))


def test_other_formats_have_no_sparse_form():
    weight = np.zeros((16, 64), np.float32)
    assert not can_be_sparse(new_builder(), quantize_affine(weight, Affine(3, 32)))
    assert not can_be_sparse(new_builder(), quantize_affine(weight, Affine(8, 32, "minimum")))


@pytest.mark.parametrize("bits", [4, 8])
def test_a_sparse_matrix_is_smaller_and_comes_back_from_a_file(bits, tmp_path):
    tensor, sizes, layouts = matrix(bits), {}, {}
    modes: tuple[SparseMode, ...] = ("never", "always")
    for mode in modes:
        builder = new_builder()
        forms = SparseForms(mode, tmp_path / "choices.json", new_builder)
        stored = packed_weights(builder, pack_weights(builder, {"w": tensor}, ["w"], forms))
        sizes[mode], layouts[mode] = stored[0].data.nbytes, stored[0].layout
        again = map_weights(new_builder(), stored)
        assert list(again.matrices) == ["w"]
    assert sizes["always"] < 0.85 * sizes["never"]
    assert layouts["always"][2] == f"int{bits}_2:4"
    assert layouts["never"][2] == f"int{bits}"


@pytest.mark.parametrize("activations", ["int8", "f32"])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_pruned_model_gives_the_bits_of_its_dense_form(bits, activations):
    blueprint = blueprint_of(CONFIG)
    weights = pruned_weights(blueprint.shapes, bits)
    for rows in (1, 40):
        batch = single(np.arange(rows) * 7 % 96)
        logits, sizes = {}, {}
        for mode in ("never", "always"):
            options = NativeOptions(threads=2, activations=activations, sparse=mode)
            program = compile_native(blueprint.graph, weights, options)
            logits[mode] = program.step(batch, program.new_kv(4))
            sizes[mode] = program.resident_bytes
        assert np.array_equal(logits["always"], logits["never"])
        assert sizes["always"] < sizes["never"]


def test_what_is_not_two_of_four_is_refused():
    with pytest.raises(ValueError, match="more than two of four"):
        add_matrix(new_builder(), matrix(8, pattern=False), sparse=True)


@pytest.mark.parametrize(
    ("few", "many", "taken"), [(0.7, 1.0, True), (1.2, 1.0, False), (0.7, 1.5, False)]
)
def test_it_is_taken_where_it_is_faster_and_costs_prompts_nothing(few, many, taken, tmp_path):
    path, builder = tmp_path / "choices.json", FakeBuilder(few, many)
    forms = SparseForms("measured", path, lambda: builder)
    assert forms.wanted(builder, matrix(8), builder.add) == taken
    raced = builder.count
    assert forms.wanted(builder, matrix(8), builder.add) == taken
    later = SparseForms("measured", path, lambda: builder)
    assert later.wanted(builder, matrix(8), builder.add) == taken
    assert builder.count == raced, "a width and format that is known is not raced again"


def test_a_damaged_file_of_choices_is_ignored(tmp_path):
    path = tmp_path / "choices.json"
    choice = {"plan": "4:8", "gain": 0.5, "noise": 0.0, "note": ""}
    path.write_text(json.dumps({"version": 1, "shapes": {"64 int8/32 float16": choice}}))
    assert read_sparse(path) == {}
    assert read_sparse(Path("no such file")) == {}


def test_without_tuning_all_is_dense(monkeypatch):
    monkeypatch.setenv("SLIPSTREAM_TUNE", "0")
    assert resolved("measured") == "never"
    assert resolved("always") == "always"
