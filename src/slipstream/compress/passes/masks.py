"""Which weights go, given a score for each: the patterns of pruning.

    unstructured   the lowest share, of each row (Wanda) or of the whole matrix (magnitude)
    2:4, 4:8       of every m consecutive inputs of a row, the m - n lowest
    block          whole runs of `block` consecutive inputs of a row, by the sum of their scores

Masks are True where a weight goes. Ties fall to the earlier input, so that equal scores give equal
masks everywhere.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.floating]
Mask = NDArray[np.bool_]
Pattern = Literal["unstructured", "2:4", "4:8", "block"]


def mask_of(scores: Scores, pattern: Pattern, sparsity: float, *, block: int, by_row: bool) -> Mask:
    """bool [O, I] for scores [O, I]. ValueError where runs do not divide a row."""
    if pattern in ("2:4", "4:8"):
        keep, run = (int(part) for part in pattern.split(":"))
        return lowest_of_runs(scores, keep, run)
    if pattern == "block":
        sums = scores.reshape(len(scores), _runs(scores, block), block).sum(axis=-1)
        return np.repeat(lowest(sums, sparsity, by_row), block, axis=1)
    return lowest(scores, sparsity, by_row)


def lowest(scores: Scores, share: float, by_row: bool = True) -> Mask:
    """The lowest `share` of each row, or of all."""
    rows = scores if by_row else scores.reshape(1, -1)
    count = round(rows.shape[1] * share)
    order = np.argsort(rows, axis=1, kind="stable")[:, :count]
    mask = np.zeros(rows.shape, np.bool_)
    np.put_along_axis(mask, order, True, axis=1)
    return mask.reshape(scores.shape)


def lowest_of_runs(scores: Scores, keep: int, run: int) -> Mask:
    """All but the `keep` highest of every `run` consecutive inputs."""
    grouped = scores.reshape(len(scores) * _runs(scores, run), run)
    order = np.argsort(grouped, axis=1, kind="stable")[:, : run - keep]
    mask = np.zeros(grouped.shape, np.bool_)
    np.put_along_axis(mask, order, True, axis=1)
    return mask.reshape(scores.shape)


def _runs(scores: Scores, run: int) -> int:
    if scores.shape[1] % run:
        raise ValueError(f"rows of {scores.shape[1]} inputs are no whole number of runs of {run}")
    return scores.shape[1] // run
