"""A file of packed weights: what was written is read, and what was damaged is noticed."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.backends.packed_file import (
    PAGE,
    PackedFileError,
    PackedWeight,
    check_all,
    read_packed,
    write_packed,
)
from slipstream.formats.affine import quantize_affine
from slipstream.formats.tensor import Affine, AffineTensor, DenseTensor


def affine(zero="minimum"):
    return quantize_affine(np.ones((16, 64), np.float32), Affine(4, 32, zero))


def weights(sizes=(64, 3 * PAGE + 64)):
    random = np.random.default_rng(0)
    layouts = [(16, 64, "int4", 32, "f16", "f16", 0, 0), (16, 64, "bf16", 0, "f32", None, 0, 0)]
    outlines = [affine(), DenseTensor(np.zeros((16, 64), ml_dtypes.bfloat16))]
    panels = [random.integers(0, 255, size, np.uint8) for size in sizes]
    vector = np.arange(5, dtype=np.float32)
    return [
        *(
            PackedWeight(f"matrix {i}", outlines[i], layouts[i], panels[i])
            for i in range(len(sizes))
        ),
        PackedWeight("vector", DenseTensor(vector.astype(np.float16)), None, vector),
    ]


@pytest.fixture
def path(tmp_path):
    write_packed(tmp_path / "a.packed", "key", weights())
    return tmp_path / "a.packed"


def test_what_was_written_is_read(path):
    found = read_packed(path, "key")
    assert [weight.name for weight in found] == ["matrix 0", "matrix 1", "vector"]
    for weight, wanted in zip(found, weights(), strict=True):
        assert weight.layout == wanted.layout
        np.testing.assert_array_equal(weight.data, wanted.data)
        assert weight.outline.shape == wanted.outline.shape
    assert found[2].data.dtype == np.float32


@pytest.mark.parametrize("zero", ["symmetric", "zero_point", "minimum"])
def test_an_outline_keeps_the_format_and_takes_no_memory(tmp_path, zero):
    tensor = affine(zero)
    panels = PackedWeight(
        "a", tensor, (16, 64, "int4", 32, "f16", None, 0, 0), np.zeros(64, np.uint8)
    )
    write_packed(tmp_path / "a", "key", [panels])
    outline = read_packed(tmp_path / "a", "key")[0].outline
    assert isinstance(outline, AffineTensor)
    assert outline.format == tensor.format
    assert outline.scales.dtype == tensor.scales.dtype
    assert (outline.offsets is None) == (tensor.offsets is None)
    assert outline.codes.strides == (0, 0)


def test_every_weight_begins_on_a_page_and_is_not_copied(path):
    for weight in read_packed(path, "key"):
        assert weight.data.ctypes.data % PAGE == 0
        assert not weight.data.flags.owndata
        assert not weight.data.flags.writeable


def test_the_file_of_another_model_is_refused(path):
    with pytest.raises(PackedFileError, match="another model"):
        read_packed(path, "other key")


def test_an_absent_file_is_an_operating_system_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_packed(tmp_path / "absent", "key")


@given(length=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_short_is_always_noticed(tmp_path_factory, length):
    path = tmp_path_factory.mktemp("cut") / "a"
    write_packed(path, "key", weights())
    whole = path.read_bytes()
    path.write_bytes(whole[: int(length * len(whole))])
    with pytest.raises(PackedFileError):
        read_packed(path, "key")


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_noticed_by_the_check_of_all_bytes(tmp_path_factory, place, bit):
    path = tmp_path_factory.mktemp("flip") / "a"
    write_packed(path, "key", weights())
    content = bytearray(path.read_bytes())
    at = int(place * len(content))
    content[at] ^= 1 << bit
    path.write_bytes(content)
    try:
        check_all(path)
    except PackedFileError:
        return
    # Only the padding between weights may differ without harm.
    for weight, wanted in zip(read_packed(path, "key"), weights(), strict=True):
        np.testing.assert_array_equal(weight.data, wanted.data)


@pytest.mark.parametrize("place", [0, 10, 20, 60])
def test_a_damaged_header_is_noticed_at_once(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(PackedFileError):
        read_packed(path, "key")


def test_an_end_of_zeros_is_noticed_at_once(path):
    """What a file system may leave of a file that was not synced when the power failed."""
    size = path.stat().st_size
    with open(path, "r+b") as file:
        file.truncate(size - 3 * PAGE)
        file.truncate(size)
    with pytest.raises(PackedFileError):
        read_packed(path, "key")


@given(content=st.binary(max_size=200))
def test_anything_else_is_refused_as_such(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("any") / "a"
    path.write_bytes(b"SLIPPACK" + content)
    with pytest.raises(PackedFileError):
        read_packed(path, "key")
