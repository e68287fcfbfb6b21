"""Draws tokens from logits. Token i of an answer depends on its logits and on (seed, i) only.

A drawn token is the arg-max of logits / T + Gumbel noise over the candidates that top-k, top-p and
min-p keep; the noise is counter-based (`noise.py`). So the same request draws the same tokens in
any batch, and a draft token can be verified by drawing again. One row at a time, always the same
operations in the same order.

Legend: V vocabulary; C candidates that are kept; a score is (logit - highest logit) / T, ≤ 0.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slipstream.engine.noise import BLOCK, Noise
from slipstream.engine.request import SamplingParams
from slipstream.errors import NumericError

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ids = NDArray[np.int64]

PROMISING = 4  # blocks looked at first in a draw from everything
TOP_P_CUTS = (-4.0, -8.0, -16.0)  # scores above which candidates are looked at before all are


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
    noise = Noise(seed, index)
    if params.top_k == 0 and params.top_p == 1 and params.min_p == 0:
        return _race(logits, best, params.temperature, noise)
    ids = _kept(logits, best, params)
    scores = _scores(logits[ids], logits[best], params.temperature)
    return _winner(ids, scores + noise.of(ids))


def logprob(logits: Floats, token: int, top: int) -> TokenLogprob:
    """The log-probability of `token`, and of the `top` most likely ones; logits float32 [V]."""
    values = logits.astype(np.float64)
    highest = values.max()
    total = highest + np.log(np.exp(values - highest).sum())
    ids = _top_k(logits, top) if top else np.empty(0, np.int64)
    order = ids[np.lexsort((ids, -logits[ids]))]
    rivals = tuple((int(i), float(values[i] - total)) for i in order)
    return TokenLogprob(token, float(values[token] - total), rivals)


def _scores(logits: Floats, highest: np.float32, temperature: float) -> Doubles:
    with np.errstate(over="ignore"):  # a tiny temperature: -inf is right
        return (logits.astype(np.float64) - np.float64(highest)) / temperature


def _kept(logits: Floats, best: int, params: SamplingParams) -> Ids:
    """The ids that the filters leave, each filter seeing what the one before left."""
    ids = _top_k(logits, params.top_k)
    if params.top_p < 1:
        scores = _scores(logits[ids], logits[best], params.temperature)
        ids = ids[_top_p(scores.astype(np.float32), params.top_p)]
    if params.min_p > 0:
        scores = _scores(logits[ids], logits[best], params.temperature)
        ids = ids[scores >= np.log(params.min_p)]
    return ids


def _top_k(logits: Floats, k: int) -> Ids:
    """The ids of the k highest logits, ascending; among equals the lowest ids. 0 keeps all."""
    if k == 0 or k >= len(logits):
        return np.arange(len(logits))
    threshold = np.partition(logits, len(logits) - k)[len(logits) - k]
    above = np.flatnonzero(logits > threshold)
    equal = np.flatnonzero(logits == threshold)[: k - len(above)]
    return np.sort(np.concatenate([above, equal]))


def _top_p(scores: Floats, p: float) -> Ids:
    """Indices of the fewest candidates whose probabilities reach p of the total, likeliest first.

    Sorting everything would dominate the step. The highest are tried first and more only if they
    do not suffice: the same indices either way.
    """
    weights = np.exp(scores)
    wanted = p * weights.sum(dtype=np.float64)
    for cut in (*TOP_P_CUTS, -np.inf):
        some = np.flatnonzero(scores >= cut)
        if cut == -np.inf or weights[some].sum(dtype=np.float64) > wanted:
            break
    order = some[np.argsort(-scores[some], kind="stable")]
    reached = np.cumsum(weights[order], dtype=np.float64)
    count = int(np.searchsorted(reached, wanted)) + 1
    kept: Ids = order[:count]
    return kept


def _race(logits: Floats, best: int, temperature: float, noise: Noise) -> int:
    """The id with the highest score + noise of all; among equals the lowest id.

    No id of a block can get more than the block's highest score plus the block's highest noise.
    The most promising blocks set the bar; those that cannot reach it are not looked at.
    """

    def results_of(blocks: Ids) -> tuple[Ids, Doubles]:
        ids = (blocks[:, None] * BLOCK + np.arange(BLOCK)).reshape(-1)
        ids = ids[ids < len(logits)]
        return ids, _scores(logits[ids], logits[best], temperature) + noise.of(ids)

    highest = np.maximum.reduceat(logits, np.arange(0, len(logits), BLOCK))
    bounds = _scores(highest, logits[best], temperature) + noise.peaks(np.arange(len(highest)))
    promising = np.argsort(-bounds)[:PROMISING]
    bar = results_of(promising)[1].max()
    return _winner(*results_of(np.flatnonzero(bounds >= bar)))


def _winner(ids: Ids, results: Doubles) -> int:
    return int(ids[results == results.max()].min())
