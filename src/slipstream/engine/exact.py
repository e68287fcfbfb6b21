"""Logarithms, exponentials and sums whose bits are the same on every machine.

Sampling must draw the same token wherever and by whatever code it runs, and libraries round these
functions differently. Here they are a fixed order of single IEEE operations, without fused ones:
the native kernels (csrc/kernels/sample_isa.cpp) perform the very same.

Weights are multiples of 2^-30, kept as whole numbers in float64. Their sums are exact, so they do
not depend on the order in which they are added.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

WEIGHT_ONE = 2.0**30  # the weight of the most likely token
EXP_LOWEST = -30.0  # far below the scores whose weight is above 0
INVERSE_HIGHEST = 3e38  # of a temperature: its product with a difference of 0 is 0

LOG2_E = np.float32(1.44269504)
LN2_HIGH, LN2_LOW = np.float32(0.693145752), np.float32(1.42860677e-6)
EXP_TERMS = np.array(  # Cephes' expf on |r| ≤ ln 2 / 2, the highest power first
    [1.98756912e-4, 1.39819994e-3, 8.33345205e-3, 4.16657962e-2, 1.66666657e-1, 0.5], np.float32
)

LOG_TERMS = (  # FreeBSD's e_log.c: (log(1 + f) - f + f²/2) / s in powers of s², s = f / (2 + f)
    6.666666666666735130e-01,
    3.999999999940941908e-01,
    2.857142874366239149e-01,
    2.222219843214978396e-01,
    1.818357216161805012e-01,
    1.531383769920937332e-01,
    1.479819860511658591e-01,
)
LOG_LN2_HIGH, LOG_LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
HALF_ROOT = np.uint64(0x3FE6A09E00000000)  # the bits of √½, rounded down
ONE = np.uint64(0x3FF0000000000000)
FRACTION = np.uint64(0x000FFFFFFFFFFFFF)


def exp(x: Floats) -> Floats:
    """e^x for x ≤ 0, within 2 ulp, and not below e^-30; float32 in, float32 out."""
    bounded = np.maximum(x, np.float32(EXP_LOWEST))
    turns = np.rint(bounded * LOG2_E)
    r: Floats = bounded - turns * LN2_HIGH
    r -= turns * LN2_LOW
    p: Floats = np.full_like(r, EXP_TERMS[0])
    for term in EXP_TERMS[1:]:
        p = p * r + np.float32(term)
    p = p * (r * r) + r
    p = p + np.float32(1)
    return np.ldexp(p, turns.astype(np.int32)).astype(np.float32, copy=False)  # exact


def log(x: Doubles) -> Doubles:
    """The natural logarithm of positive, normal numbers, within 1 ulp."""
    bits = x.view(np.uint64) + (ONE - HALF_ROOT)
    k = (bits >> np.uint64(52)).astype(np.float64) - 1023.0
    f = ((bits & FRACTION) + HALF_ROOT).view(np.float64) - 1.0  # √½ - 1 ≤ f < √2 - 1
    a1, a2, a3, a4, a5, a6, a7 = LOG_TERMS
    s = f / (f + 2.0)
    z = s * s
    w = z * z
    even = w * (a2 + w * (a4 + w * a6))
    odd = z * (a1 + w * (a3 + w * (a5 + w * a7)))
    half_square = (f * 0.5) * f
    result: Doubles = (
        s * (half_square + (odd + even)) + k * LOG_LN2_LOW - half_square + f + k * LOG_LN2_HIGH
    )
    return result


def log_of(x: float) -> float:
    """`log` of one number."""
    return float(log(np.array([x]))[0])


def inverse_of(temperature: float) -> np.float32:
    """1 / temperature as `weights` wants it."""
    return np.float32(min(1.0 / temperature, INVERSE_HIGHEST))


def weights(logits: Floats, highest: np.float32, inverse: np.float32) -> Doubles:
    """Whole numbers in 0 … WEIGHT_ONE: e^((logit - highest) / T), for logits up to `highest`."""
    with np.errstate(over="ignore"):  # -inf is right
        scores = (logits - highest) * inverse
    return np.rint(exp(scores) * np.float32(WEIGHT_ONE)).astype(np.float64)
