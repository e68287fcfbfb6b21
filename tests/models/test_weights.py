"""Weights are found under any spelling, cut and turned as their names say, and checked."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.errors import FileFormatError, UnsupportedError
from slipstream.formats.tensor import Affine, AffineTensor, DenseTensor
from slipstream.graph.ops import Activations
from slipstream.models.weights import Part, Weights, activations_of, parse_part


@dataclass
class FakeCheckpoint:
    tensors: dict
    path: Path = Path("fake")
    config: dict = field(default_factory=dict)
    activations: dict = field(default_factory=dict)

    def names(self):
        return sorted(self.tensors)

    def tensor(self, name):
        return self.tensors[name]


MATRIX = np.arange(24, dtype=np.float32).reshape(6, 4)


def affine(zero):
    rng = np.random.default_rng(0)
    offsets = None if zero == "symmetric" else rng.integers(0, 16, (6, 2)).astype(np.uint8)
    return AffineTensor(
        Affine(4, 16, zero),
        rng.integers(0, 256, (6, 16)).astype(np.uint8),
        rng.normal(size=(6, 2)).astype(np.float16),
        offsets,
    )


@given(
    stored=st.text("abc.", min_size=1).filter(lambda name: not name.endswith(".T")),
    turned=st.booleans(),
    rows=st.none() | st.tuples(st.integers(0, 99), st.integers(0, 99)),
)
def test_names_of_parts_can_be_written_and_read(stored, turned, rows):
    part = Part(stored, turned, rows)
    if not stored.endswith(".T"):
        assert parse_part(str(part)) == part


def test_a_whole_tensor_is_given_as_it_is():
    tensor = DenseTensor(MATRIX)
    assert Weights(FakeCheckpoint({"w": tensor}), {"w": (6, 4)})["w"] is tensor


def test_rows_and_turned_tensors_are_cut_out():
    weights = Weights(
        FakeCheckpoint({"w": DenseTensor(MATRIX), "b": DenseTensor(MATRIX[0])}),
        {"w[1:3]": (2, 4), "w.T": (4, 6), "w.T[2:4]": (2, 6), "b[1:4]": (3,)},
    )
    assert np.array_equal(weights["w[1:3]"].data, MATRIX[1:3])
    assert np.array_equal(weights["w.T"].data, MATRIX.T)
    assert np.array_equal(weights["w.T[2:4]"].data, MATRIX.T[2:4])
    assert np.array_equal(weights["b[1:4]"].data, MATRIX[0, 1:4])
    assert len(weights) == 4
    assert list(weights) == ["w[1:3]", "w.T", "w.T[2:4]", "b[1:4]"]


@pytest.mark.parametrize("zero", ["symmetric", "zero_point"])
def test_rows_of_a_quantized_tensor_stay_quantized(zero):
    tensor = affine(zero)
    part = Weights(FakeCheckpoint({"w": tensor}), {"w[2:5]": (3, 32)})["w[2:5]"]
    assert isinstance(part, AffineTensor)
    assert np.array_equal(part.dequantize(), tensor.dequantize()[2:5])


def test_a_quantized_tensor_is_not_turned():
    weights = Weights(FakeCheckpoint({"w": affine("symmetric")}), {"w.T": (32, 6)})
    with pytest.raises(UnsupportedError, match=r"w\.T"):
        weights["w.T"]


def test_a_part_stored_by_its_own_name_comes_first():
    own = DenseTensor(MATRIX[1:3] * 2)
    weights = Weights(FakeCheckpoint({"w": DenseTensor(MATRIX), "w[1:3]": own}), {"w[1:3]": (2, 4)})
    assert weights["w[1:3]"] is own


@pytest.mark.parametrize("stored", ["model.w", "w", "language_model.model.w"])
def test_other_beginnings_are_tried(stored):
    spellings = (("model.", ""), ("", "language_model."))
    tensor = DenseTensor(MATRIX)
    weights = Weights(FakeCheckpoint({stored: tensor}), {"model.w": (6, 4)}, spellings)
    assert weights["model.w"] is tensor


def test_missing_tensors_are_named_at_once():
    with pytest.raises(FileFormatError, match="fake lacks the tensor v and 1 more"):
        Weights(FakeCheckpoint({"w": DenseTensor(MATRIX)}), {"w": (6, 4), "v": (1,), "u.T": (2,)})


@pytest.mark.parametrize("name", ["w", "w[4:8]", "w.T"])
def test_wrong_shapes_are_refused_when_read(name):
    weights = Weights(FakeCheckpoint({"w": DenseTensor(MATRIX)}), {name: (4, 5)})
    with pytest.raises(FileFormatError, match="the config says"):
        weights[name]


def test_settings_of_a_fused_matrix_hold_for_its_parts():
    whole, own = Activations(8, 32), Activations(8, None)
    checkpoint = FakeCheckpoint({}, activations={"w": whole, "v": own, "v[0:2]": whole})
    settings = activations_of(checkpoint, ["w[0:2]", "w[2:6]", "v", "v[0:2]", "u"])
    assert settings == {"w[0:2]": whole, "w[2:6]": whole, "v": own, "v[0:2]": whole}
