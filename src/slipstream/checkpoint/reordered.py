"""Matrices rounded in act-order: neighbours share no scale, since groups follow the loudest inputs.

No layout of ours has a scale per element, and the inputs cannot be put in another order without
reordering what makes them. So such a matrix becomes dense float16, the values that its library
computes. `gptq` and `compressed_tensors` call this.
"""

import numpy as np
from numpy.typing import NDArray

from slipstream.checkpoint.foreign import Module
from slipstream.formats.tensor import DenseTensor


def input_order(module: Module, part: str, inputs: int, groups: int) -> NDArray | None:
    """The group of each input, or None where groups lie one after the other (or nothing is said).

    FileFormatError unless every input is in one of the groups; -1 everywhere says nothing.
    """
    if not module.has(part):
        return None
    order = module.array(part, np.int32, np.int64, dimensions=1)
    if order.shape == (inputs,) and (order == -1).all():
        return None
    if order.shape != (inputs,) or order.min() < 0 or order.max() >= groups:
        raise module.damaged(f"its {part} does not give {inputs} inputs one of {groups} groups")
    if inputs % groups == 0 and np.array_equal(order, np.arange(inputs) // (inputs // groups)):
        return None
    return np.asarray(order)


def dense(module: Module, steps: NDArray, scales: NDArray) -> DenseTensor:
    """Steps from zero times scales, both [O, I], rounded once to float16."""
    with np.errstate(over="ignore"):
        values = (steps * scales.astype(np.float32)).astype(np.float16)
    if not np.isfinite(values).all():
        raise module.damaged("it has values beyond float16")
    return DenseTensor(values)
