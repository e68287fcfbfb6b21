"""The quality of a program: perplexity alone, or its distance from a baseline.

`evaluate_program` is the one door; the command line, compression's proof and the search use it.
It holds one piece of logits at a time, whatever the text's length.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slipstream.backends.batch import Program
from slipstream.evaluate.divergence import Baseline, kl_divergence, top1_agreement
from slipstream.evaluate.interval import Means, Measured, blocks_of, bootstrap
from slipstream.evaluate.perplexity import (
    Logs,
    log_probabilities,
    negative_log_likelihood,
    new_kv,
    perplexity,
)

OnPositions = Callable[[int], None]  # told how many more positions have been scored


@dataclass(frozen=True)
class Distance:
    """How far from the baseline, per position of the same text."""

    kl: Measured  # mean KL(baseline ‖ program), nats
    kl_p99: float
    kl_max: float
    top1: Measured  # share of positions with the same most likely token
    perplexity_ratio: Measured  # program / baseline
    baseline_perplexity: float


@dataclass(frozen=True)
class Evaluation:
    """What was measured, on how much of which text."""

    positions: int
    text_sha256: str  # of the token ids scored, int32 little-endian
    perplexity: Measured
    distance: Distance | None  # None: there was no baseline

    def to_json(self) -> dict[str, Any]:
        """Plain numbers; the inverse is `from_json`."""
        data: dict[str, Any] = {
            "positions": self.positions,
            "text_sha256": self.text_sha256,
            "perplexity": self.perplexity.to_json(),
        }
        if self.distance is not None:
            data["distance"] = {
                name: value.to_json() if isinstance(value, Measured) else value
                for name, value in vars(self.distance).items()
            }
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Evaluation":
        """Reads what `to_json` wrote; KeyError if a field is missing."""
        distance = None
        if "distance" in data:
            fields: dict[str, Any] = {
                name: Measured.from_json(value) if isinstance(value, dict) else float(value)
                for name, value in data["distance"].items()
            }
            distance = Distance(**fields)
        measured = Measured.from_json(data["perplexity"])
        return cls(int(data["positions"]), str(data["text_sha256"]), measured, distance)

    def measurements(self) -> dict[str, Measured]:
        """By the names that limits use: kl, top1, ppl_ratio, ppl."""
        named = {"ppl": self.perplexity}
        if self.distance is not None:
            named["kl"] = self.distance.kl
            named["top1"] = self.distance.top1
            named["ppl_ratio"] = self.distance.perplexity_ratio
        return named


@dataclass(frozen=True)
class Scores:
    """Per position, float64 [N] each; the rows of a paired comparison."""

    nll: NDArray[np.float64]
    baseline_nll: NDArray[np.float64]
    kl: NDArray[np.float64]
    agreement: NDArray[np.float64]  # 1 where the most likely tokens agree


def evaluate_program(
    program: Program,
    chunks: NDArray[np.int32],
    baseline: Baseline | None = None,
    on_positions: OnPositions | None = None,
) -> Evaluation:
    """Scores `program` on int32 [C, T] chunks; against `baseline`, over the same chunks, if given.

    NumericError if the program's logits are not finite.
    """
    blocks = _blocks(chunks)
    if baseline is None:
        nll = _likelihoods(program, chunks, on_positions)
        return _evaluation(chunks, nll, blocks, None)
    if not np.array_equal(baseline.chunks, chunks):
        raise ValueError("the baseline was made for other chunks")
    scores = score_program(program, baseline, on_positions)
    return _evaluation(chunks, scores.nll, blocks, _distance(scores, blocks))


def evaluate_baseline(baseline: Baseline, on_positions: OnPositions | None = None) -> Evaluation:
    """The baseline's own perplexity, at no distance from itself; runs it only once."""
    pairs = (((log_p, log_p) for log_p in baseline.pieces(i)) for i in range(len(baseline.chunks)))
    scores = _score(baseline.chunks, pairs, on_positions)
    blocks = _blocks(baseline.chunks)
    return _evaluation(baseline.chunks, scores.nll, blocks, _distance(scores, blocks))


def score_program(
    program: Program, baseline: Baseline, on_positions: OnPositions | None = None
) -> Scores:
    """Every position of the baseline's chunks, candidate and baseline in step."""
    kv = new_kv(program, baseline.chunks.shape[1])
    pairs = (  # both sides cut chunks into the same pieces
        zip(baseline.pieces(index), log_probabilities(program, chunk, kv), strict=True)
        for index, chunk in enumerate(baseline.chunks)
    )
    return _score(baseline.chunks, pairs, on_positions)


def _score(
    chunks: NDArray[np.int32],
    pairs: Iterable[Iterable[tuple[Logs, Logs]]],
    on_positions: OnPositions | None,
) -> Scores:
    """`pairs` yields for each chunk the pieces of baseline and candidate."""
    columns: list[NDArray[np.float64]] = []
    for chunk, pieces in zip(chunks, pairs, strict=True):
        start = 1
        for log_p, log_q in pieces:
            columns.append(_score_piece(log_p, log_q, chunk[start : start + len(log_q)]))
            start += len(log_q)
            if on_positions is not None:
                on_positions(len(log_q))
    nll, baseline_nll, kl, agreement = np.concatenate(columns, axis=1)
    return Scores(nll, baseline_nll, kl, agreement)


def _score_piece(log_p: Logs, log_q: Logs, next_ids: NDArray[np.int32]) -> NDArray[np.float64]:
    """float64 [4, L]: the four columns of `Scores`."""
    return np.stack(
        [
            negative_log_likelihood(log_q, next_ids),
            negative_log_likelihood(log_p, next_ids),
            kl_divergence(log_p, log_q),
            top1_agreement(log_p, log_q).astype(np.float64),
        ]
    )


def _likelihoods(
    program: Program, chunks: NDArray[np.int32], on_positions: OnPositions | None
) -> NDArray[np.float64]:
    kv = new_kv(program, chunks.shape[1])
    pieces: list[NDArray[np.float64]] = []
    for chunk in chunks:
        start = 1
        for logs in log_probabilities(program, chunk, kv):
            pieces.append(negative_log_likelihood(logs, chunk[start : start + len(logs)]))
            start += len(logs)
            if on_positions is not None:
                on_positions(len(logs))
    return np.concatenate(pieces)


def _blocks(chunks: NDArray[np.int32]) -> NDArray[np.int64]:
    return blocks_of(np.full(len(chunks), chunks.shape[1] - 1, np.int64))


def _distance(scores: Scores, blocks: NDArray[np.int64]) -> Distance:
    def ratio(means: Means) -> NDArray[np.float64]:
        return np.exp(means[..., 0] - means[..., 1])

    return Distance(
        kl=bootstrap(scores.kl[None], blocks),
        kl_p99=float(np.quantile(scores.kl, 0.99)),
        kl_max=float(scores.kl.max()),
        top1=bootstrap(scores.agreement[None], blocks),
        perplexity_ratio=bootstrap(np.stack([scores.nll, scores.baseline_nll]), blocks, ratio),
        baseline_perplexity=perplexity(scores.baseline_nll),
    )


def _evaluation(
    chunks: NDArray[np.int32],
    nll: NDArray[np.float64],
    blocks: NDArray[np.int64],
    distance: Distance | None,
) -> Evaluation:
    return Evaluation(
        positions=len(nll),
        text_sha256=hashlib.sha256(chunks.astype("<i4").tobytes()).hexdigest(),
        perplexity=bootstrap(nll[None], blocks, lambda means: np.exp(means[..., 0])),
        distance=distance,
    )
