"""Safetensors against the safetensors package, and every way in which a file can be wrong."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from slipstream.checkpoint.safetensors import DTYPES, SafetensorsFile, Shards
from slipstream.checkpoint.safetensors_write import write_safetensors
from slipstream.errors import SafetensorsError, SourceError


def sample(dtype: np.dtype, shape=(3, 5)) -> np.ndarray:
    raw = np.random.default_rng(1).integers(0, 2, (*shape, dtype.itemsize), dtype=np.uint8)
    return raw.view(dtype).reshape(shape)


def a_file(path, header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(begin, end, shape, dtype="U8"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_every_dtype_comes_back_as_written(tmp_path):
    arrays = {name: sample(dtype) for name, dtype in DTYPES.items()}
    write_safetensors(tmp_path / "x.safetensors", arrays, {"format": "pt"})
    file = SafetensorsFile(tmp_path / "x.safetensors")
    assert file.names() == sorted(arrays) and file.metadata == {"format": "pt"}
    for name, array in arrays.items():
        assert file.array(name).dtype == array.dtype
        assert file.array(name).tobytes() == array.tobytes()


def test_what_we_write_the_safetensors_package_reads(tmp_path):
    arrays = {
        "a": sample(np.dtype("<f4")),
        "b": sample(np.dtype("i1"), (7,)),
        "empty": np.zeros((0, 4), np.float16),
    }
    arrays["scalar"] = np.array(3, np.int64)
    write_safetensors(tmp_path / "x.safetensors", arrays)
    read = safetensors.numpy.load_file(tmp_path / "x.safetensors")
    assert set(read) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array)


def test_what_torch_writes_we_read(tmp_path):
    torch.manual_seed(0)
    tensors = {
        "f8": torch.randn(4, 4).to(torch.float8_e4m3fn),
        "f8b": torch.randn(4, 4).to(torch.float8_e5m2),
        "bf16": torch.randn(3, 4).to(torch.bfloat16),
        "flags": torch.tensor([True, False, True]),
    }
    safetensors.torch.save_file(tensors, tmp_path / "x.safetensors", {"format": "pt"})
    file = SafetensorsFile(tmp_path / "x.safetensors")
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(file.array(name).astype(np.float32), tensor.float().numpy())
    assert file.array("bf16").dtype == ml_dtypes.bfloat16


def test_views_are_of_the_file_and_misaligned_ones_are_copies(tmp_path):
    path = a_file(
        tmp_path / "x.safetensors", {"a": entry(0, 1, [1]), "b": entry(1, 9, [2], "F32")}, bytes(9)
    )
    file = SafetensorsFile(path)
    assert not file.array("a").flags.owndata and not file.array("a").flags.writeable
    assert file.array("b").flags.aligned


def test_writing_is_whole_or_not_at_all(tmp_path):
    class Broken(dict):
        def __getitem__(self, name):
            if self.reads >= 2:
                raise RuntimeError("the disk is gone")
            self.reads += 1
            return super().__getitem__(name)

    path = tmp_path / "x.safetensors"
    write_safetensors(path, {"a": np.ones(4)})
    before = path.read_bytes()
    tensors = Broken(a=np.zeros(4))
    tensors.reads = 0
    with pytest.raises(RuntimeError):
        write_safetensors(path, tensors)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def test_the_writer_refuses_what_the_format_lacks(tmp_path):
    with pytest.raises(ValueError, match="complex128"):
        write_safetensors(tmp_path / "x.safetensors", {"a": np.zeros(2, complex)})
    with pytest.raises(ValueError, match="__metadata__"):
        write_safetensors(tmp_path / "x.safetensors", {"__metadata__": np.zeros(2)})


DAMAGED = {
    "too short": (b"abc", "too short"),
    "absurd header": (struct.pack("<Q", 1 << 60) + b"{}", "damaged or cut off"),
    "negative header": (struct.pack("<q", -1) + b"{}", "damaged or cut off"),
    "no JSON": (struct.pack("<Q", 3) + b"{a}", "not valid JSON"),
    "no UTF-8": (struct.pack("<Q", 3) + b'{"\xff', "not UTF-8"),
    "a list": (struct.pack("<Q", 2) + b"[]", "an object is expected"),
    "deep": (struct.pack("<Q", 200_000) + b"[" * 200_000, "nested too deeply|not valid JSON"),
    "huge number": (struct.pack("<Q", 10_005) + b'{"a":' + b"9" * 10_000, "not valid JSON"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_headers_are_refused_in_words(tmp_path, case):
    content, words = DAMAGED[case]
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(SafetensorsError, match=words):
        SafetensorsFile(tmp_path / "x.safetensors")


WRONG = {
    "entry": {"a": 3},
    "dtype": {"a": entry(0, 8, [8], "F7")},
    "dtype type": {"a": entry(0, 8, [8], ["F32"])},
    "negative dimension": {"a": entry(0, 8, [-8])},
    "boolean dimension": {"a": entry(0, 8, [True, 8])},
    "fraction": {"a": entry(0, 8, [8.0])},
    "overflow": {"a": entry(0, 8, [1 << 40, 1 << 40])},
    "huge dimension": {"a": entry(0, 8, [1 << 64])},
    "too many dimensions": {"a": entry(0, 8, [1] * 40 + [8])},
    "size": {"a": entry(0, 8, [7])},
    "backwards": {"a": entry(8, 0, [8])},
    "beyond": {"a": entry(0, 80, [80])},
    "overlap": {"a": entry(0, 8, [8]), "b": entry(4, 8, [4])},
    "gap": {"a": entry(0, 3, [3]), "b": entry(4, 8, [4])},
    "behind": {"a": entry(0, 7, [7])},
    "offsets": {"a": {"dtype": "U8", "shape": [8], "data_offsets": [0]}},
    "metadata": {"__metadata__": {"a": 1}, "a": entry(0, 8, [8])},
    "metadata type": {"__metadata__": [], "a": entry(0, 8, [8])},
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_entries_are_refused(tmp_path, case):
    with pytest.raises(SafetensorsError, match=r"x\.safetensors: "):
        SafetensorsFile(a_file(tmp_path / "x.safetensors", WRONG[case], bytes(8)))


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(SourceError, match="cannot be opened"):
        SafetensorsFile(tmp_path / "x.safetensors")


def two_shards(folder):
    write_safetensors(folder / "model-1.safetensors", {"a": np.arange(3)})
    write_safetensors(folder / "model-2.safetensors", {"b": np.arange(4), "unlisted": np.arange(5)})
    return {"a": "model-1.safetensors", "b": "model-2.safetensors"}


def index(folder, weight_map):
    text = weight_map if isinstance(weight_map, str) else json.dumps({"weight_map": weight_map})
    (folder / "model.safetensors.index.json").write_text(text)


def test_shards_are_read_as_their_index_says(tmp_path):
    index(tmp_path, two_shards(tmp_path))
    shards = Shards(tmp_path)
    assert shards.names() == ["a", "b"]
    np.testing.assert_array_equal(shards.array("b"), np.arange(4))
    with pytest.raises(KeyError):
        shards.array("unlisted")


def test_one_file_needs_no_index(tmp_path):
    write_safetensors(tmp_path / "model.safetensors", {"a": np.arange(3)})
    assert Shards(tmp_path).names() == ["a"]


@pytest.mark.parametrize(
    "name",
    ["../x.safetensors", "/etc/x.safetensors", "a/b.safetensors", "..", "", ".safetensors", "model.safetensors.index.json",
     "missing.safetensors", "a\\b.safetensors", "a\0.safetensors", 3, None, ["x"]],
)  # fmt: skip
def test_shards_elsewhere_or_missing_are_refused(tmp_path, name):
    two_shards(tmp_path)
    index(tmp_path, {"a": "model-1.safetensors", "b": name})
    with pytest.raises(SafetensorsError):
        Shards(tmp_path)


def test_an_index_that_promises_too_much_is_refused(tmp_path):
    index(tmp_path, two_shards(tmp_path) | {"c": "model-1.safetensors"})
    with pytest.raises(SafetensorsError, match="'c'"):
        Shards(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"weight_map": {}}', '{"weight_map": 3}', "[" * 100_000]
)
def test_a_damaged_index_is_refused(tmp_path, text):
    index(tmp_path, text)
    with pytest.raises(SafetensorsError):
        Shards(tmp_path)
