"""Safetensors files and sets of shards, memory-mapped; and a writer.

Folders and artifacts read weights through this, without torch. A file is a length (uint64), a JSON
header of that length, and the tensors one after the other:

    8 bytes | {"name": {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]}, …} | data

Whatever is wrong with a file is one SafetensorsError.
"""

import math
import mmap
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeGuard

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from slipstream.checkpoint.json_file import parse_object, read_object
from slipstream.errors import SafetensorsError, SourceError

DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}

_LARGEST_HEADER = 64 << 20  # a header has about 100 bytes per tensor
_MOST_DIMENSIONS = 32
_MOST_SHARDS = 10_000


class Tensors(Protocol):
    """What `SafetensorsFile` and `Shards` offer alike."""

    def names(self) -> list[str]:
        """The tensors, sorted."""
        ...

    def array(self, name: str) -> NDArray:
        """One tensor, a read-only view of the map (a copy where the file does not align it)."""
        ...


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a file; `offset` counts from the start of the file."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int
    size_bytes: int


class SafetensorsFile:
    """One file. Opening reads the header only; `metadata` is its text for people and tools."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.metadata: dict[str, str] = {}
        self.tensors: dict[str, TensorInfo] = {}
        self._buffer = _map(self.path)
        try:
            self._read_header()
        except SafetensorsError as error:
            raise SafetensorsError(f"{self.path.name}: {error}") from error

    def names(self) -> list[str]:
        """The tensors, sorted."""
        return sorted(self.tensors)

    def array(self, name: str) -> NDArray:
        """One tensor, a read-only view of the map (a copy if not aligned). KeyError if none."""
        info = self.tensors[name]
        raw = np.frombuffer(self._buffer, np.uint8, info.size_bytes, info.offset)
        if info.offset % info.dtype.itemsize:
            raw = raw.copy()
        return raw.view(info.dtype).reshape(info.shape)

    def release(self) -> None:
        """Lets the pages of the map go; they come back when they are read."""
        self._buffer.madvise(mmap.MADV_DONTNEED)

    def _read_header(self) -> None:
        size = len(self._buffer)
        length = int.from_bytes(self._buffer[:8], "little")
        if length > min(_LARGEST_HEADER, size - 8):
            raise SafetensorsError(
                f"the header is said to have {length} bytes, the file has {size}: it is damaged or"
                " cut off; fetch it again"
            )
        header = parse_object(self._buffer[8 : 8 + length], "the header", SafetensorsError)
        self.metadata = _metadata(header.pop("__metadata__", {}))
        infos = [_info(name, entry, 8 + length) for name, entry in header.items()]
        _check_order(infos, 8 + length, size)
        self.tensors = {info.name: info for info in infos}


class Shards:
    """The tensors of a folder: one ``model.safetensors``, or the shards that its index names.

    `paths` are the files, sorted by name. A shard that is missing, or lies elsewhere than in the
    folder, or lacks a tensor that the index promises, is a SafetensorsError.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        folder = Path(folder)
        homes = _homes(folder)
        files = {name: SafetensorsFile(folder / name) for name in sorted(set(homes.values()))}
        if not homes:  # no index: all that the file holds
            only = SafetensorsFile(folder / "model.safetensors")
            files, homes = {only.path.name: only}, dict.fromkeys(only.names(), only.path.name)
        for tensor, name in homes.items():
            if tensor not in files[name].tensors:
                raise SafetensorsError(f"the index promises {tensor!r} in {name}, which lacks it")
        self.paths = tuple(file.path for file in files.values())
        self.metadata = next(iter(files.values())).metadata
        self._homes = {tensor: files[name] for tensor, name in homes.items()}

    def names(self) -> list[str]:
        """The tensors, sorted."""
        return sorted(self._homes)

    def array(self, name: str) -> NDArray:
        """One tensor, a read-only view of the map (a copy if not aligned). KeyError if none."""
        return self._homes[name].array(name)

    def release(self) -> None:
        """As `SafetensorsFile.release`, of all files."""
        for file in set(self._homes.values()):
            file.release()


def _map(path: Path) -> mmap.mmap:
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size < 8:
                raise SafetensorsError(f"{path.name}: it is too short to be a safetensors file")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise SourceError(f"{path} cannot be opened: {error.strerror}") from error


def _metadata(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise SafetensorsError("__metadata__ must be an object of texts")
    return value


def _info(name: str, entry: Any, start: int) -> TensorInfo:
    """Checks one entry of a header whose data begins at byte `start`."""
    if not isinstance(entry, dict):
        raise SafetensorsError(f"the entry of {name!r} is not an object")
    kind, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    dtype = DTYPES.get(kind) if isinstance(kind, str) else None
    if dtype is None:
        raise SafetensorsError(f"the tensor {name!r} has the unknown dtype {str(kind)[:40]!r}")
    if not _are_counts(shape, _MOST_DIMENSIONS):
        raise SafetensorsError(f"the shape of {name!r} is not a list of sizes")
    if not _are_counts(offsets, 2) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise SafetensorsError(f"the offsets of {name!r} are not [begin, end]")
    size = math.prod(shape) * dtype.itemsize
    if size != offsets[1] - offsets[0]:
        raise SafetensorsError(
            f"the tensor {name!r} needs {size} bytes for its shape, but has"
            f" {offsets[1] - offsets[0]}: the file is damaged"
        )
    return TensorInfo(name, dtype, tuple(shape), start + offsets[0], size)


def _are_counts(value: Any, most: int) -> TypeGuard[list[int]]:
    """Whether it is a list of at most `most` integers that fit 63 bits and are not negative."""
    if not isinstance(value, list) or len(value) > most:
        return False
    return all(type(entry) is int and 0 <= entry < 1 << 63 for entry in value)


def _check_order(infos: Iterable[TensorInfo], start: int, file_size: int) -> None:
    """The tensors must fill the data one after the other: no gap, no overlap, nothing behind."""
    end = start
    for info in sorted(infos, key=lambda info: (info.offset, info.size_bytes)):
        if info.offset != end:
            word = "overlaps the one before" if info.offset < end else "leaves a gap before it"
            raise SafetensorsError(f"the tensor {info.name!r} {word}: the file is damaged")
        end = info.offset + info.size_bytes
    if end != file_size:
        raise SafetensorsError(
            f"its tensors end at byte {end}, the file at {file_size}: it is damaged or cut off;"
            " fetch it again"
        )


def _homes(folder: Path) -> dict[str, str]:
    """Tensor → file name, from the index; empty without an index."""
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return {}
    homes = read_object(index, SafetensorsError).get("weight_map")
    if not isinstance(homes, dict) or not homes:
        raise SafetensorsError(f"{index.name} has no weight_map: it is damaged")
    names = set(homes.values()) if all(isinstance(n, str) for n in homes.values()) else {""}
    if len(names) > _MOST_SHARDS:
        raise SafetensorsError(f"{index.name} names {len(names)} shards: it is damaged")
    for name in sorted(names):
        _check_shard(folder, name)
    return homes


def _check_shard(folder: Path, name: str) -> None:
    plain = name == os.path.basename(name) and "\\" not in name and "\0" not in name
    if not plain or not name.endswith(".safetensors") or name.startswith("."):
        raise SafetensorsError(f"the index names {name[:80]!r}, which is no file of this folder")
    if not (folder / name).is_file():
        raise SafetensorsError(f"the shard {name[:80]!r} is missing: fetch the model again")
