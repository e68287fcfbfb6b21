"""onnxruntime computes from our ONNX file what the reference backend computes from the graph."""

import numpy as np
import pytest

from slipstream.backends.batch import single
from slipstream.backends.onnx_write import DATA, MODEL, write_onnx
from slipstream.backends.reference import compile_reference
from slipstream.errors import UnsupportedError
from slipstream.formats.affine import quantize_affine
from slipstream.formats.tensor import Affine, DenseTensor
from slipstream.graph.passes.fuse import fuse
from slipstream.models.registry import blueprint_of

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

NAMES = ["llama-tied-biased", "llama-yarn", "mistral", "qwen2", "qwen3", "smollm3", "gemma2", "gemma3", "phi3-short", "olmo2", "gpt2"]  # fmt: skip


def session(folder):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    # Left to itself, onnxruntime rounds the inputs of fused 4- and 8-bit products to int8.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    return onnxruntime.InferenceSession(
        str(folder / MODEL), options, providers=["CPUExecutionProvider"]
    )


def empty(graph, batch=1):
    return {
        f"past_key_values.{op.layer}.{name}": np.zeros((batch, op.kv_heads, 0, op.head_dim), np.float32)
        for op in graph.attentions
        for name in ("key", "value")
    }  # fmt: skip


def step(run, graph, ids, past, start=0, mask=None):
    """Logits [S, V], and what is the past of the next step."""
    ids = np.atleast_2d(ids).astype(np.int64)
    places = np.arange(start, start + ids.shape[1])[None].repeat(len(ids), 0)
    mask = np.ones((len(ids), start + ids.shape[1]), np.int64) if mask is None else mask
    if mask.min() == 0:
        places = np.maximum(np.cumsum(mask, axis=1) - 1, 0)[:, start:]
    feeds = {"input_ids": ids, "position_ids": places, "attention_mask": mask, **past}
    names = [output.name for output in run.get_outputs()]
    found = dict(zip(names, run.run(None, feeds), strict=True))
    logits = found.pop("logits")
    return logits, {k.replace("present", "past_key_values"): v for k, v in found.items()}


def truth(graph, weights, ids):
    program = compile_reference(graph, weights)
    return np.asarray(program.step(single(ids, all_logits=True), program.new_kv(8)))


@pytest.mark.parametrize("name", NAMES)
def test_a_model_says_the_same_whole_and_step_by_step(tiny_of, tmp_path, name):
    tiny = tiny_of(name)
    graph, ids = tiny.blueprint.graph, tiny.prompts[-1][:40]
    write_onnx(graph, tiny.weights, tmp_path)
    run, expected = session(tmp_path), truth(graph, tiny.weights, ids)
    tolerance = {"rtol": 1e-3, "atol": 1e-4 * np.abs(expected).max()}
    logits, _ = step(run, graph, ids, empty(graph))
    np.testing.assert_allclose(logits[0], expected, **tolerance)
    first, past = step(run, graph, ids[:33], empty(graph))
    np.testing.assert_allclose(first[0], expected[:33], **tolerance)
    for place in range(33, 36):
        one, past = step(run, graph, ids[place : place + 1], past, place)
        np.testing.assert_allclose(one[0, 0], expected[place], **tolerance)


def test_centered_keys_are_centered_there_too(tiny_of, tmp_path):
    tiny = tiny_of("llama")
    config = {**tiny.checkpoint.config, "slipstream": {"kv": "int4", "kv_centered": True}}
    blueprint = blueprint_of(config)
    shifts = {n: s for n, s in blueprint.shapes.items() if n.endswith(".key_shift")}
    draw = np.random.default_rng(1)
    new = {n: DenseTensor(draw.normal(size=s).astype(np.float32)) for n, s in shifts.items()}
    write_onnx(blueprint.graph, {**tiny.weights, **new}, tmp_path)
    ids = tiny.prompts[-1][:24]
    logits, past = step(session(tmp_path), blueprint.graph, ids, empty(blueprint.graph))
    expected = truth(tiny.blueprint.graph, tiny.weights, ids)  # no softmax sees it
    np.testing.assert_allclose(logits[0], expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    (tmp_path / "plain").mkdir()
    write_onnx(tiny.blueprint.graph, tiny.weights, tmp_path / "plain")
    plain = step(session(tmp_path / "plain"), tiny.blueprint.graph, ids, empty(blueprint.graph))[1]
    key = next(name for name in past if name.endswith("key"))
    assert not np.allclose(past[key], plain[key], atol=0.1)


def test_padding_before_a_sequence_changes_nothing(tiny_of, tmp_path):
    tiny = tiny_of("gemma3")
    graph, ids = tiny.blueprint.graph, tiny.prompts[-1][:24]
    write_onnx(graph, tiny.weights, tmp_path)
    short = ids[:10]
    padded = np.stack([ids, np.concatenate([np.zeros(14, np.int32), short])])
    mask = np.ones((2, 24), np.int64)
    mask[1, :14] = 0
    logits, _ = step(session(tmp_path), graph, padded, empty(graph, 2), mask=mask)
    np.testing.assert_allclose(logits[0], truth(graph, tiny.weights, ids), rtol=1e-3, atol=2e-3)
    np.testing.assert_allclose(
        logits[1, 14:], truth(graph, tiny.weights, short), rtol=1e-3, atol=2e-3
    )


FORMATS = [Affine(bits, group, zero) for bits in (3, 4, 8) for group in (16, None) for zero in ("symmetric", "zero_point", "minimum")]  # fmt: skip


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_quantized_weights_stay_integers_and_mean_the_same(tiny_of, tmp_path, form):
    import onnx

    tiny = tiny_of("llama-tied-biased")
    graph = tiny.blueprint.graph
    weights = {
        name: quantize_affine(tensor.dequantize(), form) if len(tensor.shape) == 2 else tensor
        for name, tensor in tiny.weights.items()
    }
    write_onnx(graph, weights, tmp_path)
    ids = tiny.prompts[-1][:20]
    expected = truth(graph, weights, ids)
    logits, _ = step(session(tmp_path), graph, ids, empty(graph))
    np.testing.assert_allclose(logits[0], expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    kinds = {entry.data_type for entry in onnx.load(tmp_path / MODEL, load_external_data=False).graph.initializer}  # fmt: skip
    wanted = onnx.TensorProto.INT8 if form.bits == 8 else onnx.TensorProto.INT4 if form.zero == "symmetric" else onnx.TensorProto.UINT4  # fmt: skip
    assert wanted in kinds


def test_half_floats_stay_half_and_large_arrays_lie_beside(tiny_of, tmp_path):
    tiny = tiny_of("qwen2")
    graph = tiny.blueprint.graph
    weights = {
        name: DenseTensor(tensor.data.astype(np.float16)) for name, tensor in tiny.weights.items()
    }
    write_onnx(graph, weights, tmp_path)
    matrices = sum(tensor.size_bytes for tensor in weights.values() if len(tensor.shape) == 2)
    assert matrices <= (tmp_path / DATA).stat().st_size < matrices * 1.2
    ids = tiny.prompts[-1][:20]
    logits, _ = step(session(tmp_path), graph, ids, empty(graph))
    np.testing.assert_allclose(logits[0], truth(graph, weights, ids), rtol=1e-3, atol=1e-3)


def test_a_fused_graph_is_refused(tiny_of, tmp_path):
    tiny = tiny_of("qwen2")
    with pytest.raises(UnsupportedError, match="not written as ONNX"):
        write_onnx(fuse(tiny.blueprint.graph), tiny.weights, tmp_path)
