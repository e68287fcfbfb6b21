"""A graph as a function that torch differentiates: the reference backend, stage by stage.

Stages are those of compression, so the rows between two blocks are at hand for losses on hidden
states, and a block can be run again in the backward pass instead of being kept (gradient
checkpointing). Legend: R rows, L scored rows, W width, V vocabulary.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import array_api_compat.torch as xp
import numpy as np
import torch
from torch.utils.checkpoint import checkpoint

from slipstream.backends.batch import PAGE_SIZE, Batch
from slipstream.backends.reference import compile_reference
from slipstream.compress.corpus import Portion
from slipstream.compress.stages import ROWS, Stage, stage_graph, stages_of
from slipstream.graph import ops
from slipstream.graph.graph import Graph

Values = Callable[[Sequence[str]], Mapping[str, torch.Tensor]]  # weights by name, as they are now


@dataclass(frozen=True)
class Wanted:
    """Layers whose insides a loss looks at."""

    hidden: frozenset[int] = frozenset()
    relations: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Trace:
    """What a run left behind.

    logits     [L, V], after the scored rows
    hidden     by layer: [R, W], what leaves the block
    relations  by layer: queries, keys and values as attention reads them, [R, ·] each
    """

    logits: torch.Tensor
    hidden: dict[int, torch.Tensor] = field(default_factory=dict)
    relations: dict[int, tuple[torch.Tensor, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Network:
    """`values` gives the weights of a stage when it runs; gradients flow to whatever made them.

    keep  False: blocks are run again in the backward pass, which needs far less memory
    """

    graph: Graph
    values: Values
    device: Any = None
    keep: bool = True

    def run(self, portion: Portion, wanted: Wanted | None = None) -> Trace:
        """Reads a portion, every sequence from its own beginning."""
        wanted = wanted or Wanted()
        rows: torch.Tensor | None = None
        hidden: dict[int, torch.Tensor] = {}
        relations: dict[int, tuple[torch.Tensor, ...]] = {}
        for stage in stages_of(self.graph):
            taps = _attention_inputs(stage) if stage.layer in wanted.relations else ()
            rows, *tapped = self._run_stage(stage, portion, rows, taps)
            if stage.layer is not None and stage.layer in wanted.hidden:
                hidden[stage.layer] = rows
            if stage.layer is not None and tapped:
                relations[stage.layer] = tuple(tapped)
        assert rows is not None
        return Trace(rows, hidden, relations)

    def _run_stage(
        self, stage: Stage, portion: Portion, rows: torch.Tensor | None, taps: tuple[str, ...]
    ) -> tuple[torch.Tensor, ...]:
        def run(entering: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
            return self.apply_stage(stage, portion, entering, taps)

        if self.keep or rows is None or not torch.is_grad_enabled():
            return run(rows)
        found: tuple[torch.Tensor, ...] = checkpoint(
            run, rows, use_reentrant=False, preserve_rng_state=False
        )
        return found

    def apply_stage(
        self,
        stage: Stage,
        portion: Portion,
        rows: torch.Tensor | None,
        taps: tuple[str, ...] = (),
    ) -> tuple[torch.Tensor, ...]:
        """What leaves one stage, and the values inside it that `taps` names."""
        weights = dict(self.values(stage.weights))
        ids = portion.ids
        if rows is not None:
            weights[ROWS] = rows
            ids = np.arange(len(rows), dtype=np.int32)
        graph = stage_graph(stage, self.graph, len(ids))
        program = compile_reference(graph, weights, xp=xp, device=self.device)
        head = stage.writes == self.graph.nodes[-1].outputs[0]
        batch = _batch(portion, ids, portion.scored if head else ids_of(portion))
        kv = program.new_kv(batch.pages.size)
        names = (graph.nodes[-1].outputs[0], *taps)
        found = program.values(batch, kv, names)  # type: ignore[attr-defined]  # the reference's
        return tuple(found[name] for name in names)


def ids_of(portion: Portion) -> np.ndarray:
    """int32 [R]: every row."""
    return np.arange(len(portion.ids), dtype=np.int32)


def _batch(portion: Portion, ids: np.ndarray, logit_rows: np.ndarray) -> Batch:
    """New sequences, each on pages of its own."""
    counts = np.diff(portion.starts)
    most = -(-int(counts.max()) // PAGE_SIZE)
    pages = np.arange(len(counts) * most, dtype=np.int32).reshape(len(counts), most)
    return Batch(
        ids=np.asarray(ids, np.int32),
        row_starts=portion.starts,
        lengths=np.zeros(len(counts), np.int32),
        pages=pages,
        logit_rows=np.asarray(logit_rows, np.int32),
    )


def _attention_inputs(stage: Stage) -> tuple[str, ...]:
    """The values that a block's attention reads: queries, keys, values."""
    for node in stage.nodes:
        if isinstance(node.op, ops.Attention):
            return node.inputs
    return ()
