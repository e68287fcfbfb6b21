"""Rotations folded into weights: the same function, with weights and inputs that round better.

QuaRot, Ashkboos et al. 2024, https://arxiv.org/abs/2404.00456, its offline part. The residual
stream x becomes x R with R orthogonal: whoever writes it is turned, whoever reads it turned back.
An RMS norm commutes with R once its gains are moved into the linears behind it. Each head's values
are turned by a matrix of their own, which the output projection undoes. No operation is added.

    embed · R    q, k, v, gate, up, head · diag(g) · R    o, down: Rᵀ ·

A tied head gets weights of its own, since the final gains end up in it.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from slipstream.compress.inputs import linears_by_input
from slipstream.compress.passes.hadamard import rotation
from slipstream.compress.store import overlay
from slipstream.compress.stream import stream
from slipstream.compress.work import Drive, Edition, Visit, flat
from slipstream.errors import UnsupportedError
from slipstream.formats.tensor import DenseTensor
from slipstream.graph import ops
from slipstream.graph.graph import Node
from slipstream.models.registry import graph_of

F32 = NDArray[np.float32]

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@dataclass(frozen=True, kw_only=True)
class Rotate:
    """seed: of the signs; values: also turn each head's values."""

    seed: int = 0
    values: bool = True

    @property
    def calibrated(self) -> bool:
        """Needs no text."""
        return False

    def run(self, edition: Edition, drive: Drive) -> Edition:
        """Every stage of the untied model."""
        return stream(untied(edition), drive, self.visit, inputs="none", label="rotating")

    def outline(self, edition: Edition) -> Edition:
        """All matrices become float32; a tied head gets its own."""
        after = untied(edition)
        turned = {
            name: flat(DenseTensor(np.broadcast_to(np.float32(0), after.weights[name].shape)))
            for name in after.graph.weight_names()
            if len(after.weights[name].shape) == 2
        }
        return replace(after, weights=overlay(after.weights, turned))

    def visit(self, visit: Visit) -> None:
        """Turns what one stage writes and reads."""
        turn = rotation(visit.edition.graph.width, self.seed)
        stream_values = residual_values(visit.edition.graph.nodes)
        for node in visit.stage.nodes:
            match node.op:
                case ops.Embed(weight=weight):
                    _put(visit, weight, visit.dense(weight) @ turn)
                case ops.Linear(weights=weights, biases=biases) if node.outputs[0] in stream_values:
                    _turn_rows(visit, weights[0], biases[0], turn)
        for norm, readers in _norms(visit.stage.nodes):
            gains = visit.dense(norm.weight) + np.float32(norm.weight_offset)
            for name in readers:
                _put(visit, name, (visit.dense(name).astype(np.float64) * gains) @ turn)
            ones = np.full(len(gains), 1 - norm.weight_offset, np.float32)
            visit.put(norm.weight, DenseTensor(ones))
        if self.values:
            for node in visit.stage.nodes:
                if isinstance(node.op, ops.Attention):
                    _turn_values(visit, node, self.seed + 1)


def untied(edition: Edition) -> Edition:
    """The edition with a head of its own; UnsupportedError where rotations do not commute."""
    _check(edition)
    if (
        not edition.config.get("tie_word_embeddings", False)
        and HEAD in edition.graph.weight_names()
    ):
        return edition
    config = {**edition.config, "tie_word_embeddings": False}
    weights = overlay(edition.weights, {HEAD: edition.weights[EMBEDDING]})
    return replace(edition, config=config, graph=graph_of(config), weights=weights)


def residual_values(nodes: tuple[Node, ...]) -> frozenset[str]:
    """The values that are, or are added to, the residual stream."""
    found = {value for n in nodes if isinstance(n.op, ops.Add) for value in (*n.inputs, *n.outputs)}
    found.update(v for n in nodes if isinstance(n.op, ops.Embed) for v in n.outputs)
    return frozenset(found)


def _check(edition: Edition) -> None:
    """Only the plain pre-norm transformer: each norm of the stream is read by linears alone."""
    stream_values = residual_values(edition.graph.nodes)
    for node in edition.graph:
        fits = True
        match node.op:
            case ops.Norm(kind=kind, bias=bias) if node.inputs[0] in stream_values:
                fits = kind == "rms" and bias is None and node.outputs[0] not in stream_values
            case ops.Norm() if node.outputs[0] in stream_values:
                fits = False  # a norm between a linear and the stream: Gemma's, OLMo 2's
            case ops.PositionEmbed() | ops.Scale():
                fits = False
            case ops.Linear(weights=weights) if node.outputs[0] in stream_values:
                fits = len(weights) == 1
            case ops.Linear() | ops.GatedLinear():
                fits = node.inputs[0] not in stream_values
        if not fits:
            raise UnsupportedError(
                f"{edition.graph.architecture} cannot be rotated: {node.name} does not commute"
            )


def _norms(nodes: tuple[Node, ...]) -> list[tuple[ops.Norm, list[str]]]:
    """The norms of the stream, with the linears that read them, through the choice of rows too."""
    by_value = linears_by_input(nodes)
    selects = {n.inputs[0]: n.outputs[0] for n in nodes if isinstance(n.op, ops.Select)}
    found = []
    for node in nodes:
        if isinstance(node.op, ops.Norm) and node.op.heads == 1:
            value = node.outputs[0]
            readers = by_value.get(selects.get(value, value), [])
            if readers:
                found.append((node.op, readers))
    return found


def _turn_rows(visit: Visit, weight: str, bias: str | None, turn: NDArray[np.float64]) -> None:
    _put(visit, weight, turn.T @ visit.dense(weight))
    if bias is not None:
        visit.put(bias, DenseTensor((visit.dense(bias) @ turn).astype(np.float32)))


def _turn_values(visit: Visit, node: Node, seed: int) -> None:
    """Rows of each value head, and the output's columns for every query head that reads it."""
    assert isinstance(node.op, ops.Attention)
    writers = {value: n for n in visit.stage.nodes for value in n.outputs}
    source = writers[node.inputs[2]].op
    outputs = linears_by_input(visit.stage.nodes).get(node.outputs[0], [])
    if not isinstance(source, ops.Linear) or len(source.weights) != 1 or len(outputs) != 1:
        return
    turn = rotation(node.op.head_dim, seed)
    name, bias = source.weights[0], source.biases[0]
    value = visit.dense(name)
    by_head = value.reshape(node.op.kv_heads, node.op.head_dim, -1)
    _put(visit, name, np.einsum("de,kdi->kei", turn, by_head).reshape(value.shape))
    if bias is not None:
        turned = visit.dense(bias).reshape(node.op.kv_heads, -1) @ turn
        visit.put(bias, DenseTensor(turned.reshape(-1).astype(np.float32)))
    output = visit.dense(outputs[0])
    columns = output.reshape(len(output), node.op.heads, node.op.head_dim)
    _put(visit, outputs[0], np.einsum("ohd,de->ohe", columns, turn).reshape(output.shape))


def _put(visit: Visit, name: str, values: NDArray) -> None:
    """In float32: the exactness of the rotation is worth more than a small intermediate file."""
    visit.put(name, DenseTensor(np.ascontiguousarray(values, np.float32)))
