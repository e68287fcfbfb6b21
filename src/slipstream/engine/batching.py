"""A plan as tensors: the batch that a program runs. Called by the engine once per step."""

from collections.abc import Mapping

import numpy as np

from slipstream.backends.batch import Batch
from slipstream.engine.scheduler import Plan, Sequence


def batch_of(plan: Plan, sequences: Mapping[int, Sequence]) -> Batch:
    """The batch of a plan that has begun, pieces in the plan's order; S = len(plan.pieces)."""
    ids: list[int] = []
    row_starts, logit_rows = [0], []
    width = max(len(sequences[piece.request_id].pages) for piece in plan.pieces)
    pages = np.full((len(plan.pieces), width), -1, np.int32)
    for row, piece in enumerate(plan.pieces):
        sequence = sequences[piece.request_id]
        ids += sequence.ids[piece.start : piece.start + piece.count]
        row_starts.append(len(ids))
        pages[row, : len(sequence.pages)] = sequence.pages
        if piece.samples:
            logit_rows.append(len(ids) - 1)
    return Batch(
        ids=np.array(ids, np.int32),
        row_starts=np.array(row_starts, np.int32),
        lengths=np.array([piece.start for piece in plan.pieces], np.int32),
        pages=pages,
        logit_rows=np.array(logit_rows, np.int32),
    )
