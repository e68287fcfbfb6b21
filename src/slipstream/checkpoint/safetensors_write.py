"""Writing safetensors: the whole file or nothing.

Artifacts are written with this. Tensors are streamed one after the other, so a mapping that reads
them when asked is never in memory as a whole.
"""

import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from slipstream.checkpoint.safetensors import DTYPES

_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def write_safetensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, NDArray],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes `tensors` to `path`, replacing what is there once the new file is whole and on disk.

    The same tensors always make the same bytes. ValueError for a dtype that the format lacks, or a
    tensor that is called ``__metadata__``.
    """
    path = Path(path)
    header, order = _header(tensors, metadata or {})
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with open(handle, "wb") as file:
            _write(file, header, (tensors[tensor] for tensor in order))
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _write(file: BinaryIO, header: bytes, arrays: Iterable[NDArray]) -> None:
    file.write(len(header).to_bytes(8, "little"))
    file.write(header)
    for array in arrays:
        file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    file.flush()
    os.fsync(file.fileno())


def _header(tensors: Mapping[str, NDArray], metadata: Mapping[str, str]) -> tuple[bytes, list[str]]:
    """The JSON header, padded to 8 bytes, and the tensors' order: widest numbers first, aligned."""
    kinds = {name: (tensors[name].dtype, tensors[name].shape) for name in tensors}
    order = sorted(kinds, key=lambda name: (-kinds[name][0].itemsize, name))
    entries: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in order:
        dtype, shape = kinds[name]
        if dtype not in _NAMES or name == "__metadata__":
            raise ValueError(f"safetensors cannot hold {name!r} of the type {dtype}")
        begin, end = end, end + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        entries[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    return text + b" " * (-len(text) % 8), order


def _sync_folder(folder: Path) -> None:
    """Makes the new name durable, where the system lets folders be synced."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
