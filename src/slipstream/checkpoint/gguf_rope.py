"""How a GGUF file scales rotary frequencies, told as Hugging Face's configs tell it.

`gguf_config` calls `rope_scaling`. Where the converter has worked a scheme out into one divisor per
frequency, the scheme is found again, so that what is made of the model can be read by others.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slipstream.checkpoint.gguf_fields import Fields, shown
from slipstream.errors import GGUFError, UnsupportedError

Config = dict[str, Any]

# Llama 3.1, 3.2 and 3.3 agree in all but the factor.
_LLAMA3 = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def rope_scaling(fields: Fields) -> Config:
    """How rotary frequencies are scaled, as Hugging Face says it where it can."""
    if "rope_freqs.weight" in fields.file.tensors:
        return _divisors(fields)
    if "rope_factors_long.weight" in fields.file.tensors:
        return _longrope(fields)
    kind = fields.get("rope.scaling.type", "none")
    old = fields.get("rope.scale_linear")  # before there were types
    if kind == "none" and type(old) is float and old > 1:
        return {"rope_scaling": {"rope_type": "linear", "factor": old}}
    if kind == "none":
        return {}
    if kind not in ("linear", "yarn"):
        raise UnsupportedError(f"rotary scaling of the type {shown(kind)} is not supported")
    scaling: Config = {"rope_type": kind, "factor": fields.number("rope.scaling.factor")}
    if kind == "yarn":
        scaling |= _yarn(fields)
    return {"rope_scaling": scaling}


def _divisors(fields: Fields) -> Config:
    """One divisor per frequency: those of Llama 3.1's scheme as the scheme, others as they are."""
    divisors = _factors(fields, "rope_freqs.weight")
    if not all(0 < divisor < 1e6 for divisor in divisors):
        raise GGUFError("the rotary factors in rope_freqs.weight are not all above zero")
    theta = fields.number("rope.freq_base", 10_000.0)
    factor = round(max(divisors), 4)  # a float32's last digits are noise
    if theta > 1 and np.allclose(divisors, _llama3(theta, len(divisors), factor), rtol=1e-5):
        return {} if factor == 1 else {"rope_scaling": _LLAMA3 | {"factor": factor}}
    return {"slipstream_rope_factors": divisors}


def _llama3(theta: float, count: int, factor: float) -> NDArray[np.float64]:
    """Waves longer than the old context are stretched by `factor`, those under a quarter not."""
    turns = 8192 * theta ** -(np.arange(count) / count) / (2 * math.pi)  # within the old context
    kept = np.clip((turns - 1) / 3, 0, 1)
    divisors: NDArray[np.float64] = 1 / ((1 - kept) / factor + kept)
    return divisors


def _yarn(fields: Fields) -> Config:
    names = {
        "rope.scaling.original_context_length": "original_max_position_embeddings",
        "rope.scaling.attn_factor": "attention_factor",
        "rope.scaling.yarn_beta_fast": "beta_fast",
        "rope.scaling.yarn_beta_slow": "beta_slow",
    }
    found = {ours: fields.number(key) for key, ours in names.items() if fields.has(key)}
    original = found.get("original_max_position_embeddings")
    return (
        found if original is None else found | {"original_max_position_embeddings": int(original)}
    )


def _longrope(fields: Fields) -> Config:
    original = fields.integer(
        "rope.scaling.original_context_length", fields.integer("context_length")
    )
    scaling: Config = {
        "rope_type": "longrope",
        "long_factor": _factors(fields, "rope_factors_long.weight"),
        "short_factor": _factors(fields, "rope_factors_short.weight"),
        "original_max_position_embeddings": original,
    }
    if fields.has("rope.scaling.attn_factor"):
        scaling["attention_factor"] = fields.number("rope.scaling.attn_factor")
    return {"rope_scaling": scaling, "original_max_position_embeddings": original}


def _factors(fields: Fields, name: str) -> list[float]:
    info = fields.file.tensors.get(name)
    if info is None or len(info.shape) != 1 or info.shape[0] > 1 << 16:
        raise GGUFError(f"the rotary factors {name!r} are missing or of the wrong shape")
    return [float(factor) for factor in fields.file.tensor(name).dequantize()]
