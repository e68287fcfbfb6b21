"""Fusion: neighbors in a graph that run faster as one operation become one.

Backends call `fuse` before they compile. The fused graph computes the same values: a linear rounds
its input once instead of once per sibling, and a residual is added and normed in one visit.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from slipstream.graph import ops
from slipstream.graph.graph import Graph, Node


def fuse(graph: Graph) -> Graph:
    """The graph with its gated pairs, its sibling linears and its adds before norms fused.

    Names of values that stay are kept, so that a fused graph can be compared value by value.
    """
    nodes = fuse_gates(graph.nodes)
    nodes = fuse_siblings(nodes)
    nodes = fuse_add_norms(nodes)
    fused = replace(graph, nodes=tuple(nodes))
    fused.check()
    return fused


def fuse_gates(nodes: Sequence[Node]) -> list[Node]:
    """gate = x·Wg, up = x·Wu, Gate(gate, up) → GatedLinear, where nothing else reads the two."""
    readers = _readers(nodes)
    writers = {value: node for node in nodes for value in node.outputs}
    replaced: dict[str, Node] = {}
    dropped: set[str] = set()
    for node in nodes:
        if not isinstance(node.op, ops.Gate):
            continue
        sources = [writers.get(value) for value in node.inputs]
        gated = _gated_linear(node, sources)
        if gated is not None and all(len(readers[value]) == 1 for value in node.inputs):
            replaced[node.name] = gated
            dropped.update(source.name for source in sources if source is not None)
    return [replaced.get(node.name, node) for node in nodes if node.name not in dropped]


def _gated_linear(gate: Node, sources: Sequence[Node | None]) -> Node | None:
    """The GatedLinear that does the work of two plain linears of one input and their Gate."""
    assert isinstance(gate.op, ops.Gate)
    weights = []
    for source in sources:
        if source is None or not isinstance(source.op, ops.Linear):
            return None
        if len(source.op.weights) != 1 or source.op.biases != (None,):
            return None
        weights.append((source.op.weights[0], source.op.activations, source.inputs))
    (gate_weight, activations, inputs), (up_weight, *same) = weights
    if [activations, inputs] != same:
        return None
    op = ops.GatedLinear(gate_weight, up_weight, gate.op.kind, activations)
    names = [source.name for source in sources if source is not None]
    return Node(joined_name(names), op, inputs, gate.outputs)


def fuse_siblings(nodes: Sequence[Node]) -> list[Node]:
    """Linears that read one value, stored alike → one Linear, where the first of them stood."""
    families: dict[tuple[str, ops.Activations], list[Node]] = {}
    for node in nodes:
        if isinstance(node.op, ops.Linear):
            families.setdefault((node.inputs[0], node.op.activations), []).append(node)
    heads = {family[0].name: family for family in families.values() if len(family) > 1}
    dropped = {node.name for family in heads.values() for node in family[1:]}
    return [
        _one_linear(heads[node.name]) if node.name in heads else node
        for node in nodes
        if node.name not in dropped
    ]


def _one_linear(family: Sequence[Node]) -> Node:
    linears = [node.op for node in family if isinstance(node.op, ops.Linear)]
    op = ops.Linear(
        weights=tuple(weight for linear in linears for weight in linear.weights),
        biases=tuple(bias for linear in linears for bias in linear.biases),
        activations=linears[0].activations,
    )
    outputs = tuple(value for node in family for value in node.outputs)
    return Node(joined_name(node.name for node in family), op, family[0].inputs, outputs)


def fuse_add_norms(nodes: Sequence[Node]) -> list[Node]:
    """s = Add(a, b), Norm(s) → AddNorm, which writes both; the first norm of s is taken."""
    norms: dict[str, Node] = {}
    for node in nodes:
        if isinstance(node.op, ops.Norm) and node.op.heads == 1:
            norms.setdefault(node.inputs[0], node)
    return list(_with_add_norms(nodes, norms))


def _with_add_norms(nodes: Iterable[Node], norms: dict[str, Node]) -> Iterator[Node]:
    taken: set[str] = set()
    for node in nodes:
        norm = norms.get(node.outputs[0])
        if isinstance(node.op, ops.Add) and norm is not None:
            assert isinstance(norm.op, ops.Norm)
            taken.add(norm.name)
            outputs = (node.outputs[0], norm.outputs[0])
            name = joined_name((node.name, norm.name))
            yield Node(name, ops.AddNorm(norm.op), node.inputs, outputs)
        elif node.name not in taken:
            yield node


def joined_name(names: Iterable[str]) -> str:
    """``layers.0.attn.q``, ``layers.0.attn.k`` → ``layers.0.attn.q+k``."""
    parts = [name.split(".") for name in names]
    shared = 0
    while all(len(part) > shared + 1 and part[shared] == parts[0][shared] for part in parts):
        shared += 1
    return ".".join([*parts[0][:shared], "+".join(".".join(part[shared:]) for part in parts)])


def _readers(nodes: Iterable[Node]) -> dict[str, list[Node]]:
    readers: dict[str, list[Node]] = {}
    for node in nodes:
        for value in node.inputs:
            readers.setdefault(value, []).append(node)
    return readers
