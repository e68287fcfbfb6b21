"""Reads a checkpoint's config.json field by field, checked: every model page goes through here.

A config is a stranger's file. Each reader says what it accepts, and refuses anything else with a
FileFormatError that names the field; what is well-formed but not served is an UnsupportedError.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar, overload

from slipstream.errors import FileFormatError, UnsupportedError

T = TypeVar("T")

# No model is near these; a config beyond them is hostile, and building its graph would be too.
LARGEST = 2**31 - 1
LARGEST_WIDTH = 2**20
LARGEST_LAYERS = 4096
SMALLEST, VAST = 1e-30, 1e30


class _Required:
    """The default of a field that has none."""


REQUIRED = _Required()


@dataclass(frozen=True)
class Config:
    """The fields of one config, or of a section in it. A field that is null counts as absent."""

    values: Mapping[str, Any]
    where: str = "config"

    def has(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self.values.get(name) is not None

    def filled(self, defaults: Mapping[str, Any]) -> "Config":
        """With what is absent taken from `defaults`; what is null stays so."""
        return Config({**defaults, **self.values}, self.where)

    def integer(
        self, name: str, default: int | _Required = REQUIRED, *, least: int = 1, most: int = LARGEST
    ) -> int:
        """An integer within `least` … `most`."""
        value = self._value(name, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise self._wrong(name, f"an integer of {least} to {most}", value)
        return value

    def optional_integer(self, name: str, *, least: int = 1, most: int = LARGEST) -> int | None:
        """The same, or None where the field is absent."""
        return self.integer(name, least=least, most=most) if self.has(name) else None

    def number(
        self, name: str, default: float | _Required = REQUIRED, *, least: float = 0.0
    ) -> float:
        """A number above `least`, neither vast nor vanishing."""
        value = self._value(name, default)
        if not _is_number(value) or not max(least, SMALLEST) < value <= VAST:
            raise self._wrong(name, f"a number above {least:g}", value)
        return float(value)

    def optional_number(self, name: str, *, least: float = 0.0) -> float | None:
        """The same, or None where the field is absent."""
        return self.number(name, least=least) if self.has(name) else None

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self._value(name, default)
        if not isinstance(value, bool):
            raise self._wrong(name, "true or false", value)
        return value

    def numbers(self, name: str, count: int) -> tuple[float, ...]:
        """A list of exactly `count` numbers above zero."""
        values = self._list(name, count)
        if not all(_is_number(value) and SMALLEST < value <= VAST for value in values):
            raise self._wrong(name, "a list of numbers above zero", values)
        return tuple(float(value) for value in values)

    def choices(self, name: str, count: int, allowed: Mapping[Any, T]) -> tuple[T, ...]:
        """A list of exactly `count` keys of `allowed`; returns what they stand for."""
        values = self._list(name, count)
        return tuple(self._chosen(name, value, allowed) for value in values)

    def choice(self, name: str, default: str | _Required, allowed: Mapping[Any, T]) -> T:
        """One key of `allowed`; returns what it stands for. UnsupportedError for any other text."""
        return self._chosen(name, self._value(name, default), allowed)

    def section(self, name: str) -> "Config":
        """A nested object; empty where the field is absent."""
        value = self._value(name, {})
        if not isinstance(value, Mapping):
            raise self._wrong(name, "an object", value)
        return Config(value, f"{self.where}.{name}")

    def norm_offset(self, default: float) -> float:
        """What is added to norm weights: GGUF files hold sums already, and say so by this hint."""
        value = self._value("slipstream_norm_offset", default)
        if not _is_number(value) or not -VAST <= value <= VAST:
            raise self._wrong("slipstream_norm_offset", "a number", value)
        return float(value)

    def refuse(self, name: str, *served: object) -> None:
        """UnsupportedError where the field is there with a value other than those served."""
        if self.has(name) and self.values[name] not in served:
            raise UnsupportedError(
                f"{self.where}: {name} = {_shown(self.values[name])} is not supported"
            )

    @overload
    def _value(self, name: str, default: _Required) -> Any: ...
    @overload
    def _value(self, name: str, default: object) -> Any: ...
    def _value(self, name: str, default: object) -> Any:
        value = self.values.get(name)
        if value is not None:
            return value
        if isinstance(default, _Required):
            raise FileFormatError(f"{self.where} lacks {name}; is this a complete config.json?")
        return default

    def _list(self, name: str, count: int) -> list[Any]:
        value = self._value(name, REQUIRED)
        if not isinstance(value, list | tuple) or len(value) != count:
            raise self._wrong(name, f"a list of {count} entries", value)
        return list(value)

    def _chosen(self, name: str, value: Any, allowed: Mapping[Any, T]) -> T:
        if isinstance(value, str | int) and value in allowed:
            return allowed[value]
        names = ", ".join(str(key) for key in allowed)
        raise UnsupportedError(
            f"{self.where}: {name} = {_shown(value)} is not supported; supported are {names}"
        )

    def _wrong(self, name: str, expected: str, value: Any) -> FileFormatError:
        return FileFormatError(f"{self.where}: {name} must be {expected}, not {_shown(value)}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


@dataclass(frozen=True)
class LayerSizes:
    """What one layer has of its own after structured pruning."""

    heads: int
    kv_heads: int
    mlp_width: int


@dataclass(frozen=True)
class Sizes:
    """The sizes that every architecture has; `by_layer` where its layers differ."""

    layers: int
    width: int
    mlp_width: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    context: int
    by_layer: tuple[LayerSizes, ...] = ()

    def of_layer(self, layer: int) -> "Sizes":
        """The sizes of one layer."""
        if not self.by_layer:
            return self
        own = self.by_layer[layer]
        return replace(self, heads=own.heads, kv_heads=own.kv_heads, mlp_width=own.mlp_width)


def read_sizes(config: Config) -> Sizes:
    """The sizes, under the names that all but GPT-2 use, with their agreement checked."""
    width = config.integer("hidden_size", most=LARGEST_WIDTH)
    heads = config.integer("num_attention_heads", most=LARGEST_WIDTH)
    kv_heads = config.integer("num_key_value_heads", heads, most=LARGEST_WIDTH)
    if not config.has("head_dim") and width % heads:
        raise FileFormatError(
            f"{config.where}: hidden_size {width} is not divisible by {heads} heads"
        )
    if heads % kv_heads:
        raise FileFormatError(f"{config.where}: {heads} heads cannot share {kv_heads} key heads")
    head_dim = config.integer("head_dim", width // heads, most=LARGEST_WIDTH)
    if heads * head_dim > LARGEST_WIDTH:
        raise FileFormatError(f"{config.where}: {heads} heads of {head_dim} are absurdly many")
    layers = config.integer("num_hidden_layers", most=LARGEST_LAYERS)
    return Sizes(
        layers=layers,
        width=width,
        mlp_width=config.integer("intermediate_size", most=LARGEST_WIDTH),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocabulary=config.integer("vocab_size"),
        context=config.integer("max_position_embeddings"),
        by_layer=_layer_sizes(config.section("slipstream"), layers),
    )


def _layer_sizes(section: Config, layers: int) -> tuple[LayerSizes, ...]:
    """``"slipstream": {"layers": [{"heads": 6, "kv_heads": 2, "mlp_width": 1024}, …]}``."""
    if not section.has("layers"):
        return ()
    entries = section.values["layers"]
    if not isinstance(entries, list) or len(entries) != layers:
        raise FileFormatError(f"{section.where}: layers must be a list of {layers} entries")
    found = []
    for number, entry in enumerate(entries):
        if not isinstance(entry, Mapping):
            raise FileFormatError(f"{section.where}: layer {number} must be an object")
        own = Config(entry, f"{section.where}.layers[{number}]")
        heads = own.integer("heads", most=LARGEST_WIDTH)
        kv_heads = own.integer("kv_heads", most=LARGEST_WIDTH)
        if heads % kv_heads:
            raise FileFormatError(f"{own.where}: {heads} heads cannot share {kv_heads} key heads")
        found.append(LayerSizes(heads, kv_heads, own.integer("mlp_width", most=LARGEST_WIDTH)))
    return tuple(found)
