"""What this machine is, what it may be asked to do, and how fast it can be at most.

Every floor above asks here: how many threads, which instruction set, where caches go, and the
measured ceilings that predictions and reports are held against. It is also the only place (with
`engine/options.py`) that reads the environment:

    SLIPSTREAM_THREADS  threads of a native program (default: all usable cores of a node)
    SLIPSTREAM_ISA      one of `machine().isas`; forces the native kernels onto that path
    SLIPSTREAM_API_KEYS  lines of `name:key[:limits]`, or separated by ``;``, as `serve` reads them
    SLIPSTREAM_ADMIN_KEY  opens the /admin routes of `serve`
    SLIPSTREAM_CACHE    folder for models and probe results (default: the platform's cache folder)
    SLIPSTREAM_PACKED_MB  most megabytes of packed weights kept there (default 16384; 0: none)
    SLIPSTREAM_TUNE     0: linears keep their default plans, nothing is timed at a first start
"""

import os
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from slipstream.errors import MachineError
from slipstream.machine_ceilings import Ceilings, Rate, load, probe, store
from slipstream.machine_facts import ISA_FLAGS, Cache, Machine, read_machine

__all__ = [
    "Cache",
    "Ceilings",
    "Machine",
    "Rate",
    "admin_key",
    "api_keys",
    "cache_dir",
    "ceilings",
    "check_isa",
    "forced_isa",
    "machine",
    "packed_limit_bytes",
    "thread_count",
    "tuning_wanted",
]

THREADS_MAX = 1024
PACKED_MB = 16 * 1024


@lru_cache(maxsize=1)
def machine() -> Machine:
    """This machine, read once per process.

    The native module, where it is built, has the last word on `isas`: it knows what it was compiled
    for, and whether the system grants this process the tiles of AMX.
    """
    found = read_machine()
    try:
        import slipstream._native as native  # noqa: PLC0415  everything else works without it
    except ImportError:
        return found
    return replace(found, isas=tuple(native.isa_available()))


def thread_count() -> int:
    """How many threads a native program runs: SLIPSTREAM_THREADS, or `machine().threads`."""
    text = os.environ.get("SLIPSTREAM_THREADS", "")
    if not text:
        return machine().threads
    if not text.isdecimal() or not 1 <= int(text) <= THREADS_MAX:
        raise MachineError(f"SLIPSTREAM_THREADS must be a number in 1…{THREADS_MAX}, not {text!r}")
    return int(text)


def pass_over_pydantic_plugins() -> None:
    """Lets pydantic not look for plugins in every installed package: 60 ms of a start with 130.

    Whoever wants them sets PYDANTIC_DISABLE_PLUGINS to nothing.
    """
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")


def api_keys() -> str:
    """The keys in SLIPSTREAM_API_KEYS, one `name:key[:limits]` a line or between ``;``."""
    return os.environ.get("SLIPSTREAM_API_KEYS", "")


def admin_key() -> str:
    """The key in SLIPSTREAM_ADMIN_KEY, which opens a server's /admin."""
    return os.environ.get("SLIPSTREAM_ADMIN_KEY", "").strip()


def forced_isa() -> str | None:
    """The instruction set in SLIPSTREAM_ISA, or None; refused when this machine lacks it."""
    name = os.environ.get("SLIPSTREAM_ISA", "").strip().lower()
    return check_isa(name) if name else None


def check_isa(name: str) -> str:
    """`name`, if this machine has that instruction set; else a MachineError with the choices."""
    choices = machine().isas
    if name not in choices:
        problem = "this machine lacks" if name in ISA_FLAGS else "there is no"
        raise MachineError(f"{problem} instruction set {name!r}; choose {', '.join(choices)}")
    return name


def cache_dir() -> Path:
    """The folder for everything that can be fetched or measured again; it need not exist yet."""
    chosen = os.environ.get("SLIPSTREAM_CACHE", "")
    if chosen:
        return Path(chosen).expanduser()
    import platformdirs  # noqa: PLC0415  at the top it would double the time of this import

    return Path(platformdirs.user_cache_dir("slipstream", appauthor=False))


def packed_limit_bytes() -> int:
    """How much packed weights may take of the cache: SLIPSTREAM_PACKED_MB, or 16 GiB."""
    text = os.environ.get("SLIPSTREAM_PACKED_MB", "") or str(PACKED_MB)
    if not text.isdecimal() or len(text) > 12:
        raise MachineError(f"SLIPSTREAM_PACKED_MB must be a number of megabytes, not {text!r}")
    return int(text) << 20


def tuning_wanted() -> bool:
    """Whether native programs take plans that were chosen by timing: SLIPSTREAM_TUNE, or yes."""
    text = os.environ.get("SLIPSTREAM_TUNE", "") or "1"
    if text not in {"0", "1"}:
        raise MachineError(f"SLIPSTREAM_TUNE must be 0 or 1, not {text!r}")
    return text == "1"


def ceilings(refresh: bool = False) -> Ceilings:
    """The measured ceilings of this machine with `thread_count()` threads.

    Probed in about two seconds the first time, then read from `cache_dir()`; `refresh` measures
    again. Needs the native module (MachineError without it). A cache folder that cannot be written
    costs only the repetition.
    """
    here, threads = machine(), thread_count()
    isa = forced_isa() or here.isas[-1]
    path = cache_dir() / "ceilings" / f"{here.fingerprint}-{isa}-{threads}.json"
    found = None if refresh else load(path)
    if found is None:
        found = probe(here, isa, threads)
        store(path, found)
    return found
