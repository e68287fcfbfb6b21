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
    Form,
    SparseForms,
    SparseMode,
    Sparsity,
    read_sparse,
    resolved,
    sparsity_of,
)
from slipstream.compress.passes.masks import mask_of
from slipstream.errors import MachineError
from slipstream.formats.affine import quantize_affine
from slipstream.formats.tensor import Affine, AffineTensor, DenseTensor, Tensor
from slipstream.models.registry import blueprint_of


def pruned(weight: np.ndarray, pattern: str) -> None:
    """Zeros in a float matrix, by its sizes: 2:4, or 70 % anywhere."""
    if pattern == "none":
        return
    anywhere = pattern == "unstructured"
    mask = mask_of(np.abs(weight), pattern, 0.7 if anywhere else 0.5, block=16, by_row=anywhere)
    weight[mask] = 0


def matrix(bits: int, pattern: str = "2:4") -> AffineTensor:
    """A float matrix, pruned, then rounded."""
    weight = np.random.default_rng(bits).normal(size=(48, 64)).astype(np.float32)
    pruned(weight, pattern)
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


def pruned_weights(shapes, bits, pattern):
    """A tiny model of which every matrix is pruned."""
    rng = np.random.default_rng(bits)
    weights = {}
    for name, shape in shapes.items():
        values = rng.normal(0, 0.15, shape).astype(np.float32)
        if len(shape) == 1:
            weights[name] = DenseTensor(1 + values)
            continue
        pruned(values, pattern)
        weights[name] = quantize_affine(values, Affine(bits, 32))
    return weights


def new_builder():
    return native_module().Builder(1, native_module().isa_available()[-1], "float32")


class FakeBuilder:
    """A matrix that could have both forms; copies of a form take the time it is told."""

    def __init__(self, few: dict[Form, float], many: float = 1.0, *, fits: bool = True) -> None:
        self.few = {"dense": 1.0, **few}
        self.many, self.fits = many, fits
        self.forms: list[Form] = []

    def is_two_of_four(self, codes: object, kind: str) -> bool:
        return self.fits

    def masked_size(self, codes: np.ndarray, kind: str, most: int) -> tuple[int, int]:
        return codes.size // 4, most

    def add(self, builder: object, tensor: Tensor, form: Form) -> int:
        self.forms.append(form)
        return len(self.forms) - 1

    def time_matrices(self, numbers: list[int], rows: int) -> float:
        form = self.forms[numbers[0]]
        if rows == 1:
            return 1e6 * self.few.get(form, 2.0)
        return 1e6 * (1.0 if form == "dense" else self.many)


@pytest.mark.parametrize("bits", [4, 8])
def test_rounding_keeps_the_zeros_that_pruning_made(bits):
    assert sparsity_of(new_builder(), matrix(bits)).forms[0] == "2:4"
    anywhere = sparsity_of(new_builder(), matrix(bits, "unstructured"))
    assert anywhere.forms == ("mask",)
    assert 0.69 < anywhere.zeros < 0.85
    assert sparsity_of(new_builder(), matrix(bits, "none")).forms == ()


def test_a_mask_is_offered_beside_two_of_four_only_where_it_is_smaller():
    half = quantize_affine(np.tile(np.float32([1, 2, 0, 0]), (16, 16)), Affine(8, 32))
    assert sparsity_of(new_builder(), half).forms == ("2:4",)
    quarter = quantize_affine(np.tile(np.float32([0, 2, 0, 0]), (16, 16)), Affine(8, 32))
    assert sparsity_of(new_builder(), quarter).forms == ("2:4", "mask")


def test_bands_of_zeros_are_raced_apart():
    tensor = matrix(8)
    keys = [Sparsity(("mask",), zeros).key(tensor) for zeros in (0.48, 0.52, 0.66)]
    assert keys[0] == keys[1] == "64 int8/32 float16, mask at 50 %" != keys[2]


def test_other_formats_have_no_sparse_form():
    weight = np.zeros((16, 64), np.float32)
    for format in (Affine(3, 32), Affine(8, 32, "minimum")):
        assert sparsity_of(new_builder(), quantize_affine(weight, format)) == Sparsity()


