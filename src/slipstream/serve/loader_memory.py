"""How much memory this machine has left for one more model, and giving back what one has held."""

import ctypes
import gc
from collections.abc import Iterator
from pathlib import Path


def available_bytes(root: Path = Path("/")) -> int | None:
    """What could be used without swapping, within this process's cgroup; None: unknown here.

    File cache counts as free, as Linux counts it: it goes when the room is needed.
    """
    return min(_free(root), default=None)


def _free(root: Path) -> Iterator[int]:
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024
    cgroup = root / "sys/fs/cgroup"
    for most, used, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        limit, now = _read(cgroup / most), _read(cgroup / used)
        if limit.isdigit() and now.isdigit():
            statistics = _read((cgroup / most).parent / "memory.stat")
            yield max(0, int(limit) - int(now) + _statistic(statistics, cache))


def _statistic(text: str, name: str) -> int:
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.isdigit():
            return int(value)
    return 0


def give_back() -> None:
    """Returns to the system what freed objects have held: cycles first, then the C heap's rest."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):  # not glibc: it returns memory by itself, or cannot
        return


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
