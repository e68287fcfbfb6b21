"""What the operating system says about this machine: processor, cores, memory, caches.

`machine.py` calls `read_machine` once per process. Everything is read under `root` (``/`` outside
tests), so that a folder of small files can stand for any machine; what cannot be read is replaced
by the cautious answer (one NUMA node, no known cache, the portable instruction set).
"""

import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

GIB = 1 << 30
CPUS_MAX = 1 << 16

# Each instruction set of the native kernels with the processor flags that it needs, ascending.
ISA_FLAGS: dict[str, frozenset[str]] = {
    "portable": frozenset(),
    "avx2": frozenset({"avx2", "fma", "f16c"}),
    "avx512": frozenset(
        {"avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"}
    ),
    "amx": frozenset(
        {"avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"}
        | {"amx_tile", "amx_int8"}
    ),
    "neon": frozenset({"asimd", "asimddp"}),  # of 64-bit ARM, as is the next
    "i8mm": frozenset({"asimd", "asimddp", "i8mm"}),
}


@dataclass(frozen=True)
class Cache:
    """One cache that holds data: its level, its size, and how many CPUs share it."""

    level: int
    size_bytes: int
    shared_by: int


@dataclass(frozen=True)
class Machine:
    """What this process may use.

    `isas` ascend, so the last is the best; `cores` is what affinity, the cgroup's cpuset and its
    quota leave, `node_cores` as many of them as share a NUMA node (0: not known); `memory_bytes` is
    the cgroup's limit, or the physical size.
    """

    cpu: str
    isas: tuple[str, ...]
    cores: int
    memory_bytes: int
    numa_nodes: int
    caches: tuple[Cache, ...]
    node_cores: int = 0

    @property
    def threads(self) -> int:
        """How many threads serve a model best: the cores of one node.

        Weights are packed, and mapped, in the memory of one node; the threads of another would
        wait for it at every barrier. (As OpenVINO does; not measured, for want of such a machine.)
        """
        return min(self.cores, self.node_cores or self.cores)

    @property
    def fingerprint(self) -> str:
        """Eight hex digits, equal for machines that should measure the same ceilings."""
        facts = (self.cpu, self.isas, self.cores, self.numa_nodes, self.caches)
        return f"{zlib.crc32(repr(facts).encode()):08x}"

    def cache_bytes(self, level: int) -> int:
        """The size of one cache of that level; 0 where there is none or it is unknown."""
        return max((cache.size_bytes for cache in self.caches if cache.level == level), default=0)

    def describe(self) -> str:
        """One line for the head of a report: ``AMD EPYC, 2 cores, 23.5 GiB, avx2 (1a2b…)``."""
        memory = f"{self.memory_bytes / GIB:.1f} GiB"
        cores = f"{self.cores} core{'s' if self.cores != 1 else ''}"
        return f"{self.cpu}, {cores}, {memory}, {self.isas[-1]} ({self.fingerprint})"


def read_machine(root: Path = Path("/")) -> Machine:
    """Reads everything; never fails."""
    cpu, flags = _processor(root)
    allowed = _allowed(root)
    return Machine(
        cpu=cpu,
        isas=tuple(isa for isa, needed in ISA_FLAGS.items() if needed <= flags),
        cores=_cores(root, len(allowed)),
        node_cores=_node_cores(root, allowed),
        memory_bytes=_memory_bytes(root),
        numa_nodes=max(1, len(list((root / "sys/devices/system/node").glob("node[0-9]*")))),
        caches=tuple(_caches(root)),
    )


def _read(path: Path) -> str:
    """The text of a small system file; empty when it is missing or withheld."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _processor(root: Path) -> tuple[str, frozenset[str]]:
    """Model name and flags of the first processor."""
    fields: dict[str, str] = {}
    for line in _read(root / "proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    name = fields.get("model name") or os.uname().machine
    return name, frozenset((fields.get("flags") or fields.get("Features", "")).split())


def _allowed(root: Path) -> frozenset[int]:
    """The CPUs of the affinity mask that every cpuset above this process allows."""
    try:
        allowed = frozenset(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        allowed = frozenset(range(os.cpu_count() or 1))
    for folder in _cgroups(root, "cpuset"):
        for name in ("cpuset.cpus.effective", "cpuset.effective_cpus", "cpuset.cpus"):
            allowed = (allowed & _cpu_list(_read(folder / name))) or allowed
    return allowed


def _cores(root: Path, allowed: int) -> int:
    """As many CPUs as are allowed, or fewer where a cgroup grants less time.

    A quota of 2.5 counts as 2: a third thread would stall the other two at each barrier.
    """
    return max(1, min([allowed, *(int(quota) for quota in _cpu_quotas(root))]))


def _node_cores(root: Path, allowed: frozenset[int]) -> int:
    """The most allowed CPUs that one NUMA node has; 0 where the system does not say."""
    nodes = (root / "sys/devices/system/node").glob("node[0-9]*")
    return max((len(allowed & _cpu_list(_read(node / "cpulist"))) for node in nodes), default=0)


def _cpu_quotas(root: Path) -> Iterator[float]:
    """CPUs granted by each cgroup above this process that sets a limit (versions 2 and 1)."""
    for folder in _cgroups(root, "cpu"):
        quota, _, period = _read(folder / "cpu.max").partition(" ")
        quota = quota or _read(folder / "cpu.cfs_quota_us")
        period = period or _read(folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(period) > 0:
            yield int(quota) / int(period)


def _memory_bytes(root: Path) -> int:
    """The physical memory, or the smallest cgroup limit below it."""
    limits = [_physical_bytes(root)]
    for folder in _cgroups(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = _read(folder / name)
            limits += [int(text)] if text.isdigit() else []
    return min(limit for limit in limits if limit > 0)


def _physical_bytes(root: Path) -> int:
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return GIB


def _cgroups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of the cgroups above this process, nearest first.

    Inside a container the path in /proc/self/cgroup may be the host's and not exist here; then the
    walk up ends at the mount itself, which shows the container's own limit.
    """
    mount = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if number == "0" and not names:
            yield from _upward(mount, path)
        elif controller in names.split(","):
            yield from _upward(mount / names, path)
            yield from _upward(mount / controller, path)


def _upward(mount: Path, path: str) -> Iterator[Path]:
    parts = [part for part in path.split("/") if part not in ("", "..")]
    for depth in range(len(parts), -1, -1):
        yield mount.joinpath(*parts[:depth])


def _caches(root: Path) -> Iterator[Cache]:
    """The data and unified caches of the first CPU, by level."""
    folder = root / "sys/devices/system/cpu/cpu0/cache"
    for index in sorted(folder.glob("index[0-9]*")):
        level, size = _read(index / "level"), _read(index / "size")
        if _read(index / "type") == "Instruction" or not level.isdigit():
            continue
        if size[:-1].isdigit() and size[-1:] in "KM":
            scale = 1024 if size.endswith("K") else 1024 * 1024
            shared = _cpu_list(_read(index / "shared_cpu_list"))
            yield Cache(int(level), int(size[:-1]) * scale, max(1, len(shared)))


def _cpu_list(text: str) -> frozenset[int]:
    """The CPUs that a list such as ``0-3,8`` names; what is no number is left out."""
    cpus: set[int] = set()
    for item in text.split(","):
        first, _, last = item.strip().partition("-")
        if first.isdigit() and (last or first).isdigit():
            cpus.update(range(int(first), min(int(last or first), CPUS_MAX) + 1))
    return frozenset(cpus)
