"""GGUF files: read like the gguf package reads them, and refused when they are wrong."""

import struct

import gguf
import numpy as np
import pytest

from slipstream.checkpoint.gguf import GGUFFile
from slipstream.errors import GGUFError, SourceError, UnsupportedError


def opened(tmp_path, content: bytes, name="x.gguf") -> GGUFFile:
    (tmp_path / name).write_bytes(content)
    return GGUFFile(tmp_path / name)


def with_u64(content: bytes, position: int, value: int) -> bytes:
    return content[:position] + struct.pack("<Q", value & (1 << 64) - 1) + content[position + 8 :]


@pytest.fixture
def tiny(gguf_bytes, tiny_llama) -> bytes:
    return gguf_bytes(*tiny_llama)


def test_a_file_of_the_gguf_package_reads_back(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_uint8("u8", 200)
    writer.add_int8("i8", -3)
    writer.add_uint16("u16", 60000)
    writer.add_int16("i16", -300)
    writer.add_uint32("u32", 1 << 31)
    writer.add_int32("i32", -5)
    writer.add_float32("f32", 0.5)
    writer.add_uint64("u64", 1 << 63)
    writer.add_int64("i64", -(1 << 62))
    writer.add_float64("f64", 1e300)
    writer.add_bool("yes", True)
    writer.add_string("text", "Größe ▁")
    writer.add_array("strings", ["a", "", "▁b"])
    writer.add_array("numbers", [1, -2, 3])
    writer.add_array("floats", [1.5, -2.5])
    writer.add_array("flags", [True, False])
    weights = np.arange(12, dtype=np.float32).reshape(3, 4)
    writer.add_tensor("w", weights)
    writer.add_tensor("h", weights.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = GGUFFile(tmp_path / "x.gguf")
    expected = {
        "u8": 200, "i8": -3, "u16": 60000, "i16": -300, "u32": 1 << 31, "i32": -5, "f32": 0.5,
        "u64": 1 << 63, "i64": -(1 << 62), "f64": 1e300, "yes": True, "text": "Größe ▁",
        "strings": ["a", "", "▁b"], "numbers": [1, -2, 3], "floats": [1.5, -2.5], "flags": [True, False],
    }  # fmt: skip
    assert dict(file.metadata) == expected | {"general.architecture": "llama"}
    assert file.version == 3 and file.tensors["w"].shape == (3, 4)
    np.testing.assert_array_equal(file.tensor("w").dequantize(), weights)
    np.testing.assert_array_equal(file.tensor("h").data, weights.astype(np.float16))


@pytest.mark.parametrize("version", [2, 3])
def test_both_versions_are_read(tmp_path, gguf_bytes, tiny_llama, version):
    file = opened(tmp_path, gguf_bytes(*tiny_llama, version=version))
    assert file.version == version and len(file.tensors) == 11


def test_tensors_are_views_of_the_map(tmp_path, tiny):
    raw = opened(tmp_path, tiny).raw("output_norm.weight")
    assert not raw.flags.owndata and not raw.flags.writeable and raw.nbytes == 128


def test_another_alignment_is_obeyed(tmp_path, gguf_bytes):
    raw = np.arange(3, dtype="<f4").tobytes()
    content = gguf_bytes(
        {"general.alignment": 8}, {"a": ((3,), 0, raw), "b": ((3,), 0, raw)}, alignment=8
    )
    np.testing.assert_array_equal(opened(tmp_path, content).tensor("b").data, [0, 1, 2])


def test_a_type_that_we_cannot_decode_is_listed_and_refused_when_read(tmp_path, gguf_bytes):
    file = opened(tmp_path, gguf_bytes({}, {"a": ((256,), 19, bytes(50))}))
    assert file.tensors["a"].kind.name == "IQ1_S"
    with pytest.raises(UnsupportedError, match="IQ1_S"):
        file.tensor("a")


def test_what_is_absent_is_a_key_error_and_what_is_missing_a_source_error(tmp_path, tiny):
    file = opened(tmp_path, tiny)
    with pytest.raises(KeyError):
        file.raw("nothing")
    with pytest.raises(KeyError):
        file.metadata["nothing"]
    with pytest.raises(SourceError, match=r"nothing\.gguf"):
        GGUFFile(tmp_path / "nothing.gguf")
    with pytest.raises(SourceError):
        GGUFFile(tmp_path)


def test_every_truncation_is_one_typed_error(tmp_path, tiny):
    for length in [*range(0, 1400, 13), len(tiny) - 1]:
        with pytest.raises(GGUFError, match=r"x\.gguf: "):
            opened(tmp_path, tiny[:length])


def array_of(kind: int, count: int, content: bytes = b"") -> tuple[int, bytes]:
    return 9, struct.pack("<IQ", kind, count) + content


HOSTILE_METADATA = {
    "nested arrays": ({"k": array_of(9, 1, struct.pack("<IQ", 4, 0))}, "array of arrays"),
    "nested bomb": ({"k": array_of(9, 1 << 60)}, "array of arrays"),
    "absurd count": ({"k": array_of(0, 1 << 62)}, "elements"),
    "overflowing count": ({"k": array_of(10, 1 << 61)}, "elements"),
    "absurd strings": ({"k": array_of(8, 3, struct.pack("<Q", 1 << 63) * 3)}, "cut off|do not fit"),
    "unknown array type": ({"k": array_of(77, 1)}, "unknown type 77"),
    "unknown type": ({"k": (77, b"")}, "unknown type 77"),
    "bad UTF-8 value": ({"k": b"\xff\xfe"}, "not UTF-8"),
    "bad UTF-8 key": ({b"\xff": 1}, "not UTF-8"),
    "alignment": ({"general.alignment": 24}, "power of two"),
    "alignment zero": ({"general.alignment": 0}, "power of two"),
    "alignment text": ({"general.alignment": "32"}, "power of two"),
    "alignment huge": ({"general.alignment": 1 << 31}, "power of two"),
    "split count": ({"split.count": "two"}, "split.count"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE_METADATA)
def test_hostile_metadata_is_refused(tmp_path, gguf_bytes, case):
    metadata, words = HOSTILE_METADATA[case]
    with pytest.raises(GGUFError, match=words):
        opened(tmp_path, gguf_bytes(metadata) + bytes(64))


def test_bad_utf8_within_an_array_is_an_error_when_it_is_read(tmp_path, gguf_bytes):
    file = opened(
        tmp_path, gguf_bytes({"k": array_of(8, 1, struct.pack("<Q", 1) + b"\xff")}) + bytes(32)
    )
    with pytest.raises(GGUFError, match="not UTF-8"):
        file.metadata["k"]


@pytest.mark.parametrize("position", [8, 16])
@pytest.mark.parametrize("count", [1 << 63, -1, 1 << 40, 1 << 17])
def test_absurd_counts_are_refused_before_anything_is_allocated(tmp_path, tiny, position, count):
    with pytest.raises(GGUFError, match=r"announces|cut off"):
        opened(tmp_path, with_u64(tiny, position, count))


HOSTILE_TENSORS = {
    "no dimensions": ((), 0, b"", "0 dimensions"),
    "five dimensions": ((1, 1, 1, 1, 1), 0, bytes(4), "5 dimensions"),
    "zero": ((0, 4), 0, b"", "shape"),
    "negative": (((1 << 64) - 32, 4), 0, bytes(4), "shape"),
    "overflow": ((1 << 32, 1 << 32), 0, bytes(4), "shape"),
    "out of file": ((1 << 20,), 0, bytes(4), "cut off"),
    "unknown type": ((4,), 55, bytes(4), "unknown type 55"),
    "removed type": ((4,), 4, bytes(4), "unknown type 4"),
    "not whole blocks": ((31,), 2, bytes(18), "multiples of 32"),
}


@pytest.mark.parametrize("case", HOSTILE_TENSORS)
def test_hostile_tensors_are_refused(tmp_path, gguf_bytes, case):
    dimensions, kind, raw, words = HOSTILE_TENSORS[case]
    with pytest.raises(GGUFError, match=words):
        opened(tmp_path, gguf_bytes({}, {"t": (dimensions, kind, raw)}))


def two_tensors(gguf_bytes) -> bytes:
    return gguf_bytes({}, {"first": ((16,), 0, bytes(64)), "other": ((16,), 0, bytes(64))})


@pytest.mark.parametrize(("offset", "words"), [(0, "overlap"), (32, "overlap"), (33, "multiple of 32"), (96, "cut off"), ((1 << 64) - 32, "cut off")])  # fmt: skip
def test_wrong_offsets_are_refused(tmp_path, gguf_bytes, offset, words):
    content = two_tensors(gguf_bytes)
    position = content.index(b"other") + 5 + 4 + 8 + 4
    with pytest.raises(GGUFError, match=words):
        opened(tmp_path, with_u64(content, position, offset))


def test_names_and_keys_may_appear_once(tmp_path, gguf_bytes):
    with pytest.raises(GGUFError, match="two tensors are called 'first'"):
        opened(tmp_path, two_tensors(gguf_bytes).replace(b"other", b"first"))
    with pytest.raises(GGUFError, match=r"'key.a' appears twice"):
        opened(tmp_path, gguf_bytes({"key.a": 1, "key.b": 2}).replace(b"key.b", b"key.a"))


@pytest.mark.parametrize(
    ("head", "words"),
    [(b"GGML" + struct.pack("<I", 3), "letters GGUF"), (b"GGUF" + struct.pack(">I", 3), "big-endian"), (b"GGUF" + struct.pack("<I", 1), "version 1"), (b"GGUF" + struct.pack("<I", 4), "version 4")],
)  # fmt: skip
def test_other_files_and_versions_are_refused(tmp_path, head, words):
    with pytest.raises(GGUFError, match=words):
        opened(tmp_path, head + bytes(64))


def split(gguf_bytes, folder, count=3, tensors=3):
    for number in range(count):
        metadata = {
            "split.no": (2, number),
            "split.count": (2, count),
            "split.tensors.count": (5, tensors),
        }
        raw = np.full(8, number, "<f4").tobytes()
        (folder / f"m-{number + 1:05}-of-{count:05}.gguf").write_bytes(
            gguf_bytes(metadata, {f"t{number}": ((8,), 0, raw)})
        )
    return [folder / f"m-{number + 1:05}-of-{count:05}.gguf" for number in range(count)]


def test_any_part_opens_all_parts(tmp_path, gguf_bytes):
    paths = split(gguf_bytes, tmp_path)
    for path in paths:
        file = GGUFFile(path)
        assert file.paths == tuple(paths) and file.metadata["split.no"] == 0
        assert [float(file.tensor(f"t{i}").data[0]) for i in range(3)] == [0, 1, 2]


def test_wrong_sets_of_parts_are_refused(tmp_path, gguf_bytes):
    paths = split(gguf_bytes, tmp_path, tensors=4)
    with pytest.raises(GGUFError, match="announces 4 tensors"):
        GGUFFile(paths[0])
    paths[1].write_bytes(paths[0].read_bytes())
    with pytest.raises(GGUFError, match="two parts hold the tensor 't0'"):
        GGUFFile(paths[0])
    paths[1].write_bytes(gguf_bytes({"split.count": 2}))
    with pytest.raises(GGUFError, match="not a part of the same model"):
        GGUFFile(paths[0])
    paths[1].unlink()
    with pytest.raises(GGUFError, match=r"00002-of-00003.gguf is missing"):
        GGUFFile(paths[0])
    paths[0].rename(tmp_path / "renamed.gguf")
    with pytest.raises(GGUFError, match="name them"):
        GGUFFile(tmp_path / "renamed.gguf")
