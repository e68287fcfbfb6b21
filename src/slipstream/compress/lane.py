"""The rows of the calibration text on their way through one version of a model, stage by stage.

`stream` drives one through the model as it becomes.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from slipstream.backends.batch import KV, PAGE_SIZE, Program, single
from slipstream.compress.stages import Stage, row_numbers, stage_graph, with_rows
from slipstream.compress.work import Compile
from slipstream.formats.tensor import Tensor
from slipstream.graph.graph import Graph

F32 = NDArray[np.float32]


class Lane:
    """`rows` float32 [N, W] enter the next stage; None before the first."""

    def __init__(self, graph: Graph, compile: Compile, chunks: NDArray[np.int32]) -> None:
        self.graph = graph
        self.compile = compile
        self.chunks = chunks
        self.rows: F32 | None = None

    def program(self, stage: Stage, weights: Mapping[str, Tensor]) -> Program:
        """The stage with these weights, over the rows that enter it."""
        rows = 1 if self.rows is None else len(self.rows)
        held = {name: weights[name] for name in stage.weights}
        if stage.reads != "ids":
            assert self.rows is not None, "the stage before this one has not been run"
            held = with_rows(held, self.rows)
        return self.compile(stage_graph(stage, self.graph, rows), held)

    def ids(self, stage: Stage) -> NDArray[np.int32]:
        """int32 [C, T]: token ids for the first stage, numbers of rows for the others."""
        return self.chunks if stage.reads == "ids" else row_numbers(self.chunks)

    def pages(self, program: Program) -> KV:
        """For one chunk."""
        return program.new_kv(-(-self.chunks.shape[1] // PAGE_SIZE))

    def advance(self, stage: Stage, weights: Mapping[str, Tensor]) -> None:
        """Runs the stage: its rows become those of the next."""
        program = self.program(stage, weights)
        kv = self.pages(program)
        rows = np.empty((self.chunks.size, self.graph.width), np.float32)
        for number, chunk in enumerate(self.ids(stage)):
            part = slice(number * len(chunk), (number + 1) * len(chunk))
            rows[part] = program.step(single(chunk, all_logits=True), kv)
        self.rows = rows
