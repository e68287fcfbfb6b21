"""A graph as an ONNX model: a backend that writes instead of running.

`cli.export` calls `write_onnx`. Inputs and outputs are named as Hugging Face's exporters name them:

    input_ids, position_ids int64 [B, S] · attention_mask int64 [B, P + S], 0 for padding
    past_key_values.L.key, .value float32 [B, K, P, D] → present.L.key, .value [B, K, P + S, D]
    logits float32 [B, S, V]

Weights keep their format (DequantizeLinear, opset 21); activations are float32. onnxruntime gives
the logits of the reference backend.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slipstream.backends.onnx_ops import IDS, MASK, POSITIONS, Lowering
from slipstream.backends.onnx_weights import Writer
from slipstream.errors import MachineError
from slipstream.formats.tensor import Tensor
from slipstream.graph.graph import Graph

OPSET = 21  # the first with integers of 4 bits in blocks
IR_VERSION = 10
MODEL, DATA = "model.onnx", "model.onnx.data"


def write_onnx(graph: Graph, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Writes ``model.onnx`` and ``model.onnx.data`` into an existing folder, one weight at a time.

    MachineError without the package ``onnx``; UnsupportedError for a graph that a pass has fused.
    """
    onnx = _library()
    with (folder / DATA).open("wb") as data:
        writer = Writer(onnx, weights, data, DATA)
        inputs, outputs = _lowered(graph, writer)
    helper = onnx.helper
    body = helper.make_graph(writer.nodes, graph.architecture, inputs, outputs, writer.initializers)
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(body, opset_imports=opsets, producer_name="slipstream")
    model.ir_version = IR_VERSION
    (folder / MODEL).write_bytes(model.SerializeToString())
    onnx.checker.check_model(str(folder / MODEL))


def _library() -> Any:
    try:
        import onnx  # noqa: PLC0415  optional
    except ImportError:
        raise MachineError(
            "writing ONNX needs the package onnx: pip install 'slipstream[export]'"
        ) from None
    return onnx


def _lowered(graph: Graph, writer: Writer) -> tuple[list[Any], list[Any]]:
    """Every node written; the inputs and outputs of the whole."""
    lowering = Lowering(writer)
    values = {"ids": IDS}
    for node in graph.nodes:
        found = lowering.lower(node, [values[name] for name in node.inputs])
        values |= dict(zip(node.outputs, found, strict=True))
    describe, kinds = writer.onnx.helper.make_tensor_value_info, writer.onnx.TensorProto
    inputs = [describe(name, kinds.INT64, ["batch", "new"]) for name in (IDS, POSITIONS)]
    inputs.append(describe(MASK, kinds.INT64, ["batch", "all"]))
    logits = values[graph.nodes[-1].outputs[0]]
    results = [("logits", logits, ["batch", "new", graph.vocabulary])]
    for op, kept in zip(graph.attentions, lowering.present, strict=True):
        for name, value in zip(("key", "value"), kept, strict=True):
            past = ["batch", op.kv_heads, "past", op.head_dim]
            inputs.append(describe(f"past_key_values.{op.layer}.{name}", kinds.FLOAT, past))
            present = ["batch", op.kv_heads, "all", op.head_dim]
            results.append((f"present.{op.layer}.{name}", value, present))
    outputs = []
    for name, value, shape in results:
        writer.nodes.append(writer.onnx.helper.make_node("Identity", [value], [name], name))
        outputs.append(describe(name, kinds.FLOAT, shape))
    return inputs, outputs
