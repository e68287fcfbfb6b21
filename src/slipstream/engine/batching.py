"""A plan as tensors: the batch that a program runs. Called by the engine once per step."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slipstream.backends.batch import Batch
from slipstream.engine.scheduler import Piece, Plan, Sequence


@dataclass(frozen=True)
class Scored:
    """Rows of the logits that say how likely a prompt's tokens were.

    rows [begin, end) are those of positions `position`, `position` + 1, …
    """

    sequence: Sequence
    begin: int
    end: int
    position: int


@dataclass(frozen=True)
class Work:
    """A batch, and what its logits are for.

    sampling   the sequences that get a token, in the order of their rows
    rows       which rows of the logits they are; None: all of them
    scored     the others
    """

    batch: Batch
    sampling: list[Sequence]
    rows: list[int] | None
    scored: list[Scored]


def work_of(
    plan: Plan, sequences: Mapping[int, Sequence], adapter_slots: Mapping[str, int]
) -> Work:
    """The batch of a plan that has begun, pieces in the plan's order; S = len(plan.pieces)."""
    owners = [sequences[piece.request_id] for piece in plan.pieces]
    ids: list[int] = []
    row_starts = [0]
    logit_rows: list[int] = []
    sampling: list[Sequence] = []
    rows: list[int] = []
    scored: list[Scored] = []
    for piece, sequence in zip(plan.pieces, owners, strict=True):
        if sequence.reads_all:
            first, last = _rows_scored(piece, sequence)
            if first < last:
                begin = len(logit_rows)
                logit_rows += range(len(ids) + first - piece.start, len(ids) + last - piece.start)
                scored.append(Scored(sequence, begin, len(logit_rows), first))
        ids += sequence.ids[piece.start : piece.start + piece.rows]
        row_starts.append(len(ids))
        if piece.samples:
            sampling.append(sequence)
            rows.append(len(logit_rows))
            logit_rows.append(len(ids) - 1)
    batch = Batch(
        ids=np.array(ids, np.int32),
        row_starts=np.array(row_starts, np.int32),
        lengths=np.array([piece.start for piece in plan.pieces], np.int32),
        pages=_page_tables(owners),
        logit_rows=np.array(logit_rows, np.int32),
        adapters=_adapters(owners, adapter_slots) if adapter_slots else None,
    )
    return Work(batch, sampling, rows if scored else None, scored)


def _page_tables(owners: list[Sequence]) -> NDArray[np.int32]:
    """int32 [S, P], or [K, S, P] where there are several kinds of attention."""
    kinds = [[sequence.pages[kind] for sequence in owners] for kind in range(len(owners[0].pages))]
    width = max(len(pages) for listed in kinds for pages in listed)
    tables = np.full((len(kinds), len(owners), width), -1, np.int32)
    for table, listed in zip(tables, kinds, strict=True):
        for row, pages in enumerate(listed):
            table[row, : len(pages)] = pages
    return tables[0] if len(kinds) == 1 else tables


def _rows_scored(piece: Piece, sequence: Sequence) -> tuple[int, int]:
    """The positions of a piece whose next token is of the prompt and has no score yet."""
    first = max(piece.start, sequence.scored)
    return first, min(piece.start + piece.rows, len(sequence.request.prompt_ids) - 1)


def _adapters(owners: list[Sequence], slots: Mapping[str, int]) -> NDArray[np.int32] | None:
    named = [sequence.request.adapter for sequence in owners]
    if not any(named):
        return None
    return np.array([-1 if name is None else slots[name] for name in named], np.int32)
