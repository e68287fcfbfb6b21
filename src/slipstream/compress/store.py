"""Changed tensors on disk, one safetensors file a stage: what makes a long run resumable.

Files are written whole or not at all, and read through the memory map, so that a model larger than
memory can be compressed. The layout is ours and private to a run's folder.
"""

import json
from collections import ChainMap
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from slipstream.checkpoint.safetensors import SafetensorsFile
from slipstream.checkpoint.safetensors_write import write_safetensors
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

_AT = "|"  # between a tensor's name and that of its part


def save_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Tensors of either kind, with `facts` (plain data) beside them."""
    arrays: dict[str, NDArray] = {}
    formats: dict[str, Any] = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, DenseTensor):
            arrays[f"{name}{_AT}data"] = tensor.data
            continue
        formats[name] = asdict(tensor.format)
        arrays |= {f"{name}{_AT}{part}": array for part, array in arrays_of(tensor).items()}
    texts = {"formats": json.dumps(formats), "facts": json.dumps(facts)}
    write_safetensors(path, arrays, texts)


class StoredTensors(Mapping[str, Tensor]):
    """The tensors of some such files, read when asked for; a later file covers earlier ones."""

    def __init__(self, paths: list[Path]) -> None:
        self.facts: list[Any] = []
        self._files: dict[str, SafetensorsFile] = {}
        self._formats: dict[str, Any] = {}
        for path in paths:
            file = SafetensorsFile(path)
            names = dict.fromkeys(name.rpartition(_AT)[0] for name in file.names())
            self._files.update(dict.fromkeys(names, file))
            self._formats.update(json.loads(file.metadata["formats"]))
            self.facts.append(json.loads(file.metadata["facts"]))

    def __getitem__(self, name: str) -> Tensor:
        file = self._files[name]
        stored = set(file.names())
        if f"{name}{_AT}data" in stored:
            return DenseTensor(file.array(f"{name}{_AT}data"))
        beginning = f"{name}{_AT}"
        parts = {
            part.removeprefix(beginning): file.array(part)
            for part in stored
            if part.startswith(beginning)
        }
        form = self._formats[name]
        if "name" in form:
            return CodebookTensor(Codebook(**form), **parts)
        kind = NestedTensor if "supers" in parts else AffineTensor
        return kind(Affine(**form), **parts)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def release(self) -> None:
        """Lets the pages of the maps go; they come back when they are read."""
        for file in set(self._files.values()):
            file.release()

    @property
    def rounded(self) -> frozenset[str]:
        """The names of those that are quantized."""
        return frozenset(self._formats)


def save_rows(path: Path, rows: NDArray[np.float32]) -> None:
    """The rows between two stages, float32 [N, W]."""
    write_safetensors(path, {"rows": rows})


def read_rows(path: Path) -> NDArray[np.float32]:
    """What `save_rows` wrote, through the memory map."""
    return np.asarray(SafetensorsFile(path).array("rows"))


def overlay(weights: Mapping[str, Tensor], changed: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The changed tensors over the others; both may be lazy."""
    return ChainMap(changed, weights)  # type: ignore[arg-type]  # never written to


@runtime_checkable
class Mapped(Protocol):
    """Weights that are read through a memory map."""

    def release(self) -> None:
        """Lets the pages go; they come back when they are read."""
        ...


def release(weights: Mapping[str, Tensor]) -> None:
    """Lets the mapped pages of all that lies over each other in `weights` go."""
    if isinstance(weights, ChainMap):
        for part in weights.maps:
            release(part)
    elif isinstance(weights, Mapped):
        weights.release()
