"""Where an adapter goes: its modules, matched with the linears of a graph.

Both backends call `fit_adapter` when an adapter is loaded, and get for each of their matrices the
low-rank pair that is added to it. A module that the graph does not have, or of another shape, is
refused by name. Fused linears change nothing: weights keep their names.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from slipstream.checkpoint.peft import Adapter, LowRankPair
from slipstream.errors import AdapterError, UnsupportedError
from slipstream.graph import ops
from slipstream.graph.graph import Graph
from slipstream.models.weights import parse_part

ADAPTER_SLOTS = 1024  # of a program; the engine allows fewer

# How other checkpoints of the same models begin their names, and what we call it.
_SPELLINGS = (
    ("", ""),
    ("", "transformer."),
    ("model.language_model.", "model."),
    ("language_model.", ""),
)


def sites_of(graph: Graph) -> Iterator[str]:
    """The weights that adapters may add to, in the order of the graph: those of its linears."""
    for node in graph:
        match node.op:
            case ops.Linear(weights=weights):
                yield from weights
            case ops.GatedLinear(gate=gate, up=up):
                yield from (gate, up)


def fit_adapter(
    graph: Graph, shapes: Mapping[str, tuple[int, int]], adapter: Adapter
) -> dict[str, LowRankPair]:
    """Weight → its pair, for every weight that the adapter touches.

    `shapes` are (out, in) by weight. A module whose matrix the graph holds in parts (queries, keys
    and values of one) gives each part its rows of B. UnsupportedError for a module that the graph
    lacks, AdapterError for one of another shape.
    """
    parts = _parts_of(graph)
    fitted: dict[str, LowRankPair] = {}
    for module, pair in adapter.pairs.items():
        weights = parts.get(_spelled(module, parts))
        if weights is None:
            raise UnsupportedError(
                f"the adapter changes {module[:100]}, which is no linear of this model; is it an "
                "adapter of another model?"
            )
        _check_shape(module, pair, weights, shapes)
        for weight, rows in weights.items():
            up = pair.up if rows is None else pair.up[slice(*rows)]
            if weight in fitted:
                raise AdapterError(f"the adapter changes {module[:100]} twice")
            fitted[weight] = replace(pair, up=up)
    return fitted


Parts = Mapping[str, tuple[int, int] | None]  # weight → its rows of the stored matrix


def _parts_of(graph: Graph) -> dict[str, dict[str, tuple[int, int] | None]]:
    """Module → the weights that are (rows of) its matrix. A head that shares the embedding's
    matrix is a module of its own.
    """
    embeddings = {node.op.weight for node in graph if isinstance(node.op, ops.Embed)}
    parts: dict[str, dict[str, tuple[int, int] | None]] = {}
    for weight in sites_of(graph):
        part = parse_part(weight)
        module = "lm_head" if weight in embeddings else part.stored.removesuffix(".weight")
        parts.setdefault(module, {})[weight] = part.rows
    return parts


def _spelled(module: str, known: Mapping[str, object]) -> str:
    """The module as the graph calls it; as it stands if it is not known by any name."""
    for theirs, ours in _SPELLINGS:
        renamed = ours + module.removeprefix(theirs)
        if module.startswith(theirs) and renamed in known:
            return renamed
    return module


def _check_shape(
    module: str, pair: LowRankPair, weights: Parts, shapes: Mapping[str, tuple[int, int]]
) -> None:
    outputs = sum(shapes[weight][0] for weight in weights)
    widths = {shapes[weight][1] for weight in weights}
    if pair.shape[0] != outputs or widths != {pair.shape[1]}:
        raise AdapterError(
            f"the adapter's part for {module[:100]} is for a matrix of {pair.shape}, but the "
            f"model's is ({outputs}, {max(widths)}); is it an adapter of another model?"
        )
