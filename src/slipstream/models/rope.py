"""Rotary frequencies: every scaling scheme of a config, resolved into plain numbers.

Model pages call `read_rope`; the result goes into `ops.Rotary`. Both spellings are read: the
`rope_parameters` of transformers 5, and `rope_theta` beside `rope_scaling` before it. Promises the
frequencies of `transformers.modeling_rope_utils`, computed in float64 and rounded to float32.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slipstream.errors import FileFormatError
from slipstream.models.config import VAST, Config, Sizes

Frequencies = NDArray[np.float64]


@dataclass(frozen=True)
class Rope:
    """What `ops.Rotary` needs, and the positions for which it is meant."""

    frequencies: tuple[float, ...]  # of the first 2·n dimensions of a head
    attention_factor: float
    context: int


def read_rope(
    config: Config, sizes: Sizes, *, default_theta: float = 10_000.0, kind: str | None = None
) -> Rope:
    """The scheme of `config`; with `kind`, that of one kind of layer (``sliding_attention`` …).

    Longrope has two sets of factors. A graph has one: the short ones, with the context that they
    were made for, or the long ones with the whole context when "slipstream_rope_long" is true.
    """
    parameters = _parameters(config, kind)
    scheme = parameters.choice(
        "rope_type" if parameters.has("rope_type") else "type", "default", SCHEMES
    )
    theta = parameters.number("rope_theta", config.number("rope_theta", default_theta), least=1.0)
    share = parameters.number("partial_rotary_factor", config.number("partial_rotary_factor", 1.0))
    dims = int(sizes.head_dim * share)
    if share > 1 or dims < 2 or dims % 2:
        raise FileFormatError(
            f"{parameters.where}: rotary dimensions must be even and within the head, not {dims}"
        )
    plain = theta ** -(np.arange(0, dims, 2) / dims)
    return scheme(_Request(config, parameters, sizes, theta, plain))


def apply_factors(rope: Rope, config: Config) -> Rope:
    """Divides by "slipstream_rope_factors", the per-dimension factors that a GGUF file may hold."""
    if not config.has("slipstream_rope_factors"):
        return rope
    factors = config.numbers("slipstream_rope_factors", len(rope.frequencies))
    return _rope(
        np.asarray(rope.frequencies) / np.asarray(factors), rope.attention_factor, rope.context
    )


@dataclass(frozen=True)
class _Request:
    config: Config
    parameters: Config
    sizes: Sizes
    theta: float
    plain: Frequencies  # theta^(-2i / dims)

    @property
    def original_context(self) -> int:
        """Positions before scaling; Phi-3 keeps the number outside of the parameters."""
        name = "original_max_position_embeddings"
        outside = self.config if self.config.has(name) else self.parameters
        return outside.integer(name, self.sizes.context)

    def factor(self) -> float:
        """How many times longer the context became."""
        if self.parameters.has("factor"):
            return self.parameters.number("factor")
        return self.sizes.context / self.original_context


def _parameters(config: Config, kind: str | None) -> Config:
    name = "rope_parameters" if config.has("rope_parameters") else "rope_scaling"
    parameters = config.section(name)
    if kind is not None and any(isinstance(value, dict) for value in parameters.values.values()):
        return parameters.section(kind)
    return parameters


def _rope(frequencies: Frequencies, attention_factor: float, context: int) -> Rope:
    if not 0 <= frequencies.min() <= frequencies.max() <= VAST:
        raise FileFormatError("config: the rotary parameters give frequencies that are not finite")
    rounded = tuple(float(f) for f in frequencies.astype(np.float32))
    return Rope(rounded, attention_factor, context)


def _default(request: _Request) -> Rope:
    return _rope(request.plain, 1.0, request.sizes.context)


def _linear(request: _Request) -> Rope:
    return _rope(request.plain / request.parameters.number("factor"), 1.0, request.sizes.context)


def _llama3(request: _Request) -> Rope:
    """Long waves are stretched, short ones kept, those between blended."""
    factor = request.parameters.number("factor")
    low = request.parameters.number("low_freq_factor")
    high = request.parameters.number("high_freq_factor")
    if high <= low:
        raise FileFormatError(
            f"{request.parameters.where}: high_freq_factor must exceed low_freq_factor"
        )
    turns = request.original_context * request.plain / (2 * math.pi)  # within the old context
    blend = np.clip((turns - low) / (high - low), 0.0, 1.0)
    frequencies = (1 - blend) * request.plain / factor + blend * request.plain
    return _rope(frequencies, 1.0, request.sizes.context)


def _yarn(request: _Request) -> Rope:
    """As llama3, with the blend over dimensions instead of wavelengths, and warmer attention."""
    if request.parameters.has("short_factor"):  # the first Phi-3 files called longrope so
        return _longrope(request)
    parameters, dims = request.parameters, 2 * len(request.plain)
    factor = request.factor()

    def dimension(turns: float) -> float:
        waves = request.original_context / (turns * 2 * math.pi)
        return dims * math.log(waves) / (2 * math.log(request.theta))

    low = dimension(parameters.number("beta_fast", 32.0))
    high = dimension(parameters.number("beta_slow", 1.0))
    if parameters.flag("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dims - 1)
    span = high - low or 0.001
    stretch = np.clip((np.arange(dims // 2) - low) / span, 0.0, 1.0)
    frequencies = stretch * request.plain / factor + (1 - stretch) * request.plain
    return _rope(frequencies, _yarn_attention(parameters, factor), request.sizes.context)


def _yarn_attention(parameters: Config, factor: float) -> float:
    if parameters.has("attention_factor"):
        return parameters.number("attention_factor")

    def warmth(scale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0

    if parameters.values.get("mscale") and parameters.values.get("mscale_all_dim"):
        return warmth(parameters.number("mscale")) / warmth(parameters.number("mscale_all_dim"))
    return warmth(1.0)


def _longrope(request: _Request) -> Rope:
    """A searched factor for each dimension; see `read_rope` for which set is taken."""
    parameters, count = request.parameters, len(request.plain)
    original, factor = request.original_context, request.factor()
    long = parameters.numbers("long_factor", count)
    short = parameters.numbers("short_factor", count)
    chosen_long = request.config.flag("slipstream_rope_long", False)
    attention = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(max(original, 2)))
    return _rope(
        request.plain / np.asarray(long if chosen_long else short),
        parameters.number("attention_factor", attention),
        request.sizes.context if chosen_long else min(original, request.sizes.context),
    )


# "su" is what Phi-3 called longrope at first. The dynamic scheme is absent on purpose: it turns
# every position by an angle that depends on how long the text has become, so no key could be kept.
SCHEMES: dict[str, Callable[[_Request], Rope]] = {
    "default": _default,
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
    "su": _longrope,
}
