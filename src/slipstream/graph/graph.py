"""A model as a graph: a list of operations over named values, in the order they run.

Models build it with `Builder`, passes rewrite it, backends run it. Every value is written once,
by one node, before it is read. The input value is called ``ids``; the last node's only output is
the logits.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from slipstream.formats.kv import KVType
from slipstream.graph import ops


@dataclass(frozen=True)
class Node:
    """One operation, the values it reads and the values it writes; `name` is unique and readable.

    ``Node("layers.0.attn.qkv", Linear(...), ("x3",), ("q0", "k0", "v0"))``
    """

    name: str
    op: ops.Op
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Graph:
    """The whole model, and the few facts about it that its users need."""

    architecture: str
    nodes: tuple[Node, ...]
    width: int
    vocabulary: int
    context: int  # most positions the checkpoint was made for
    kv: KVType | None = None  # how keys and values are meant to be stored; None: nothing was said

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    @property
    def attentions(self) -> tuple[ops.Attention, ...]:
        """The attention operations in order; the index of each is its `layer`."""
        return tuple(node.op for node in self.nodes if isinstance(node.op, ops.Attention))

    @property
    def windows(self) -> tuple[int | None, ...]:
        """How far each kind of attention sees, in order of first appearance; None: to the start.

        Attentions that see equally far are of one kind: the same pages hold their keys and values.
        At least one kind, also where nothing attends.
        """
        return tuple(dict.fromkeys(attention.window for attention in self.attentions)) or (None,)

    @property
    def window(self) -> int | None:
        """The positions that a row sees in every attention; None: some see all before it."""
        windows = [attention.window for attention in self.attentions]
        bounded = [window for window in windows if window is not None]
        return max(bounded) if bounded and len(bounded) == len(windows) else None

    def node(self, name: str) -> Node:
        """The node called `name`; KeyError if there is none."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(name)

    def weight_names(self) -> tuple[str, ...]:
        """Every weight the graph reads, once each, in order of first use."""
        names: dict[str, None] = {}
        for node in self.nodes:
            names.update(dict.fromkeys(weights_of(node.op)))
        return tuple(names)

    def check(self) -> None:
        """Asserts the promise of the module docstring: single writes, no read before a write."""
        written = {"ids"}
        seen: set[str] = set()
        for node in self.nodes:
            assert node.name not in seen, f"two nodes called {node.name}"
            assert written.issuperset(node.inputs), f"{node.name} reads an unwritten value"
            assert written.isdisjoint(node.outputs), f"{node.name} writes a value again"
            seen.add(node.name)
            written.update(node.outputs)
        assert [a.layer for a in self.attentions] == list(range(len(self.attentions)))


def weights_of(op: ops.Op) -> tuple[str, ...]:
    """The names of the weights that an operation reads, biases included."""
    match op:
        case ops.Embed(weight=weight) | ops.PositionEmbed(weight=weight):
            return (weight,)
        case ops.Shift(weight=weight):
            return (weight,)
        case ops.Norm(weight=weight, bias=bias):
            return (weight,) if bias is None else (weight, bias)
        case ops.AddNorm(norm=norm):
            return weights_of(norm)
        case ops.Linear(weights=weights, biases=biases):
            return weights + tuple(bias for bias in biases if bias is not None)
        case ops.GatedLinear(gate=gate, up=up):
            return (gate, up)
        case _:
            return ()


@dataclass
class Builder:
    """Writes a graph line by line, inventing value names.

    >>> build = Builder()
    >>> x = build.add("embed", ops.Embed("model.embed_tokens.weight"), "ids")
    >>> q, k = build.add_many("qk", ops.Linear(("wq", "wk"), (None, None)), x, outputs=2)
    """

    nodes: list[Node] = field(default_factory=list)
    values: int = 0

    def add(self, name: str, op: ops.Op, *inputs: str) -> str:
        """Appends an operation with one output; returns the output's name."""
        return self.add_many(name, op, *inputs, outputs=1)[0]

    def add_many(self, name: str, op: ops.Op, *inputs: str, outputs: int) -> tuple[str, ...]:
        """Appends an operation with several outputs; returns their names."""
        written = tuple(f"v{self.values + i}" for i in range(outputs))
        self.values += outputs
        self.nodes.append(Node(name, op, inputs, written))
        return written
