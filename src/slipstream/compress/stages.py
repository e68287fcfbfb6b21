"""A graph cut where only the residual stream crosses: embedding, each transformer block, head.

A stage becomes a graph of its own, whose "token ids" are row numbers of a table that holds the
stage's inputs: so every backend runs single blocks without knowing of them.

    ids → [embed] → rows → [layers.0] → rows → … → [head] → logits
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from slipstream.errors import UnsupportedError
from slipstream.formats.tensor import DenseTensor, Tensor
from slipstream.graph import ops
from slipstream.graph.graph import Graph, Node, weights_of

ROWS = "the rows that enter this stage"  # the table's name: no checkpoint has such a tensor


@dataclass(frozen=True)
class Stage:
    """Consecutive nodes; `reads` and `writes` are the only values that cross their borders."""

    name: str  # embed, layers.0 …, head
    nodes: tuple[Node, ...]
    reads: str
    writes: str

    @property
    def weights(self) -> tuple[str, ...]:
        """Every weight of the stage, once, in order of first use."""
        named = (name for node in self.nodes for name in weights_of(node.op))
        return tuple(dict.fromkeys(named))

    @property
    def layer(self) -> int | None:
        """The number of the transformer block; None for embedding and head."""
        number = self.name.removeprefix("layers.")
        return int(number) if number != self.name else None


def stages_of(graph: Graph) -> tuple[Stage, ...]:
    """The stages in order. UnsupportedError where more than one value crosses a border."""
    names: list[str] = []
    nodes: dict[str, list[Node]] = {}
    for node in graph:
        name = _stage_name(node, bool(names) and names[-1] != "embed")
        if not names or names[-1] != name:
            names.append(name)
        nodes.setdefault(name, []).append(node)
    stages: list[Stage] = []
    reads = "ids"
    for index, name in enumerate(names):
        after = [node for later in names[index + 1 :] for node in nodes[later]]
        writes = _crossing(name, nodes[name], after, graph)
        stages.append(Stage(name, tuple(nodes[name]), reads, writes))
        reads = writes
    return tuple(stages)


def _stage_name(node: Node, inside: bool) -> str:
    if node.name.startswith("layers."):
        return ".".join(node.name.split(".")[:2])
    return "head" if inside else "embed"


def _crossing(name: str, own: Iterable[Node], after: Iterable[Node], graph: Graph) -> str:
    """The value that leaves a stage; of the last stage, the logits."""
    read_later = {value for node in after for value in node.inputs}
    if not read_later:
        return graph.nodes[-1].outputs[0]
    leaving = [value for node in own for value in node.outputs if value in read_later]
    if len(leaving) != 1:
        raise UnsupportedError(
            f"{len(leaving)} values leave {name} of {graph.architecture}, not one: "
            "such a model cannot be compressed block by block"
        )
    return leaving[0]


def stage_graph(stage: Stage, graph: Graph, rows: int) -> Graph:
    """The stage alone: from row numbers below `rows` (token ids, for the first) to what it writes.

    The last stage yields logits as ever; the others yield the rows that they pass on.
    """
    nodes = [_renumbered(node) for node in stage.nodes]
    if stage.reads != "ids":
        nodes.insert(0, Node("rows", ops.Embed(ROWS), ("ids",), (stage.reads,)))
    if stage.writes != graph.nodes[-1].outputs[0]:
        nodes.append(Node("leave", ops.Select(), (stage.writes,), ("left",)))
    vocabulary = graph.vocabulary if stage.reads == "ids" else rows
    return replace(graph, nodes=tuple(nodes), vocabulary=vocabulary)


def _renumbered(node: Node) -> Node:
    """A block has one attention, so its cache is the only one."""
    if isinstance(node.op, ops.Attention):
        return replace(node, op=replace(node.op, layer=0))
    return node


def with_rows(weights: Mapping[str, Tensor], rows: NDArray[np.float32]) -> dict[str, Tensor]:
    """`weights` and the table of float32 [N, W] rows that enter a stage."""
    return {**weights, ROWS: DenseTensor(rows)}


def row_numbers(chunks: NDArray[np.int32]) -> NDArray[np.int32]:
    """int32 [C, T]: the row of the table where each token of the chunks is."""
    return np.arange(chunks.size, dtype=np.int32).reshape(chunks.shape)
