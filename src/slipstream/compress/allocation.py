"""One format for each matrix, so that all together fit a size and cost least: an integer program.

minimize Σ cost[w, f] · x[w, f] where Σ size[w, f] · x[w, f] ≤ budget, Σ_f x[w, f] = 1, x is 0 or 1
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array, kron

from slipstream.errors import UnsupportedError

F64 = NDArray[np.float64]

GAP = 1e-4  # of the optimum: costs are measured to a few percent
SECONDS = 20.0


def allocate(costs: F64, sizes: F64, budget: float) -> NDArray[np.intp]:
    """intp [W]: the format of each matrix, by costs and sizes float64 [W, F].

    UnsupportedError with the least that would do, if even the smallest formats exceed the budget.
    """
    least = float(sizes.min(axis=1).sum())
    if least > budget:
        raise UnsupportedError(
            f"{budget / 1e6:.1f} MB are less than the smallest formats of the menu need, "
            f"{least / 1e6:.1f} MB: allow more, or put smaller formats on the menu"
        )
    count, formats = costs.shape
    one_each = csr_array(kron(np.eye(count), np.ones((1, formats))))
    scale = max(float(costs.max()), 1e-30)
    found = milp(
        costs.ravel() / scale,
        constraints=[
            LinearConstraint(one_each, 1, 1),
            LinearConstraint(sizes.reshape(1, -1) / budget, -np.inf, 1),
        ],
        integrality=np.ones(costs.size),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": GAP, "time_limit": SECONDS},
    )
    if found.x is None:  # out of time before any solution: the smallest is one
        return np.asarray(sizes.argmin(axis=1))
    return np.asarray(found.x.reshape(costs.shape).argmax(axis=1))
