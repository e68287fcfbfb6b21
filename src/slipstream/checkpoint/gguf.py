"""GGUF files (versions 2 and 3, little-endian), memory-mapped; also in several parts.

`gguf_checkpoint` reads models through this. Opening touches the header alone; tensors are views of
the map and are paged in when they are read.
"""

import mmap
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slipstream.checkpoint.gguf_header import Header, TensorInfo, read_header
from slipstream.errors import GGUFError, SourceError
from slipstream.formats.ggml import to_tensor
from slipstream.formats.tensor import Tensor

_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")


class GGUFFile:
    """A GGUF file, all its parts together where it is split.

    `metadata` is that of the first part, `tensors` are those of all parts. Opening any part opens
    them all. GGUFError says what is wrong with a file, SourceError that it cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.paths: tuple[Path, ...] = (self.path,)
        self._homes: dict[str, mmap.mmap] = {}
        self.tensors: dict[str, TensorInfo] = {}
        buffer, header = _open(self.path)
        parts = _split_count(header.metadata)
        if parts > 1:
            self.paths = _part_paths(self.path, parts)
            self.path = self.paths[0]
            header = self._add_parts()
        else:
            self._add(self.path, buffer, header)
        self.version: int = header.version
        self.metadata: Mapping[str, Any] = header.metadata

    def raw(self, name: str) -> NDArray[np.uint8]:
        """The bytes of one tensor as they lie in the file, a read-only view; KeyError if none."""
        info = self.tensors[name]
        return np.frombuffer(self._homes[name], np.uint8, info.size_bytes, info.offset)

    def tensor(self, name: str) -> Tensor:
        """One tensor as ours, its values unchanged; UnsupportedError for some types."""
        info = self.tensors[name]
        return to_tensor(self.raw(name), info.type, info.shape)

    def release(self) -> None:
        """Lets the pages of the maps go; they come back when they are read."""
        for buffer in set(self._homes.values()):
            buffer.madvise(mmap.MADV_DONTNEED)

    def _add_parts(self) -> Header:
        """Opens every part in order; returns the header of the first."""
        first: Header | None = None
        for path in self.paths:
            buffer, header = _open(path)
            first = first or header
            if _split_count(header.metadata) != len(self.paths):
                raise GGUFError(f"{path.name} is not a part of the same model as {self.path.name}")
            self._add(path, buffer, header)
        assert first is not None
        announced = first.metadata.get("split.tensors.count", len(self.tensors))
        if announced != len(self.tensors):
            raise GGUFError(
                f"{self.path.name} announces {announced} tensors, its parts hold"
                f" {len(self.tensors)}: fetch them again"
            )
        return first

    def _add(self, path: Path, buffer: mmap.mmap, header: Header) -> None:
        for name, info in header.tensors.items():
            if name in self.tensors:
                raise GGUFError(f"two parts hold the tensor {name!r}; the second is {path.name}")
            self.tensors[name] = info
            self._homes[name] = buffer


def _open(path: Path) -> tuple[mmap.mmap, Header]:
    """Maps a file and reads its header; what is wrong is said with the name of the file."""
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size < 24:
                raise GGUFError("it is too short to be a GGUF file")
            buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return buffer, read_header(buffer)
    except GGUFError as error:
        raise GGUFError(f"{path.name}: {error}") from error
    except OSError as error:
        raise SourceError(f"{path} cannot be opened: {error.strerror}") from error


def _split_count(metadata: Mapping[str, Any]) -> int:
    count = metadata.get("split.count", 1)
    if type(count) is not int or not 0 <= count <= 65535:
        raise GGUFError(f"split.count is {count!r}; it must be a number of parts")
    return max(count, 1)


def _part_paths(path: Path, count: int) -> tuple[Path, ...]:
    """The files of all parts, found beside one of them; GGUFError if one is missing."""
    match = _PART.fullmatch(path.name)
    if match is None or int(match[3]) != count:
        raise GGUFError(
            f"{path.name} is a part of a model in {count} parts: name them"
            f" NAME-00001-of-{count:05}.gguf and so on"
        )
    paths = []
    for number in range(1, count + 1):
        part = path.with_name(f"{match[1]}-{number:05}-of-{count:05}.gguf")
        if not part.is_file():
            raise GGUFError(
                f"{part.name} is missing beside {path.name}: all {count} parts are needed"
            )
        paths.append(part)
    return tuple(paths)
