"""Draws tokens from logits. Token i of an answer depends on its logits and on (seed, i) only.

A drawn token is the arg-max of logits / T + Gumbel noise over the candidates that top-k, top-p,
min-p and typical-p keep; the noise is counter-based (`noise.py`). So the same request draws the
same tokens in any batch, and a draft token can be verified by drawing again.

This is the reference, one row at a time. `sampler_native.py` draws the same tokens faster; which
of them runs can never be seen in an answer, since the arithmetic has one set of bits (`exact.py`).

Legend: V vocabulary; C candidates that are kept; a score is (logit - highest logit) / T, ≤ 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from slipstream.engine.exact import WEIGHT_ONE, inverse_of, log, log_of, weights
from slipstream.engine.noise import BLOCK, Noise
from slipstream.engine.request import SamplingParams
from slipstream.errors import DeadEndError, NumericError, SlipstreamError

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ids = NDArray[np.int64]

PROMISING = 4  # blocks looked at first in a draw from everything
MIN_P_LOWEST = 1e-300  # its logarithm is below every score that matters


@dataclass(frozen=True)
class TokenLogprob:
    """A token's natural log-probability under the model's own distribution, and its rivals'."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()  # (id, logprob), the most likely first


@dataclass(frozen=True)
class Row:
    """What one token is drawn from: float32 [V] logits, by these parameters."""

    logits: Floats
    params: SamplingParams
    seed: int
    index: int


class Sampler(Protocol):
    """Draws for all rows of a step at once."""

    def draw(self, rows: Sequence[Row]) -> list[int | SlipstreamError]:
        """`sample` of each row: its token, or why it has none."""
        ...

    def logprobs(
        self, rows: Sequence[Floats], tokens: Sequence[int], tops: Sequence[int]
    ) -> list[TokenLogprob]:
        """`logprob` of each row, its token, and how many rivals to name."""
        ...


class ReferenceSampler:
    """The sampler that defines the tokens: one row after the other, in numpy."""

    def draw(self, rows: Sequence[Row]) -> list[int | SlipstreamError]:
        """See `Sampler`."""
        return [self._token(row) for row in rows]

    def _token(self, row: Row) -> int | SlipstreamError:
        try:
            return sample(row.logits, row.params, row.seed, row.index)
        except SlipstreamError as error:
            return error

    def logprobs(
        self, rows: Sequence[Floats], tokens: Sequence[int], tops: Sequence[int]
    ) -> list[TokenLogprob]:
        """See `Sampler`."""
        return [logprob(*one) for one in zip(rows, tokens, tops, strict=True)]


def sample(logits: Floats, params: SamplingParams, seed: int, index: int) -> int:
    """Token `index` of an answer, from float32 [V] logits.

    NumericError if they are not finite; those of forbidden tokens may be -inf. DeadEndError if all
    are forbidden.
    """
    best = int(logits.argmax())
    check_highest(float(logits[best]))
    if params.temperature == 0 or params.top_k == 1:
        return best
    noise = Noise(seed, index)
    if not filters(params):
        return _race(logits, best, params.temperature, noise)
    ids = _kept(logits, best, params)
    scores = _scores(logits[ids], logits[best], params.temperature)
    return _winner(ids, scores + noise.of(ids))


def check_highest(highest: float) -> None:
    """Refuses to draw where the highest logit (NaN if any is) shows that it cannot be done."""
    if highest == -np.inf:
        raise DeadEndError("no token is left: the answer's constraints contradict each other")
    if not np.isfinite(highest):
        raise NumericError("the model's logits are not finite; its weights may be damaged")


def filters(params: SamplingParams) -> bool:
    """Whether not all tokens are candidates."""
    ratios = (params.top_p, params.typical_p)
    return params.top_k > 0 or min(ratios) < 1 or params.min_p > 0


def logprob(logits: Floats, token: int, top: int) -> TokenLogprob:
    """The log-probability of `token`, and of the `top` most likely ones; logits float32 [V]."""
    highest = logits.max()
    log_total = log_of(float(weights(logits, highest, np.float32(1)).sum()) / WEIGHT_ONE)
    return logprob_entry(logits, token, top_ids(logits, top), float(highest), log_total)


def top_ids(logits: Floats, k: int) -> Ids:
    """The ids of the k highest logits, the highest first; among equals the lowest id first."""
    if k == 0:
        return np.empty(0, np.int64)
    ids = _top_k(logits, k)
    return ids[np.lexsort((ids, -logits[ids]))]


def logprob_entry(
    logits: Floats, token: int, rivals: Ids, highest: float, log_total: float
) -> TokenLogprob:
    """From the logarithm of the sum of all e^(logit - highest)."""
    of = {int(i): float(logits[i]) - highest - log_total for i in (token, *rivals)}
    return TokenLogprob(token, of[token], tuple((int(i), of[int(i)]) for i in rivals))


def _scores(logits: Floats, highest: np.float32, temperature: float) -> Doubles:
    with np.errstate(over="ignore"):  # a tiny temperature: -inf is right
        return (logits.astype(np.float64) - np.float64(highest)) / temperature


def _kept(logits: Floats, best: int, params: SamplingParams) -> Ids:
    """The ids that the filters leave, each filter seeing what the one before left."""
    ids, inverse = _top_k(logits, params.top_k), inverse_of(params.temperature)
    if params.top_p < 1:
        ids = _top_p(ids, logits[ids], weights(logits[ids], logits[best], inverse), params.top_p)
    if params.min_p > 0:
        scores = _scores(logits[ids], logits[best], params.temperature)
        ids = ids[scores >= log_of(max(params.min_p, MIN_P_LOWEST))]
    if params.typical_p < 1:
        ids = _typical(ids, weights(logits[ids], logits[best], inverse), params.typical_p)
    return ids


def _top_k(logits: Floats, k: int) -> Ids:
    """The ids of the k highest logits, ascending; among equals the lowest ids. 0 keeps all."""
    if k == 0 or k >= len(logits):
        return np.arange(len(logits))
    threshold = np.partition(logits, len(logits) - k)[len(logits) - k]
    above = np.flatnonzero(logits > threshold)
    equal = np.flatnonzero(logits == threshold)[: k - len(above)]
    return np.sort(np.concatenate([above, equal]))


def _top_p(ids: Ids, logits: Floats, weight: Doubles, p: float) -> Ids:
    """The fewest of `ids` (ascending) whose weights reach p of their total, likeliest first."""
    order = np.argsort(-logits, kind="stable")
    return ids[order[: _count_reaching(weight[order], p)]]


def _typical(ids: Ids, weight: Doubles, p: float) -> Ids:
    """The fewest that reach p, those first whose surprise is nearest to the expected one.

    Meister et al., 2022, "Locally Typical Sampling".
    """
    ids, weight = ids[weight > 0], weight[weight > 0]
    probabilities = weight / weight.sum()
    surprise = -log(probabilities)
    expected = (probabilities * surprise).cumsum()[-1]  # a sum in one order
    order = np.lexsort((ids, np.abs(surprise - expected)))
    return ids[order[: _count_reaching(weight[order], p)]]


def _count_reaching(weight: Doubles, p: float) -> int:
    """How many of the first weights reach p of their total."""
    reached = weight.cumsum()  # exact, whatever the order
    return int(np.searchsorted(reached, p * reached[-1])) + 1


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
