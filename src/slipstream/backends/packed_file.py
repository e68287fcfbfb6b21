"""One file of packed weights: what the kernels read, so that the next start only has to map it.

`packed_cache` writes and opens these. A file is trusted after its header's hash, its exact size and
the first and last page of every matrix were compared; anything else is a PackedFileError, and the
weights are packed again. `check_all` compares every byte.

    "SLIPPACK" · version u32 · length of the header u32 · SHA-256 of the header
    header: JSON, one entry a weight: where its bytes lie, their checksums, what it was
    bytes of the weights, each beginning on a page

The panels do not depend on the instruction set (csrc/kernels/pack.h), so one file serves them all.
"""

import contextlib
import hashlib
import json
import mmap
import os
import struct
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from slipstream.formats.tensor import (
    Affine,
    AffineTensor,
    Codebook,
    CodebookTensor,
    DenseTensor,
    NestedTensor,
    Tensor,
    arrays_of,
)

MAGIC = b"SLIPPACK"
VERSION = 3
PAGE = 4096
BLOCK = 8 << 20  # a multiple of the 2 MB of a large page
_START = struct.Struct("<8sII32s")
_HEADER_MOST = 1 << 28
_DTYPES = {
    name: np.dtype(getattr(ml_dtypes, name) if name == "bfloat16" else name)
    for name in ("float32", "float16", "bfloat16", "int8", "uint8", "int32", "int64")
}

_KINDS: Mapping[type, str] = {
    AffineTensor: "affine",
    CodebookTensor: "codebook",
    NestedTensor: "nested",
}

# outputs, inputs, codes, group, scales, minimums, supers, code bytes: as csrc/bind_packed.cpp takes
# and gives
Layout = tuple[int, int, str, int, str, str | None, int, int]


class PackedFileError(Exception):
    """The file cannot be used; whoever asked packs the weights again. Users never see it."""


@dataclass(frozen=True)
class PackedWeight:
    """One weight: packed panels, or (without a layout) the float32 values of a vector.

    outline  the tensor it was packed from, format and shape without the values
    data     uint8 [size] panels, or float32 [n]
    """

    name: str
    outline: Tensor
    layout: Layout | None
    data: NDArray[Any]


def write_packed(path: Path, key: str, weights: Iterable[PackedWeight]) -> None:
    """Writes the file and syncs it, under the very name given: renaming it is the caller's part."""
    kept = list(weights)
    entries = [_entry(weight) for weight in kept]
    length = len(json.dumps(_header(key, entries, 0, 0)).encode()) + 64 * (len(entries) + 2)
    start = _to_page(_START.size + length)
    end = start
    for entry in entries:
        entry["offset"], end = end, _to_page(end + entry["size"])
    text = json.dumps(_header(key, entries, start, end)).encode().ljust(length)
    digest = hashlib.sha256(text).digest()
    with open(path, "wb", buffering=0) as file:
        blocks = _Blocks(file)
        blocks.write_at(0, _START.pack(MAGIC, VERSION, length, digest) + text)
        for entry, weight in zip(entries, kept, strict=True):
            blocks.write_at(entry["offset"], weight.data.data)
        blocks.finish(end)
        os.fsync(file.fileno())


def read_packed(path: Path, key: str) -> list[PackedWeight]:
    """The weights, as views of the mapped file. PackedFileError if it is not whole, or not `key`'s;
    OSError if it cannot be opened.
    """
    memory, header = _open(path)
    if header.get("key") != key:
        raise PackedFileError(f"{path} holds the weights of another model")
    return _weights(path, memory, header, _check_edges)


def check_all(path: Path) -> None:
    """Compares every byte with its checksum, a second for two gigabytes. Errors: `read_packed`."""
    memory, header = _open(path)
    _weights(path, memory, header, _check_whole)


class _Blocks:
    """Writes a file from its start in whole blocks, with zeros between the pieces.

    File systems that keep what is written together in one large page (ext4 since Linux 6.16, xfs)
    then map it by 2 MB: written piece by piece, 14 of 92 MB were; by blocks, all of them.
    """

    def __init__(self, file: FileIO) -> None:
        self._file = file
        self._block = bytearray(BLOCK)
        self._used = 0
        self._done = 0  # bytes in the file

    def write_at(self, offset: int, data: bytes | memoryview) -> None:
        """Appends `data` at `offset`, which is no less than the end of the last piece."""
        self._append(memoryview(bytes(offset - self._done - self._used)))
        self._append(memoryview(data).cast("B"))

    def finish(self, end: int) -> None:
        """Fills up to `end` and writes what is left."""
        self.write_at(end, b"")
        self._flush()

    def _append(self, data: memoryview) -> None:
        while len(data):
            part = data[: BLOCK - self._used]
            self._block[self._used : self._used + len(part)] = part
            self._used += len(part)
            data = data[len(part) :]
            if self._used == BLOCK:
                self._flush()

    def _flush(self) -> None:
        rest = memoryview(self._block)[: self._used]
        while len(rest):
            rest = rest[self._file.write(rest) :]
        self._done += self._used
        self._used = 0


