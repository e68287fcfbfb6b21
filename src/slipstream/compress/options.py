"""Options from a recipe's text to a dataclass: strict, and with words that help.

Unknown keys are refused with the nearest name, values of another kind with what is wanted. The
annotations of the dataclass are the schema; ``"row"`` stands for a group of a whole row.
"""

import difflib
import types
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from slipstream.errors import UnsupportedError

T = TypeVar("T")


def read_options(kind: type[T], given: Mapping[str, Any], where: str) -> T:
    """An instance of the dataclass `kind` with the given fields; UnsupportedError otherwise."""
    hints = get_type_hints(kind)
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]  # a dataclass
    check_keys(given, known, where)
    values = {name: _read(f"{where}: {name}", value, hints[name]) for name, value in given.items()}
    return kind(**values)


def check_keys(given: Iterable[str], known: Iterable[str], where: str) -> None:
    """UnsupportedError for a key that is not known, with the one that was probably meant."""
    names = list(known)
    for name in given:
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(sorted(names))}"
            raise UnsupportedError(f"{where}: there is no option {name!r}; {hint}")


def _read(where: str, value: Any, wanted: Any) -> Any:
    """`value` as the annotation `wanted` has it."""
    origin = get_origin(wanted)
    if origin in (Union, types.UnionType):
        return _read_optional(where, value, wanted)
    if origin is Literal:
        choices = get_args(wanted)
        if value not in choices or isinstance(value, bool):
            names = ", ".join(str(choice) for choice in choices)
            raise UnsupportedError(f"{where} is one of {names}, not {value!r}")
        return value
    if origin is tuple:
        values = [value] if not isinstance(value, list | tuple) else value
        return tuple(_read(where, entry, get_args(wanted)[0]) for entry in values)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise UnsupportedError(f"{where} is a table, not {value!r}")
        return dict(value)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        raise UnsupportedError(f"{where} is a {wanted.__name__}, not {value!r}")
    return value


def _read_optional(where: str, value: Any, wanted: Any) -> Any:
    """None is spelled ``"row"`` or ``"none"``, since TOML has no word for it."""
    if value is None or value in ("row", "none"):
        return None
    inner = [kind for kind in get_args(wanted) if kind is not type(None)]
    return _read(where, value, inner[0])
