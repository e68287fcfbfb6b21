"""The ceilings of a machine: how many bytes and operations per second it reaches at most.

`machine.ceilings` keeps them; `graph/cost.py` predicts with them, `inspect` and `bench` report
shares of them. They are measured by the native module's probes, each as a median with its range,
and kept as JSON that is written whole or not at all.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from slipstream.errors import MachineError
from slipstream.machine_facts import Machine

VERSION = 1  # of the probes and of the file; another version is measured again

# Bytes read per sample of memory: four times the last cache, but never so much that the page
# faults of a first touch (0.3 s per GiB on a virtual machine) dominate the probe.
DRAM_BYTES_MIN, DRAM_BYTES_MAX = 128 << 20, 1 << 30
SAMPLES, SAMPLE_S = 7, 0.02


@dataclass(frozen=True)
class Rate:
    """Per second: the median of the samples, and the lowest and highest of them."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Ceilings:
    """Bytes read per second (one thread, all threads) and operations per second (all threads).

    A multiply-add counts as two operations. `int8` is the best integer dot product of `isa`, `bf16`
    its best product of bfloat16 weights with float32 sums.
    """

    isa: str
    threads: int
    dram_1: Rate
    dram: Rate
    cache_1: Rate
    cache: Rate
    f32: Rate
    int8: Rate
    bf16: Rate


RATES = tuple(field.name for field in fields(Ceilings) if field.type is Rate)


def probe(machine: Machine, isa: str, threads: int) -> Ceilings:
    """Measures this machine now, in about two seconds. MachineError without the native module."""
    try:
        import slipstream._native as native  # noqa: PLC0415  everything else works without it
    except ImportError as error:
        raise MachineError(
            "the native module is missing, so nothing can be measured: run `make native`"
        ) from error

    def read(size_bytes: int, count: int) -> Rate:
        return rate(native.probe_read(size_bytes, count, SAMPLES, SAMPLE_S))

    def dot(kind: str) -> Rate:
        return rate(native.probe_dot(kind, isa, threads, SAMPLES, SAMPLE_S))

    dram_bytes, cache_bytes = dram_probe_bytes(machine), cache_probe_bytes(machine, threads)
    return Ceilings(
        isa=isa,
        threads=threads,
        dram_1=read(dram_bytes, 1),
        dram=read(dram_bytes, threads),
        cache_1=read(cache_bytes, 1),
        cache=read(cache_bytes, threads),
        f32=dot("f32"),
        int8=dot("int8"),
        bf16=dot("bf16"),
    )


def rate(samples: Sequence[float]) -> Rate:
    """The median (of an even number: the upper of the middle two) and the range of samples."""
    ordered = sorted(samples)
    return Rate(ordered[len(ordered) // 2], ordered[0], ordered[-1])


def dram_probe_bytes(machine: Machine) -> int:
    """A size that the caches cannot hold, at most an eighth of the memory."""
    wanted = max(DRAM_BYTES_MIN, min(DRAM_BYTES_MAX, 8 * machine.cache_bytes(3)))
    return min(wanted, machine.memory_bytes // 8)


def cache_probe_bytes(machine: Machine, threads: int) -> int:
    """A size that lives in the last shared cache: beyond the private ones, well within it."""
    private = machine.cache_bytes(2) * threads
    shared = machine.cache_bytes(3)
    return min(max(2 * private, shared // 4), shared // 2) if shared else max(private // 2, 1 << 18)


def load(path: Path) -> Ceilings | None:
    """What `store` wrote there; None when it is missing, damaged or of another version."""
    try:
        data = json.loads(path.read_text())
        if data.pop("version") != VERSION:
            return None
        rates = {name: _read_rate(data.pop(name)) for name in RATES}
        return Ceilings(isa=str(data["isa"]), threads=int(data["threads"]), **rates)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _read_rate(data: Mapping[str, float]) -> Rate:
    found = Rate(float(data["median"]), float(data["low"]), float(data["high"]))
    if not 0 < found.low <= found.median <= found.high < float("inf"):
        raise ValueError("a rate must be positive and within its range")
    return found


def store(path: Path, ceilings: Ceilings) -> None:
    """Writes the file whole, through a renamed neighbor; a read-only folder is no error."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps({"version": VERSION, **asdict(ceilings)}, indent=1))
        part.replace(path)
    except OSError:
        return
