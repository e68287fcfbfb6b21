"""The head of a GGUF file, read from bytes that nobody vouches for.

`gguf.GGUFFile` calls `read_header`. Every count, length and offset is checked against the size of
the file before anything is allocated for it; whatever is wrong is one `GGUFError` in words. Arrays
of strings are only stepped over here, and decoded when somebody asks (`Metadata`).
"""

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import repeat
from mmap import mmap
from typing import Any

import numpy as np

from slipstream.errors import GGUFError
from slipstream.formats.ggml_types import GGML_TYPES, GGMLType

_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS: dict[int, struct.Struct] = {
    number: struct.Struct("<" + code)
    for number, code in enumerate(["B", "b", "H", "h", "I", "i", "f", "B", "", "", "Q", "q", "d"])
    if code
}
_ARRAY_DTYPES = {0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "u1"}
_ARRAY_DTYPES |= {10: "<u8", 11: "<i8", 12: "<f8"}

# Far above any model there is, far below what could hurt: the largest vocabularies have 262,144
# tokens and half a million merges, the deepest models some thousands of tensors.
_MOST_KEYS = 1 << 16
_MOST_TENSORS = 1 << 18
_MOST_ELEMENTS = 1 << 22
_MOST_DIMENSIONS = 4
_LONGEST_NAME = 1 << 16
_LARGEST_ALIGNMENT = 1 << 20
_LARGEST_HEADER = 1 << 29

_read_u32 = struct.Struct("<I").unpack_from
_read_u64 = struct.Struct("<Q").unpack_from

