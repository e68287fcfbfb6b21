"""Data classes whose lesser methods are compiled when they are first called.

A start defines more than 200 data classes, and `dataclasses` compiles up to seven methods of each
from text: a quarter of the processor time of the imports of `serve`. `main` calls `compile_late`
before it imports a verb; a class behaves as before, its `__repr__`, `__eq__`, `__hash__` and the
two that freeze it being made by the same functions of the standard library, later.
"""

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

LAST_KNOWN = (3, 12)  # later versions compile all methods of a class at once
Method = Callable[..., Any]


def compile_late() -> None:
    """Makes data classes that are defined from now on compile only `__init__` at once."""
    library: Any = dataclasses
    if sys.version_info[:2] > LAST_KNOWN or hasattr(library, "_compiled_late"):
        return
    library._compiled_late = True
    for maker, name in (("_repr_fn", "__repr__"), ("_hash_fn", "__hash__")):
        setattr(library, maker, _one_late(getattr(library, maker), name))
    library._cmp_fn = _comparison_late(library._cmp_fn)
    library._frozen_get_del_attr = _freezing_late(library._frozen_get_del_attr)


def _one_late(make: Method, name: str) -> Method:
    return lambda *about: _late(lambda: make(*about), name)


def _comparison_late(make: Method) -> Method:
    return lambda name, *about, **more: _late(lambda: make(name, *about, **more), name)


def _freezing_late(make: Method) -> Method:
    def both(*about: Any) -> tuple[Method, Method]:
        return (
            _late(lambda: make(*about)[0], "__setattr__"),
            _late(lambda: make(*about)[1], "__delattr__"),
        )

    return both


def _late(make: Callable[[], Method], name: str) -> Method:
    """A method that makes itself when it is first called; two threads at once make equal ones."""
    made: Method | None = None

    def method(self: Any, *values: Any) -> Any:
        nonlocal made
        if made is None:
            made = make()
        return made(self, *values)

    method.__name__ = name
    return method
