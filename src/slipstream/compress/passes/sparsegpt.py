"""SparseGPT: prune column by column, and let the columns still to come make up for it.

Frantar & Alistarh 2023, https://arxiv.org/abs/2301.00774, with GPTQ's symbols: H⁻¹ = Uᵀ U. Within
each run of B columns the weights with the least w² / Uᵢᵢ² go; the error w / Uᵢᵢ of each is spread
over the columns after it.
"""

import numpy as np
from numpy.typing import NDArray

from slipstream.compress.passes.gptq import Factor
from slipstream.compress.passes.masks import Mask, Pattern, lowest_of_runs, mask_of

F32 = NDArray[np.float32]

_COLUMNS = 128  # whose mask is chosen together, as in the authors' code


def sparsegpt(
    weight: F32, factor: Factor, pattern: Pattern, sparsity: float, block: int = 16
) -> F32:
    """float32 [O, I] → the same shape, pruned and compensated. `factor` is in the plain order."""
    remaining = np.array(weight, np.float32)
    inputs = weight.shape[1]
    for start in range(0, inputs, _COLUMNS):
        end = min(start + _COLUMNS, inputs)
        upper = factor.upper[start:end]
        columns, errors = _settle(
            remaining[:, start:end], upper[:, start:end], pattern, sparsity, block
        )
        remaining[:, start:end] = columns
        remaining[:, end:] -= errors @ upper[:, end:]
    return remaining


def _settle(
    columns: F32, upper: F32, pattern: Pattern, sparsity: float, block: int
) -> tuple[F32, F32]:
    """B columns float32 [O, B]: pruned, and their errors [O, B]."""
    columns = columns.copy()
    errors = np.zeros_like(columns)
    diagonal = np.diagonal(upper)
    run = int(pattern.split(":")[1]) if ":" in pattern else 0
    if run:
        mask = np.zeros(columns.shape, np.bool_)
    else:
        scores = np.square(columns) / np.square(diagonal)
        mask = mask_of(scores, pattern, sparsity, block=block, by_row=False)
    for i in range(columns.shape[1]):
        if run and i % run == 0:
            mask[:, i : i + run] = _run_mask(
                columns[:, i : i + run], diagonal[i : i + run], pattern
            )
        w = columns[:, i].copy()
        columns[mask[:, i], i] = 0
        e = (w - columns[:, i]) / diagonal[i]
        columns[:, i + 1 :] -= np.outer(e, upper[i, i + 1 :])
        errors[:, i] = e
    return columns, errors


def _run_mask(columns: F32, diagonal: F32, pattern: Pattern) -> Mask:
    """Chosen when the run comes up, by the weights as they have become."""
    keep, run = (int(part) for part in pattern.split(":"))
    return lowest_of_runs(np.square(columns) / np.square(diagonal), keep, run)
