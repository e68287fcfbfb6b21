"""The folder of packed weights: written at a model's first start, mapped at every later one.

`backends.native` asks it. A file appears whole or not at all (it is synced, then renamed), so that
several processes may start the same model at once; the least recently used files go when the folder
would outgrow its limit. A folder that cannot be written costs the speed-up and nothing else.
"""

import hashlib
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from slipstream.backends.packed_file import PackedFileError, PackedWeight, read_packed, write_packed
from slipstream.machine import cache_dir, packed_limit_bytes

SUFFIX = ".packed"
PART_AGE_S = 3600.0  # a part of that age was left by a process that died
DISK_SHARE = 0.5  # of what the disk has free: more is not taken for something that can be remade


def packed_key(identity: str, names: Iterable[str], layout: int) -> str:
    """What a file is called: the model's content, the weights wanted of it, the kernels' layout."""
    facts = [identity, list(names), layout, sys.byteorder]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:40]


def default_cache() -> "PackedCache | None":
    """The one in `machine.cache_dir()`; None where SLIPSTREAM_PACKED_MB is 0."""
    limit = packed_limit_bytes()
    return PackedCache(cache_dir() / "packed", limit) if limit > 0 else None


@dataclass(frozen=True)
class PackedCache:
    """`folder` need not exist yet; its files never take more than `limit_bytes` together."""

    folder: Path
    limit_bytes: int

    def path(self, key: str) -> Path:
        """Where the weights of `key` are, or would be."""
        return self.folder / f"{key}{SUFFIX}"

    def load(self, key: str) -> list[PackedWeight] | None:
        """The weights, mapped; None when they are absent or damaged (the file then goes)."""
        path = self.path(key)
        try:
            if path.stat().st_uid != os.geteuid():
                return None  # somebody else's: not to be trusted
            weights = read_packed(path, key)
            os.utime(path)
        except PackedFileError:
            _remove(path)
            return None
        except OSError:
            return None
        return weights

    def store(self, key: str, weights: Sequence[PackedWeight]) -> bool:
        """Writes the weights; False where there is no room or no permission."""
        size = sum(weight.data.nbytes for weight in weights)
        part = self.folder / f"{key}.{os.getpid()}.{threading.get_ident()}.part"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not self._make_room(size, key):
                return False
            write_packed(part, key, weights)
            os.replace(part, self.path(key))
        except OSError:
            _remove(part)
            return False
        return True

    def files(self) -> list[Path]:
        """All packed models, the least recently used first."""
        found = [(_used_s(path), path) for path in self.folder.glob(f"*{SUFFIX}")]
        return [path for _, path in sorted(found)]

    def size_bytes(self) -> int:
        """What the folder's models take together."""
        return sum(_size(path) for path in self.files())

    def _make_room(self, size: int, key: str) -> bool:
        """Removes parts that nobody writes any more, and models until `size` more fit."""
        for part in self.folder.glob("*.part"):
            if time.time() - _used_s(part) > PART_AGE_S:
                _remove(part)
        if size > self.limit_bytes:
            return False
        others = [path for path in self.files() if path != self.path(key)]
        total = sum(map(_size, others))
        for path in others:
            if total + size <= self.limit_bytes:
                break
            total -= _size(path)
            _remove(path)
        return size <= shutil.disk_usage(self.folder).free * DISK_SHARE


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # another process removed it
        return 0


def _used_s(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return
