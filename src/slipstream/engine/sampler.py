"""Draws tokens from logits. Token i of an answer depends on its logits and on (seed, i) only.

The noise is counter-based: one Philox stream per (seed, i), one number of it per token id. A drawn
token is the arg-max of logits / T + Gumbel noise over the candidates that top-k, top-p and min-p
keep. So the same request draws the same tokens in any batch, and a draft token can be verified by
drawing again. One row at a time, always the same operations in the same order.

Legend: V vocabulary; C candidates that are kept.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slipstream.engine.request import SamplingParams
from slipstream.errors import NumericError

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ids = NDArray[np.int64]

TOP_P_FIRST_TRY = 256  # candidates sorted before all are; most top-p sets are smaller
RACE_MARGIN = 5.0  # see `_race`: less than 1 % of ids have noise above it
RACE_BITS = np.uint64(int(np.exp(-np.exp(-RACE_MARGIN)) * 2**64) - 2**32)  # a little low: safe


@dataclass(frozen=True)
class TokenLogprob:
    """A token's natural log-probability under the model's own distribution, and its rivals'."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()  # (id, logprob), the most likely first


def sample(logits: Floats, params: SamplingParams, seed: int, index: int) -> int:
    """Token `index` of an answer, from float32 [V] logits. NumericError if they are not finite."""
    best = int(logits.argmax())
    if not np.isfinite(logits[best]):
        raise NumericError("the model's logits are not finite; its weights may be damaged")
    if params.temperature == 0 or params.top_k == 1:
        return best
    ids = _top_k(logits, params.top_k)
    with np.errstate(over="ignore"):  # a tiny temperature: -inf is right
        scores = (logits[ids].astype(np.float64) - float(logits[best])) / params.temperature
    if params.top_p < 1:
        ids, scores = _top_p(ids, scores, params.top_p)
    if params.min_p > 0:
        keep = scores >= np.log(params.min_p)
        ids, scores = ids[keep], scores[keep]
    if len(ids) == 1:
        return int(ids[0])
    return _race(ids, scores, noise_bits(seed, index, int(ids.max()) + 1))


def logprob(logits: Floats, token: int, top: int) -> TokenLogprob:
    """The log-probability of `token`, and of the `top` most likely ones; logits float32 [V]."""
    values = logits.astype(np.float64)
    highest = values.max()
    total = highest + np.log(np.exp(values - highest).sum())
    ids = _top_k(logits, top) if top else np.empty(0, np.int64)
    order = ids[np.lexsort((ids, -logits[ids]))]
    rivals = tuple((int(i), float(values[i] - total)) for i in order)
    return TokenLogprob(token, float(values[token] - total), rivals)


def noise_bits(seed: int, index: int, count: int) -> NDArray[np.uint64]:
    """The raw noise of token ids 0 … count - 1 for token `index` of the request with `seed`."""
    return np.random.Philox(key=seed, counter=[0, 0, 0, index]).random_raw(count)


def gumbel(bits: NDArray[np.uint64]) -> Doubles:
    """Gumbel noise from raw bits: -log(-log(u)), u strictly between 0 and 1."""
    uniform = ((bits >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52  # exact, never 0 or 1
    return -np.log(-np.log(uniform))


def _top_k(logits: Floats, k: int) -> Ids:
    """The ids of the k highest logits, ascending; among equals the lowest ids. 0 keeps all."""
    if k == 0 or k >= len(logits):
        return np.arange(len(logits))
    threshold = np.partition(logits, len(logits) - k)[len(logits) - k]
    above = np.flatnonzero(logits > threshold)
    equal = np.flatnonzero(logits == threshold)[: k - len(above)]
    return np.sort(np.concatenate([above, equal]))


def _top_p(ids: Ids, scores: Doubles, p: float) -> tuple[Ids, Doubles]:
    """The fewest candidates whose probabilities reach p of the total, the most likely first.

    Sorting everything would dominate the step, so the leaders are sorted first and the rest only
    if they do not suffice: the same set either way.
    """
    weights = np.exp(scores)
    wanted = p * weights.sum()
    for leaders in (TOP_P_FIRST_TRY, len(ids)):
        some = _leaders(scores, leaders)
        order = some[np.argsort(-scores[some], kind="stable")]
        reached = np.cumsum(weights[order])
        if reached[-1] >= wanted or leaders >= len(ids):
            kept = order[: int(np.searchsorted(reached, wanted)) + 1]
            return ids[kept], scores[kept]
    raise AssertionError("the second try has all candidates")


def _leaders(scores: Doubles, count: int) -> Ids:
    """Indices, ascending, of the `count` highest scores, and of all equals of the last one."""
    if count >= len(scores):
        return np.arange(len(scores))
    threshold = np.partition(scores, len(scores) - count)[len(scores) - count]
    return np.flatnonzero(scores >= threshold)


def _race(ids: Ids, scores: Doubles, bits: NDArray[np.uint64]) -> int:
    """The id whose score + Gumbel noise is highest; among equals the lowest id. scores ≤ 0.

    Logarithms of a whole vocabulary would cost more than the rest of sampling, and few ids can
    win. With b the result of the most likely id, a winner has noise ≥ b - score: so either its
    score is at least b - margin or its noise is at least the margin. Only those are raced.
    """
    bits = bits[ids]
    favorite = int(scores.argmax())
    bar = float(scores[favorite] + gumbel(bits[favorite : favorite + 1])[0])
    racing = np.flatnonzero((scores >= bar - RACE_MARGIN) | (bits >= RACE_BITS))
    results = scores[racing] + gumbel(bits[racing])
    best = racing[results == results.max()]
    return int(ids[best].min())
