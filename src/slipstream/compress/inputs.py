"""Which linears of a graph multiply the same input: what is calibrated and scaled together.

Calibration captures the input once for all of them; passes that change an input change them all.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from slipstream.graph import ops
from slipstream.graph.graph import Node


@dataclass(frozen=True)
class InputGroup:
    """Linear weights that multiply the same input, and the width of that input."""

    weights: tuple[str, ...]
    width: int

    @property
    def key(self) -> str:
        """The first weight: captured once, for all."""
        return self.weights[0]


def input_groups(nodes: Iterable[Node], widths: Callable[[str], int]) -> tuple[InputGroup, ...]:
    """The linears among `nodes` by the value they read, in graph order; the head is the last.

    `widths` gives the input width of a weight by its name. A weight used twice (a tied head) is in
    the group of its linear.
    """
    by_value = linears_by_input(nodes)
    return tuple(InputGroup(tuple(names), widths(names[0])) for names in by_value.values())


def linears_by_input(nodes: Iterable[Node]) -> dict[str, list[str]]:
    """For every value that linears read, the weights of those linears, in graph order."""
    by_value: dict[str, dict[str, None]] = {}
    for node in nodes:
        match node.op:
            case ops.Linear(weights=names):
                by_value.setdefault(node.inputs[0], {}).update(dict.fromkeys(names))
            case ops.GatedLinear(gate=gate, up=up):
                by_value.setdefault(node.inputs[0], {}).update({gate: None, up: None})
    return {value: list(names) for value, names in by_value.items()}