Buffer = bytes | mmap


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of the file. `shape` is rows first (GGUF itself writes inputs first)."""

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int  # from the start of the file
    size_bytes: int

    @property
    def kind(self) -> GGMLType:
        """Its number type."""
        return GGML_TYPES[self.type]


@dataclass(frozen=True)
class Header:
    """What the head of a file says."""

    version: int
    metadata: "Metadata"
    tensors: dict[str, TensorInfo]


@dataclass(frozen=True)
class _Deferred:
    """An array still lying in the file."""

    type: int
    count: int
    start: int
    end: int


class Metadata(Mapping[str, Any]):
    """Key → str, int, float, bool or list of them. Arrays are decoded at their first use.

    A lookup raises KeyError for an absent key, GGUFError for an array of strings not in UTF-8.
    """

    def __init__(self, buffer: Buffer, values: dict[str, Any]) -> None:
        self._buffer = buffer
        self._values = values

    def __getitem__(self, key: str) -> Any:
        value = self._values[key]
        if isinstance(value, _Deferred):
            value = self._values[key] = _decode_array(self._buffer, key, value)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: object) -> bool:
        return key in self._values


def read_header(buffer: Buffer) -> Header:
    """Reads and checks the head of a file held in `buffer`; GGUFError says what is wrong."""
    try:
        return _read_header(buffer)
    except (struct.error, OverflowError) as error:
        raise GGUFError("the file ends within its header: it is damaged or cut off") from error


def _read_header(buffer: Buffer) -> Header:
    version, position = _read_version(buffer), 8
    (tensor_count,), (key_count,) = _read_u64(buffer, position), _read_u64(buffer, position + 8)
    room = len(buffer) - 24
    if key_count > min(_MOST_KEYS, room // 13) or tensor_count > min(_MOST_TENSORS, room // 24):
        raise GGUFError(
            f"the header announces {key_count} keys and {tensor_count} tensors, more than a file of"
            f" {len(buffer)} bytes can hold: it is damaged"
        )
    values, position = _read_keys(buffer, 24, key_count)
    alignment = _alignment(values.get("general.alignment", 32))
    infos, position = _read_infos(buffer, position, tensor_count)
    if position > len(buffer):
        raise GGUFError("the file ends within its header: it is damaged or cut off")
    start = -(-position // alignment) * alignment
    tensors = {info[0]: _place(info, start, alignment, len(buffer)) for info in infos}
    _refuse_overlaps(tensors)
    return Header(version, Metadata(buffer, values), tensors)


def _read_version(buffer: Buffer) -> int:
    if buffer[:4] != b"GGUF":
        raise GGUFError("not a GGUF file: it does not begin with the letters GGUF")
    (version,) = _read_u32(buffer, 4)
    if version & 0xFFFF == 0:
        raise GGUFError("a big-endian GGUF file: convert it with gguf_convert_endian.py first")
    if version not in (2, 3):
        raise GGUFError(f"GGUF version {version} is not supported (2 and 3 are): convert it again")
    return int(version)


def _read_keys(buffer: Buffer, position: int, count: int) -> tuple[dict[str, Any], int]:
    """Reads `count` keys and values from `position`; returns them and the position after."""
    values: dict[str, Any] = {}
    for _ in repeat(None, count):
        key, position = _read_string(buffer, position, "a key", _LONGEST_NAME)
        if key in values:
            raise GGUFError(f"the key {key!r} appears twice")
        (kind,) = _read_u32(buffer, position)
        values[key], position = _read_value(buffer, position + 4, kind, key)
    return values, position


def _read_value(buffer: Buffer, position: int, kind: int, key: str) -> tuple[Any, int]:
    scalar = _SCALARS.get(kind)
    if scalar is not None:
        (value,) = scalar.unpack_from(buffer, position)
        return bool(value) if kind == _BOOL else value, position + scalar.size
    if kind == _STRING:
        return _read_string(buffer, position, f"the value of {key!r}", len(buffer))
    if kind != _ARRAY:
        raise GGUFError(f"the key {key!r} has a value of unknown type {kind}")
    return _skip_array(buffer, position, key)


def _read_string(buffer: Buffer, position: int, what: str, longest: int) -> tuple[str, int]:
    (length,) = _read_u64(buffer, position)
    start, end = position + 8, position + 8 + length
    if length > longest or end > _room(buffer):
        raise GGUFError(f"{what} is said to be {length} bytes long: the file is damaged or cut off")
    try:
        return buffer[start:end].decode("utf-8"), end
    except UnicodeDecodeError as error:
        raise GGUFError(f"{what} is not UTF-8 text (at byte {start + error.start})") from error


def _skip_array(buffer: Buffer, position: int, key: str) -> tuple[_Deferred, int]:
    """Steps over an array, having seen that it lies within the file."""
    (kind,), (count,) = _read_u32(buffer, position), _read_u64(buffer, position + 4)
    start = position + 12
    if kind == _ARRAY:
        raise GGUFError(f"the key {key!r} holds an array of arrays, which no model uses")
    if kind != _STRING and kind not in _SCALARS:
        raise GGUFError(f"the key {key!r} holds an array of unknown type {kind}")
    each = 8 if kind == _STRING else _SCALARS[kind].size
    if count > _MOST_ELEMENTS or start + count * each > _room(buffer):
        raise GGUFError(f"the key {key!r} is said to hold {count} elements: the file is damaged")
    if kind != _STRING:
        end = start + count * each
        return _Deferred(kind, count, start, end), end
    end = _skip_strings(buffer, start, count)
    if end > _room(buffer):
        raise GGUFError(f"the strings of {key!r} do not fit into the file: it is damaged")
    return _Deferred(kind, count, start, end), end


def _skip_strings(buffer: Buffer, position: int, count: int) -> int:
    """The position after `count` strings. A loop this tight: vocabularies hold 100,000 strings."""
    read = _read_u64
    for _ in repeat(None, count):
        position += 8 + read(buffer, position)[0]
    return position


def _decode_array(buffer: Buffer, key: str, array: _Deferred) -> list[Any]:
    if array.type != _STRING:
        dtype = np.dtype(_ARRAY_DTYPES[array.type])
        values = np.frombuffer(buffer, dtype, array.count, array.start)
        return (values != 0).tolist() if array.type == _BOOL else values.tolist()
    read, position, text = _read_u64, 0, buffer[array.start : array.end]
    strings: list[bytes] = []
    append = strings.append
    for _ in repeat(None, array.count):
        start = position + 8
        position = start + read(text, position)[0]
        append(text[start:position])
    try:
        return [string.decode() for string in strings]
    except UnicodeDecodeError as error:
        raise GGUFError(
            f"the strings of {key!r} are not UTF-8 text: the file is damaged"
        ) from error


def _room(buffer: Buffer) -> int:
    """Where the header must end: at the end of the file, and within what can be held in memory."""
    return min(len(buffer), _LARGEST_HEADER)


def _alignment(value: Any) -> int:
    valid = type(value) is int and 0 < value <= _LARGEST_ALIGNMENT
    if not valid or value & (value - 1):
        raise GGUFError(f"general.alignment is {value!r}; it must be a power of two")
    return int(value)


_Info = tuple[str, tuple[int, ...], int, int]  # name, shape, type, offset in the data


def _read_infos(buffer: Buffer, position: int, count: int) -> tuple[list[_Info], int]:
    """Reads the table of tensors; returns it and the position after."""
    infos: list[_Info] = []
    names: set[str] = set()
    for _ in repeat(None, count):
        name, position = _read_string(buffer, position, "a tensor's name", _LONGEST_NAME)
        if name in names:
            raise GGUFError(f"two tensors are called {name!r}")
        names.add(name)
        (rank,) = _read_u32(buffer, position)
        if not 1 <= rank <= _MOST_DIMENSIONS:
            raise GGUFError(f"the tensor {name!r} is said to have {rank} dimensions (1 to 4 are)")
        table = struct.Struct(f"<{rank}QIQ")
        *dimensions, kind, offset = table.unpack_from(buffer, position + 4)
        position += 4 + table.size
        infos.append((name, tuple(reversed(dimensions)), kind, offset))
    return infos, position


def _place(info: _Info, start: int, alignment: int, file_size: int) -> TensorInfo:
    """Checks one tensor against the file: its type, its size, and that it lies within."""
    name, shape, type, offset = info
    kind = GGML_TYPES.get(type)
    if kind is None:
        raise GGUFError(f"the tensor {name!r} has the unknown type {type}: is the file too new?")
    values = math.prod(shape)
    if not 0 < values < 1 << 60 or shape[-1] % kind.block:
        raise GGUFError(
            f"the tensor {name!r} cannot have the shape {shape} in {kind.name}, whose rows are"
            f" multiples of {kind.block}: the file is damaged"
        )
    size = kind.size_bytes(values)
    if offset % alignment:
        raise GGUFError(f"the tensor {name!r} does not lie on a multiple of {alignment} bytes")
    if start + offset + size > file_size:
        raise GGUFError(
            f"the tensor {name!r} ends at byte {start + offset + size}, but the file at"
            f" {file_size}: it is damaged or cut off; fetch it again"
        )
    return TensorInfo(name, shape, type, start + offset, size)


def _refuse_overlaps(tensors: Mapping[str, TensorInfo]) -> None:
    end, before = 0, ""
    for info in sorted(tensors.values(), key=lambda info: info.offset):
        if info.offset < end:
            raise GGUFError(
                f"the tensors {before!r} and {info.name!r} overlap: the file is damaged"
            )
        end, before = info.offset + info.size_bytes, info.name