@pytest.mark.parametrize(("pattern", "form"), [("2:4", "2:4"), ("unstructured", "mask")])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_sparse_matrix_is_smaller_and_comes_back_from_a_file(bits, pattern, form, tmp_path):
    tensor, sizes, layouts = matrix(bits, pattern), {}, {}
    modes: tuple[SparseMode, ...] = ("never", "always")
    for mode in modes:
        builder = new_builder()
        forms = SparseForms(mode, tmp_path / "choices.json", new_builder)
        stored = packed_weights(builder, pack_weights(builder, {"w": tensor}, ["w"], forms))
        sizes[mode], layouts[mode] = stored[0].data.nbytes, stored[0].layout
        again = map_weights(new_builder(), stored)
        assert list(again.matrices) == ["w"]
    assert sizes["always"] < 0.95 * sizes["never"]
    assert layouts["always"][2] == f"int{bits}_{form}"
    assert layouts["never"][2] == f"int{bits}"


@pytest.mark.parametrize("activations", ["int8", "f32"])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("pattern", ["2:4", "unstructured"])
def test_a_pruned_model_gives_the_bits_of_its_dense_form(pattern, bits, activations):
    blueprint = blueprint_of(CONFIG)
    weights = pruned_weights(blueprint.shapes, bits, pattern)
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
        add_matrix(new_builder(), matrix(8, "none"), "2:4")


def test_a_matrix_without_zeros_can_be_packed_by_mask():
    tensor = matrix(8, "none")
    assert add_matrix(new_builder(), tensor, "mask") == 0
    with pytest.raises(ValueError, match="only symmetric codes"):
        add_matrix(new_builder(), quantize_affine(tensor.dequantize(), Affine(3, 32)), "mask")


@pytest.mark.parametrize(
    ("few", "many", "taken"),
    [
        ({"2:4": 0.7}, 1.0, "2:4"),
        ({"2:4": 0.7, "mask": 0.6}, 1.0, "mask"),
        ({"2:4": 1.2, "mask": 0.8}, 1.0, "mask"),
        ({"2:4": 1.2, "mask": 1.3}, 1.0, "dense"),
        ({"2:4": 0.7}, 1.5, "dense"),
    ],
)
def test_the_fastest_is_taken_where_it_costs_prompts_nothing(few, many, taken, tmp_path):
    path, builder = tmp_path / "choices.json", FakeBuilder(few, many)
    forms = SparseForms("measured", path, lambda: builder)
    assert forms.form_of(builder, matrix(8), builder.add) == taken
    raced = len(builder.forms)
    assert forms.form_of(builder, matrix(8), builder.add) == taken
    later = SparseForms("measured", path, lambda: builder)
    assert later.form_of(builder, matrix(8), builder.add) == taken
    assert len(builder.forms) == raced, "a width and format that is known is not raced again"


@pytest.mark.parametrize("plan", ["4:8", "dense", 7, ["mask"]])
def test_a_damaged_file_of_choices_is_ignored(plan, tmp_path):
    path = tmp_path / "choices.json"
    choice = {"plan": plan, "gain": 0.5, "noise": 0.0, "note": ""}
    path.write_text(json.dumps({"version": 1, "shapes": {"64 int8/32 float16": choice}}))
    assert read_sparse(path) == {}
    assert read_sparse(Path("no such file")) == {}


def test_a_form_that_a_file_names_but_the_matrix_cannot_have_is_not_taken(tmp_path):
    path, builder = tmp_path / "choices.json", FakeBuilder({}, fits=False)
    key = sparsity_of(builder, matrix(8)).key(matrix(8))
    choice = {"plan": "2:4", "gain": 0.5, "noise": 0.0, "note": ""}
    path.write_text(json.dumps({"version": 1, "shapes": {key: choice}}))
    forms = SparseForms("measured", path, lambda: builder)
    assert forms.form_of(builder, matrix(8), builder.add) == "dense"
    assert builder.forms == []


def test_without_tuning_all_is_dense(monkeypatch):
    monkeypatch.setenv("SLIPSTREAM_TUNE", "0")
    assert resolved("measured") == "never"
    assert resolved("always") == "always"
