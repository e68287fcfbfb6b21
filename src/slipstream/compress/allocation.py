"""One format for each matrix, so that all together fit a size and cost least: an integer program.

minimize Σ cost[w, f] · x[w, f] where Σ size[w, f] · x[w, f] ≤ budget, Σ_f x[w, f] = 1, x is 0 or 1

A knapsack with one choice of each kind: dynamic programming over the budget solves it exactly, up
to the size of a step, in half a second. (scipy's `milp` does too, but HiGHS writes to stdout.)
"""

import numpy as np
from numpy.typing import NDArray

from slipstream.errors import UnsupportedError

F64 = NDArray[np.float64]

STEPS = 100_000  # of the budget: sizes are rounded up to whole ones


def allocate(costs: F64, sizes: F64, budget: float) -> NDArray[np.intp]:
    """intp [W]: the format of each matrix, by costs and sizes float64 [W, F].

    UnsupportedError with the least that would do, if even the smallest formats exceed the budget.
    """
    least = sizes.min(axis=1)
    if least.sum() > budget:
        raise UnsupportedError(
            f"{budget / 1e6:.1f} MB are less than the smallest formats of the menu need, "
            f"{least.sum() / 1e6:.1f} MB: allow more, or put smaller formats on the menu"
        )
    spare = budget - least.sum()
    step = max(spare / STEPS, 1e-9)
    more = np.ceil((sizes - least[:, None]) / step - 1e-9).astype(np.int64)  # above the smallest
    return _choose(costs, more)


def _choose(costs: F64, more: NDArray[np.int64]) -> NDArray[np.intp]:
    """Forward over the matrices, keeping the best choice for every spare; then back."""
    count, formats = costs.shape
    best = np.zeros(STEPS + 1)  # the least cost of the matrices so far, by what may be spent
    choices = np.zeros((count, STEPS + 1), np.uint8)
    for w in range(count):
        found = np.full(STEPS + 1, np.inf)
        for f in range(formats):
            used = int(more[w, f])
            if used > STEPS:
                continue
            cost = best[: STEPS + 1 - used] + costs[w, f]
            better = cost < found[used:]
            found[used:][better] = cost[better]
            choices[w, used:][better] = f
        best = found
    chosen = np.empty(count, np.intp)
    left = STEPS
    for w in reversed(range(count)):
        chosen[w] = choices[w, left]
        left -= int(more[w, chosen[w]])
    return chosen
