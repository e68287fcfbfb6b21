"""Adapters in the reference: y + scale · B (A x) for the rows of sequences that have one.

`backends.reference` calls it for each linear. Rows without an adapter keep their values to the
last bit.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray

from slipstream.backends.batch import Batch
from slipstream.backends.reference_ops import Array
from slipstream.checkpoint.peft import LowRankPair

Slots = Mapping[int, Mapping[str, LowRankPair]]  # slot → weight → pair


def check_slots(batch: Batch, slots: Slots) -> None:
    """ValueError when a sequence names a slot that is empty."""
    named = set() if batch.adapters is None else set(batch.adapters.tolist()) - {-1}
    if not named <= slots.keys():
        raise ValueError("a sequence names an adapter slot that is empty")


def row_slots(batch: Batch, selected: bool) -> NDArray[np.int32] | None:
    """The slot of each row (or of each row whose logits are wanted); None: no row has one."""
    if batch.adapters is None or (batch.adapters < 0).all():
        return None
    slots = np.repeat(batch.adapters, np.diff(batch.row_starts))
    return slots[batch.logit_rows] if selected else slots


def add_adapters(
    x: Array, y: Array, weight: str, slots: Slots, rows: NDArray[np.int32] | None
) -> Array:
    """x [R, in], y [R, out] → y with what the rows' adapters add at `weight`."""
    if rows is None:
        return y
    xp = array_namespace(y)
    for slot in sorted(set(rows.tolist()) - {-1}):
        pair = slots[slot].get(weight)
        if pair is None:
            continue
        down, up = (_like(matrix, y) for matrix in (pair.down, pair.up))
        delta = ((x @ down.T) * pair.scale) @ up.T
        chosen = xp.asarray((rows == slot)[:, None], device=y.device)
        y = xp.where(chosen, y + delta, y)
    return y


def _like(matrix: NDArray[Any], like: Array) -> Array:
    xp = array_namespace(like)
    return xp.asarray(matrix.astype(np.float32), dtype=like.dtype, device=like.device)
