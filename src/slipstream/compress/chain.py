"""A recipe of several passes, as people write it: TOML, read strictly.

activations = "int8 g32"         # how linears' inputs are rounded when it is served; or "f32"

[calibration]                    # optional; what the command line says comes first
text = "wiki.txt"
tokens = 16384

[training]                       # the same for passes that train
text = "books.jsonl"
tokens = 1000000

[[pass]]
method = "wanda"
sparsity = 0.5

[[pass]]
method = "gptq"
bits = 4
group = 64

[[pass]]                         # rounds: prune a little, heal, and again
repeat = 3
[[pass.pass]]
method = "drop_blocks"
[[pass.pass]]
method = "distill"
"""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from slipstream.compress.options import check_keys, read_options
from slipstream.compress.registry import METHODS, TRAINERS
from slipstream.compress.work import Pass
from slipstream.errors import UnsupportedError
from slipstream.graph.ops import Activations

S = TypeVar("S")

ACTIVATIONS = {
    "int8 g32": Activations(8, 32),
    "int8 row": Activations(8, None),
    "f32": Activations(),
}


@dataclass(frozen=True)
class Calibration:
    """The text that passes are calibrated on; without `text` the model writes its own."""

    text: str | None = None
    tokens: int = 8192
    length: int = 512


@dataclass(frozen=True)
class Training:
    """The text that passes train on: so many tokens of it, in portions of `length`.

    Without `text` it is that of the command line, or what the model writes.
    """

    text: str | None = None
    tokens: int = 65536
    length: int = 512


@dataclass(frozen=True)
class Chain:
    """Passes in order, and what they are calibrated on."""

    passes: tuple[Pass, ...]
    activations: Activations = ACTIVATIONS["int8 g32"]
    calibration: Calibration = field(default_factory=Calibration)
    training: Training = field(default_factory=Training)

    @property
    def calibrated(self) -> bool:
        """Whether some pass needs a text."""
        return any(one.calibrated for one in self.passes)

    @property
    def trained(self) -> bool:
        """Whether some pass needs a text to train on."""
        return any(method_of(one) in TRAINERS for one in self.passes)

    def to_json(self) -> dict[str, Any]:
        """Plain data, every option spelled out; `parse_chain` reads it back."""
        return {
            "activations": _name_of(self.activations),
            "calibration": asdict(self.calibration),
            **({"training": asdict(self.training)} if self.trained else {}),
            "pass": [{"method": method_of(one), **_options(one)} for one in self.passes],
        }

    def label(self) -> str:
        """A short name: ``rotate, gptq int4 g64``."""
        return ", ".join(_label(one) for one in self.passes)


def read_chain(text: str) -> Chain:
    """A recipe in TOML; UnsupportedError says what is wrong, and where."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UnsupportedError(f"the recipe is not TOML: {error}") from None
    return parse_chain(data)


def parse_chain(data: Mapping[str, Any]) -> Chain:
    """The same from plain data."""
    check_keys(data, ("activations", "calibration", "training", "pass"), "the recipe")
    entries = data.get("pass", [])
    if not isinstance(entries, list) or not entries:
        raise UnsupportedError("the recipe has no [[pass]]")
    named = data.get("activations", "int8 g32")
    if isinstance(named, str) and "static" in named.split():
        raise UnsupportedError(
            'static activations are a pass: add [[pass]] method = "static_inputs" as the last one'
        )
    if named not in ACTIVATIONS:
        raise UnsupportedError(f"activations is one of {', '.join(ACTIVATIONS)}, not {named!r}")
    passes = tuple(parse_pass(entry, where) for entry, where in _unrolled(entries))
    _check_order(passes)
    calibration = _section(Calibration, data, "calibration")
    return Chain(passes, ACTIVATIONS[named], calibration, _section(Training, data, "training"))


def _check_order(passes: tuple[Pass, ...]) -> None:
    """UnsupportedError for a pass that changes what linears read after their inputs were fixed."""
    names = [method_of(one) for one in passes]
    if "static_inputs" in names:
        after = set(names[names.index("static_inputs") + 1 :]) - {"kv_cache"}
        if after:
            raise UnsupportedError(
                f"static_inputs comes last: {', '.join(sorted(after))} after it would change what "
                "linears read"
            )


def _section(kind: type[S], data: Mapping[str, Any], name: str) -> S:
    section = data.get(name, {})
    if not isinstance(section, Mapping):
        raise UnsupportedError(f"[{name}] is a table of the recipe")
    return read_options(kind, section, f"[{name}]")


def _unrolled(entries: list[Any]) -> Iterator[tuple[Any, str]]:
    """The passes one after another: ``{repeat = 3, pass = [...]}`` stands for three rounds."""
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, Mapping) or "repeat" not in entry:
            yield entry, f"pass {number}"
            continue
        check_keys(entry, ("repeat", "pass"), f"pass {number}")
        times, inner = entry["repeat"], entry.get("pass")
        if type(times) is not int or not 1 <= times <= 100:
            raise UnsupportedError(f"pass {number}: repeat is a number from 1 to 100, not {times}")
        if not isinstance(inner, list) or not inner:
            raise UnsupportedError(f"pass {number} repeats no [[pass.pass]]")
        for turn in range(1, times + 1):
            for place, one in enumerate(inner, 1):
                yield one, f"pass {number}.{place}, round {turn}"


def parse_pass(entry: Any, where: str) -> Pass:
    """One ``[[pass]]``: its method, and that method's options."""
    if not isinstance(entry, Mapping) or not isinstance(entry.get("method"), str):
        raise UnsupportedError(f"{where} has no method; give one of {', '.join(METHODS)}")
    method = entry["method"]
    check_keys([method], METHODS, f"{where}, method")
    options = {name: value for name, value in entry.items() if name != "method"}
    found: Pass = read_options(METHODS[method], options, f"{where} ({method})")
    return found


def method_of(one: Pass) -> str:
    """The name under which a recipe knows a pass."""
    return next(name for name, kind in METHODS.items() if type(one) is kind)


def _options(one: Pass) -> dict[str, Any]:
    """As a recipe spells them: what is None is "none", since TOML has no word for it."""
    values = asdict(one)  # type: ignore[call-overload]  # passes are dataclasses
    return {name: "none" if value is None else value for name, value in values.items()}


def _label(one: Pass) -> str:
    bits = getattr(one, "bits", None)
    if bits is None:
        return method_of(one)
    group = getattr(one, "group", None)
    return f"{method_of(one)} int{bits} {'row' if group is None else f'g{group}'}"


def _name_of(activations: Activations) -> str:
    return next(name for name, known in ACTIVATIONS.items() if known == activations)
