"""One BLAS thread, while many small products follow each other.

OpenBLAS wakes its threads for every product and lets them spin in between. Where other work wants
the cores, that costs more than it gives: on 2 busy cores GPTQ took 2.5 times as long with two BLAS
threads as with one, and factoring Hessians 7 times. Larger work is cut into tasks by us instead.
"""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

_PREFIXES = ("scipy_", "")  # numpy's and scipy's own builds carry the prefix
_SUFFIXES = ("64_", "", "_64")


@dataclass(frozen=True)
class _Library:
    """The two functions of one loaded OpenBLAS."""

    get: Callable[[], int]
    set: Callable[[int], None]


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Within it, numpy's and scipy's OpenBLAS use one thread. Other libraries are left alone."""
    before = [(library, library.get()) for library in _loaded()]
    for library, _ in before:
        library.set(1)
    try:
        yield
    finally:
        for library, threads in before:
            library.set(threads)


@lru_cache(maxsize=1)
def _loaded() -> tuple[_Library, ...]:
    """Every OpenBLAS of this process; none where the system does not list what is loaded."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return ()
    paths = {line.split()[-1] for line in lines if "openblas" in line}
    found = (_functions(ctypes.CDLL(path)) for path in sorted(paths))
    return tuple(library for library in found if library is not None)


def _functions(library: ctypes.CDLL) -> _Library | None:
    for prefix in _PREFIXES:
        for suffix in _SUFFIXES:
            name = f"{prefix}openblas_{{}}_num_threads{suffix}"
            if hasattr(library, name.format("set")):
                setter, getter = (getattr(library, name.format(verb)) for verb in ("set", "get"))
                return _Library(getter, setter)
    return None