def _header(key: str, entries: list[dict[str, Any]], start: int, end: int) -> dict[str, Any]:
    return {"key": key, "start": start, "end": end, "weights": entries}


def _to_page(size: int) -> int:
    return (size + PAGE - 1) // PAGE * PAGE


def _entry(weight: PackedWeight) -> dict[str, Any]:
    data = weight.data.data.cast("B")
    return {
        "name": weight.name,
        "outline": _outline_json(weight.outline),
        "layout": weight.layout,
        "size": len(data),
        "crc": zlib.crc32(data),
        "edges": _edges(data),
        "offset": 0,
    }


def _edges(data: memoryview) -> int:
    """The checksum of the first and the last page."""
    return zlib.crc32(data[-PAGE:], zlib.crc32(data[:PAGE]))


def _open(path: Path) -> tuple[memoryview, dict[str, Any]]:
    """The file mapped, and its header, of which the hash is right and the size that of the file."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size < _START.size:
            raise PackedFileError(f"{path} is cut short")
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    _ask_for_large_pages(mapped)
    memory = memoryview(mapped)
    magic, version, length, digest = _START.unpack_from(memory)
    if magic != MAGIC or version != VERSION or not 0 < length < min(size, _HEADER_MOST):
        raise PackedFileError(f"{path} is not of this version")
    text = bytes(memory[_START.size : _START.size + length])
    if hashlib.sha256(text).digest() != digest:
        raise PackedFileError(f"the header of {path} is damaged")
    header = json.loads(text)
    if not isinstance(header, dict) or header.get("end") != size:
        raise PackedFileError(f"{path} has not the size that it should have")
    return memory, header


def _ask_for_large_pages(mapped: mmap.mmap) -> None:
    """A wish: read back from the disk, the file then comes in large pages where it can."""
    with contextlib.suppress(OSError, AttributeError, ValueError):
        mapped.madvise(mmap.MADV_HUGEPAGE)


def _weights(
    path: Path, memory: memoryview, header: dict[str, Any], check: Any
) -> list[PackedWeight]:
    try:
        return [_read_weight(memory, entry, check) for entry in header["weights"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PackedFileError(f"{path} cannot be read: {error}") from error


def _read_weight(memory: memoryview, entry: Mapping[str, Any], check: Any) -> PackedWeight:
    offset, size = entry["offset"], entry["size"]
    if not 0 <= offset <= offset + size <= len(memory) or offset % PAGE:
        raise ValueError(f"{entry['name']} lies outside the file")
    check(memory[offset : offset + size], entry)
    layout = None if entry["layout"] is None else _layout(entry["layout"])
    data = np.frombuffer(memory, np.uint8, size, offset)
    return PackedWeight(
        name=str(entry["name"]),
        outline=_outline(entry["outline"]),
        layout=layout,
        data=data.view(np.float32) if layout is None else data,
    )


def _check_edges(data: memoryview, entry: Mapping[str, Any]) -> None:
    if _edges(data) != entry["edges"]:
        raise ValueError(f"the bytes of {entry['name']} are damaged")


def _check_whole(data: memoryview, entry: Mapping[str, Any]) -> None:
    if zlib.crc32(data) != entry["crc"]:
        raise ValueError(f"the bytes of {entry['name']} are damaged")


def _layout(values: list[Any]) -> Layout:
    outputs, inputs, codes, group, scales, minimums, supers, code_bytes = values
    sizes, more = (int(outputs), int(inputs)), (int(supers), int(code_bytes))
    return *sizes, str(codes), int(group), str(scales), minimums, *more


def _outline_json(tensor: Tensor) -> dict[str, Any]:
    if isinstance(tensor, DenseTensor):
        return {"data": _array_json(tensor.data)}
    return {
        "kind": _KINDS[type(tensor)],
        "format": asdict(tensor.format),
        "arrays": {name: _array_json(array) for name, array in arrays_of(tensor).items()},
    }


def _outline(values: Mapping[str, Any]) -> Tensor:
    if "data" in values:
        return DenseTensor(_empty(values["data"]))
    arrays = {name: _empty(array) for name, array in values["arrays"].items()}
    if values["kind"] == "codebook":
        return CodebookTensor(Codebook(**values["format"]), **arrays)
    kind = NestedTensor if values["kind"] == "nested" else AffineTensor
    return kind(Affine(**values["format"]), **arrays)


def _array_json(array: NDArray[Any]) -> list[Any]:
    return [array.dtype.name, list(array.shape)]


def _empty(values: list[Any]) -> NDArray[Any]:
    """An array of that dtype and shape in which one element stands for all: no memory."""
    name, shape = values
    return np.broadcast_to(np.zeros((), _DTYPES[name]), tuple(shape))
