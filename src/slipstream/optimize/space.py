"""The candidates: which recipes are worth trying on a model.

Each is weight format × method × activation format; the search measures them in this order, so that
a run that is cut short has tried the most promising ones. Formats that would copy the stored codes
without loss are left out: they are the baseline, not a candidate.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from slipstream.compress.recipe import (
    Method,
    Recipe,
    Roles,
    Rule,
    activations_label,
    format_label,
    plan,
)
from slipstream.errors import UnsupportedError
from slipstream.formats.tensor import Affine, AffineTensor, Quantized, Tensor
from slipstream.graph.graph import Graph
from slipstream.graph.ops import Activations
from slipstream.models.weights import parse_part

A8 = Activations(8, 32)
A8_ROW = Activations(8, None)
A32 = Activations()

# The head is large and read once a token, and the embedding is the same tensor where it is tied:
# one int8 scale per row costs them little. Searching the span of 8 bits gains nothing (the mean
# squared error of SmolLM2's matrices falls by less than 0.3 %), so they are spanned as they are.
EIGHT = Affine(8, None)
HEAD = (Rule("head", EIGHT, clip="minmax"), Rule("embedding", EIGHT, clip="minmax"))
# What llama.cpp's mixed types also keep finer: the inputs of `down` have the loudest channels.
SENSITIVE = (
    Rule("*.down_proj.weight", EIGHT, clip="minmax"),
    Rule("*.v_proj.weight", EIGHT, clip="minmax"),
)


@dataclass(frozen=True)
class Candidate:
    """A recipe under a short name."""

    name: str
    recipe: Recipe

    def layout(self, graph: Graph, weights: Mapping[str, Tensor]) -> tuple[Any, ...]:
        """What decides speed and size: the formats, not how the codes were chosen."""
        steps = plan(self.recipe, graph, weights)
        return (self.recipe.activations, tuple((step.weight, step.format) for step in steps))


def candidates(graph: Graph, weights: Mapping[str, Tensor]) -> tuple[Candidate, ...]:
    """Every candidate that changes the stored weights, the most promising first, no two alike."""
    unique: dict[tuple[Any, ...], Candidate] = {}
    for candidate in _in_order_of_promise():
        steps = plan(candidate.recipe, graph, weights)
        if any(_changes(step.format, weights[step.weight]) for step in steps):
            key = (candidate.layout(graph, weights), tuple((s.method, s.clip) for s in steps))
            unique.setdefault(key, candidate)
    return tuple(unique.values())


def check_supported(graph: Graph) -> None:
    """UnsupportedError for a model whose compressed weights no artifact could hold yet."""
    turned = [name for name in graph.weight_names() if parse_part(name).turned]
    if turned:
        raise UnsupportedError(
            f"{graph.architecture} stores its matrices turned ({turned[0]}); the layout of "
            "artifacts cannot hold them, so it can be served but not compressed"
        )


def as_stored(activations: Activations) -> Candidate:
    """The file's own weights, for the rows that candidates are compared with."""
    return Candidate(f"as stored · {activations_label(activations)}", Recipe((), activations))


def served_form(graph: Graph, weights: Mapping[str, Tensor]) -> Candidate:
    """The stored weights as they are served: int8 activations where any linear is quantized.

    It differs from the original by about 0.003 KL, so text and calibration come from it: it is
    the faster of the two.
    """
    quantized = any(isinstance(weights[name], Quantized) for name in Roles.of(graph).by_weight)
    return as_stored(A8 if quantized else A32)


def _in_order_of_promise() -> Iterator[Candidate]:
    int4, int4_64 = Affine(4, 32), Affine(4, 64)
    asymmetric, asymmetric_64 = Affine(4, 32, "zero_point"), Affine(4, 64, "zero_point")
    yield _uniform(EIGHT)
    yield _mixed(int4)
    yield _uniform(int4, "gptq")
    yield _uniform(int4)
    yield _uniform(int4_64, "gptq")
    yield _mixed(int4_64)
    yield _uniform(asymmetric, "gptq")
    yield _uniform(EIGHT, activations=A8_ROW)
    yield _uniform(int4, "gptq", activations=A32)
    yield _uniform(Affine(8, 64))
    yield _uniform(int4_64)
    yield _uniform(Affine(4, None), "gptq")
    yield _uniform(asymmetric_64, "gptq")


def _uniform(format: Affine, method: Method = "rtn", *, activations: Activations = A8) -> Candidate:
    """One format for all linears of the blocks."""
    rule = Rule("linear", format, method, "minmax" if format.bits == 8 else "mse")
    name = f"{format_label(format)} {method} · {activations_label(activations)}"
    return Candidate(name, Recipe((*HEAD, rule), activations))


def _mixed(format: Affine) -> Candidate:
    """int8 where errors cost most, GPTQ in a small format elsewhere."""
    rules = (*HEAD, *SENSITIVE, Rule("linear", format, "gptq"))
    name = f"{format_label(format)} gptq, down and v int8 · {activations_label(A8)}"
    return Candidate(name, Recipe(rules, A8))


def _changes(wanted: Affine | None, stored: Tensor) -> bool:
    """Whether the stored values do not already lie on such a grid, or a coarser one of its kind."""
    if wanted is None:
        return False
    if not isinstance(stored, AffineTensor):
        return True
    have = stored.format
    same_groups = have.group == wanted.group
    return not (same_groups and wanted.bits >= have.bits and wanted.zero in (have.zero, "minimum"))
