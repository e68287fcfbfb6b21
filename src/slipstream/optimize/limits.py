"""What a user will give up, read from words such as ``kl<0.02`` or ``memory<1GB``.

============  ==========  ====================================================================
metric        comparison  meaning and unit
============  ==========  ====================================================================
kl            <           mean KL divergence from the original, nats per token
top1          >           share of positions with the same most likely token (0.95 or 95%)
ppl_ratio     <           perplexity divided by the original's
size          <           bytes of the stored tensors (80MB, 1.2GB, 64MiB)
memory        <           bytes that weights, KV cache and buffers take while serving
decode        >           tokens per second, one stream, on this machine
prefill       >           prompt tokens per second, on this machine
============  ==========  ====================================================================
"""

import re
from collections.abc import Sequence
from typing import Literal

from slipstream.errors import SlipstreamError
from slipstream.evaluate.verdict import Limit

Comparison = Literal["<", ">"]

COMPARISONS: dict[str, Comparison] = {
    "kl": "<",
    "top1": ">",
    "ppl_ratio": "<",
    "size": "<",
    "memory": "<",
    "decode": ">",
    "prefill": ">",
}
_BYTES = {
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
}
_RATES = {"": 1.0, "tok/s": 1.0, "t/s": 1.0, "/s": 1.0}
_UNITS: dict[str, dict[str, float]] = {
    "kl": {"": 1.0, "nats": 1.0},
    "top1": {"": 1.0, "%": 0.01},
    "ppl_ratio": {"": 1.0, "x": 1.0},
    "size": {k: float(v) for k, v in _BYTES.items()},
    "memory": {k: float(v) for k, v in _BYTES.items()},
    "decode": _RATES,
    "prefill": _RATES,
}
_FORM = re.compile(
    r"\s*([a-z0-9_]+)\s*([<>]=?|=)\s*([0-9]*\.?[0-9]+(?:e[+-]?\d+)?)\s*([a-z/%]*)\s*", re.I
)

# Said when no limit is given: about what 4-bit GGUF files of good repute cost a model of this size
# (llama.cpp's Q4_K_M and Q4_1, each with an importance matrix: 0.06 and 0.095 on SmolLM2-135M).
DEFAULT = "kl<0.1"


class LimitError(SlipstreamError, ValueError):
    """A limit that cannot be understood; the message shows one that can."""

    exit_code = 2


def parse_limits(texts: Sequence[str]) -> tuple[Limit, ...]:
    """Every text as a limit; the default if there is none. LimitError for a doubled metric."""
    limits = tuple(parse_limit(text) for text in texts or (DEFAULT,))
    metrics = [limit.metric for limit in limits]
    doubled = sorted({metric for metric in metrics if metrics.count(metric) > 1})
    if doubled:
        raise LimitError(f"{doubled[0]} is limited twice; give it one --limit")
    return limits


def parse_limit(text: str) -> Limit:
    """``metric comparison value[unit]``; LimitError says what is wrong and shows what is right.

    >>> parse_limit("size<80MB").value
    80000000.0
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise LimitError(
            f"the limit {text!r} is not understood; write a metric, < or >, and a value, "
            'such as "kl<0.02" or "memory<1GB" (in quotes, or the shell takes the <)'
        )
    metric, comparison, number, unit = match[1].lower(), match[2], match[3], match[4].lower()
    if metric not in COMPARISONS:
        raise LimitError(
            f"there is no metric {metric!r}; limits are set on {', '.join(COMPARISONS)}"
        )
    wanted = COMPARISONS[metric]
    if comparison != wanted:
        better = "smaller" if wanted == "<" else "larger"
        raise LimitError(f"{metric} is better when {better}: write {metric}{wanted}{number}{unit}")
    factors = _UNITS[metric]
    if unit not in factors:
        example = "80MB" if metric in ("size", "memory") else number
        raise LimitError(f"{text!r}: write the value with a unit of {metric}, such as {example}")
    value = float(number) * factors[unit]
    if metric == "top1" and value >= 1:
        raise LimitError(f"{text!r}: top1 is a share below 1 (0.95), or a percentage (95%)")
    return Limit(metric, wanted, value, f"{metric}{wanted}{number}{match[4]}")
