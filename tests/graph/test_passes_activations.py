"""How the activations of linears are decided."""

import ml_dtypes
import numpy as np
import pytest

from slipstream.formats.tensor import Affine, AffineTensor, DenseTensor
from slipstream.graph import ops
from slipstream.graph.graph import Builder, Graph
from slipstream.graph.ops import Activations
from slipstream.graph.passes.activations import assign_activations

FLOAT = Activations()
INT8 = Activations(8, 32)


def affine(group: int | None, inputs: int = 64) -> AffineTensor:
    groups = inputs // (group or inputs)
    codes = np.zeros((16, inputs), np.int8)
    return AffineTensor(Affine(8, group), codes, np.ones((16, groups), np.float32))


def graph_of(*weights: str, activations: Activations = FLOAT) -> Graph:
    build = Builder()
    x = build.add("embed", ops.Embed("e"), "ids")
    op = ops.Linear(weights, (None,) * len(weights), activations)
    build.add_many("linear", op, x, outputs=len(weights))
    return Graph("test", tuple(build.nodes), 64, 16, 128)


def assigned(graph: Graph, weights, choice="auto", settings=None) -> Activations:
    op = assign_activations(graph, weights, choice, settings).node("linear").op
    assert isinstance(op, ops.Linear)
    return op.activations


DENSE = DenseTensor(np.zeros((16, 64), np.float32))
SHORT = DenseTensor(np.zeros((16, 64), ml_dtypes.bfloat16))
HALF = DenseTensor(np.zeros((16, 64), np.float16))


@pytest.mark.parametrize(
    ("weight", "choice", "expected"),
    [
        (affine(32), "auto", INT8),
        (affine(32), "int8", INT8),
        (affine(32), "f32", Activations()),
        (affine(16), "auto", INT8),
        (affine(64), "auto", INT8),
        (affine(None), "auto", INT8),
        (affine(48, 96), "auto", Activations(8, 48)),
        (affine(None, 80), "auto", Activations(8, 80)),
        (DENSE, "auto", Activations()),
        (DENSE, "int8", Activations()),
        (SHORT, "auto", Activations()),
        (SHORT, "bf16", Activations(16)),
        (HALF, "bf16", Activations()),
        (affine(32), "bf16", Activations()),
    ],
)
def test_the_default_follows_the_weight(weight, choice, expected):
    assert assigned(graph_of("w"), {"w": weight}, choice) == expected


def test_one_dense_weight_keeps_a_fused_linear_in_float():
    assert assigned(graph_of("a", "b"), {"a": affine(32), "b": DENSE}) == Activations()


def test_one_other_weight_keeps_a_fused_linear_from_bfloat16():
    assert assigned(graph_of("a", "b"), {"a": SHORT, "b": HALF}, "bf16") == Activations()
    assert assigned(graph_of("a", "b"), {"a": SHORT, "b": SHORT}, "bf16") == Activations(16)


def test_the_checkpoint_decides_under_auto():
    wish = {"w": Activations(8, None)}
    assert assigned(graph_of("w"), {"w": affine(32)}, "auto", wish) == Activations(8, None)
    assert assigned(graph_of("w"), {"w": affine(32)}, "int8", wish) == INT8
    assert assigned(graph_of("w"), {"w": affine(32)}, "auto", {"w": Activations()}) == Activations()


def test_what_the_graph_says_stands_under_auto():
    graph = graph_of("w", activations=Activations(8, 64))
    assert assigned(graph, {"w": affine(32)}) == Activations(8, 64)


def test_other_operations_are_left_alone():
    graph = graph_of("w")
    after = assign_activations(graph, {"w": affine(32)})
    assert after.node("embed") == graph.node("embed")
