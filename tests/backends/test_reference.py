"""The reference backend on a real trained model, in torch, and on hand-made graphs."""

import json

import ml_dtypes
import numpy as np
import pytest

from slipstream.backends.batch import Batch, single
from slipstream.backends.reference import compile_reference
from slipstream.checkpoint.folder import FolderCheckpoint
from slipstream.formats.tensor import Affine, AffineTensor, DenseTensor
from slipstream.graph import ops
from slipstream.graph.graph import Builder, Graph
from slipstream.graph.passes.fuse import fuse
from slipstream.models.registry import blueprint_of
from slipstream.models.weights import Weights

WIDTH, VOCABULARY = 16, 11


def small_graph(activations=ops.Activations(), window=None):  # noqa: B008
    """One block with everything: grouped heads, rotary positions, a gated MLP."""
    build = Builder()

    def linear(name, x, *weights, outputs=1):
        op = ops.Linear(weights, (None,) * len(weights), activations)
        return build.add_many(name, op, x, outputs=outputs)

    x = build.add("embed", ops.Embed("embed"), "ids")
    h = build.add("norm0", ops.Norm("rms", "norm0", 1e-5), x)
    q, k, v = linear("qkv", h, "q", "k", "v", outputs=3)
    q = build.add("turn_q", ops.Rotary(4, 4, (1.0, 0.1)), q)
    k = build.add("turn_k", ops.Rotary(2, 4, (1.0, 0.1)), k)
    h = build.add("attention", ops.Attention(0, 4, 2, 4, 0.5, window), q, k, v)
    x = build.add("add0", ops.Add(), x, *linear("o", h, "o"))
    h = build.add("norm1", ops.Norm("rms", "norm1", 1e-5), x)
    (gate,), (up,) = linear("gate", h, "gate"), linear("up", h, "up")
    h = build.add("gated", ops.Gate("silu"), gate, up)
    x = build.add("add1", ops.Add(), x, *linear("down", h, "down"))
    x = build.add("select", ops.Select(), x)
    linear("head", x, "embed")
    return Graph("small", tuple(build.nodes), WIDTH, VOCABULARY, 512)


def small_weights(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {
        "embed": (VOCABULARY, WIDTH),
        "q": (16, WIDTH),
        "k": (8, WIDTH),
        "v": (8, WIDTH),
        "o": (WIDTH, 16),
        "gate": (32, WIDTH),
        "up": (32, WIDTH),
        "down": (WIDTH, 32),
    }
    weights = {name: rng.normal(size=shape) * 0.4 for name, shape in shapes.items()}
    weights |= {"norm0": rng.normal(size=WIDTH) + 1, "norm1": rng.normal(size=WIDTH) + 1}
    return {name: values.astype(np.float32) for name, values in weights.items()}


def stored(weights):
    return {name: DenseTensor(values) for name, values in weights.items()}


def ids_of(count, seed=0):
    return np.random.default_rng(seed).integers(0, VOCABULARY, count).astype(np.int32)


def run(program, ids):
    return program.step(single(ids, all_logits=True), program.new_kv(-(-len(ids) // 64)))


@pytest.fixture(scope="module")
def stories(request):
    """stories260K: (graph, weights, golden ids, golden float64 logits)."""
    shared_data = request.getfixturevalue("shared_data")
    folder = shared_data / "models" / "stories260K"
    checkpoint = FolderCheckpoint(folder / "hf")
    blueprint = blueprint_of(checkpoint.config)
    ids = json.loads((folder / "stories260K-golden-greedy.json").read_text())["token_ids"]
    logits = np.load(folder / "stories260K-golden-logits-f64.npy")
    return blueprint.graph, Weights(checkpoint, blueprint.shapes), np.array(ids, np.int32), logits


def test_trained_model_gives_its_golden_logits(stories):
    graph, weights, ids, golden = stories
    assert np.abs(run(compile_reference(graph, weights), ids) - golden).max() < 5e-5
    exact = run(compile_reference(graph, weights, dtype="float64"), ids)
    assert exact.dtype == np.float64
    assert np.abs(exact - golden).max() < 1e-6


def test_trained_model_tells_its_golden_story(stories):
    graph, weights, ids, _ = stories
    program = compile_reference(graph, weights)
    kv, told = program.new_kv(4), [int(ids[0])]
    while len(told) < len(ids):
        batch = Batch(
            ids=np.array(told[-1:], np.int32),
            row_starts=np.array([0, 1], np.int32),
            lengths=np.array([len(told) - 1], np.int32),
            pages=np.array([[3, 0, 2, 1]], np.int32),
            logit_rows=np.array([0], np.int32),
        )
        told.append(int(program.step(batch, kv)[0].argmax()))
    assert told == ids.tolist()


def test_torch_gives_the_same_logits():
    xp = pytest.importorskip("array_api_compat.torch")
    graph, weights, ids = small_graph(window=9), stored(small_weights()), ids_of(70)
    for kv_dtype in ("float32", "bfloat16"):
        options = {"kv_dtype": kv_dtype, "dtype": "float64"}
        ours = run(compile_reference(graph, weights, **options), ids)
        theirs = run(compile_reference(graph, weights, xp=xp, **options), ids)
        np.testing.assert_allclose(theirs.numpy(), ours, atol=1e-9)


@pytest.mark.parametrize("fused", [False, True])
def test_gradients_flow_to_torch_weights(fused):
    """Against central differences, in float64, through pages, attention, gates and norms."""
    xp = pytest.importorskip("array_api_compat.torch")
    graph = fuse(small_graph()) if fused else small_graph()
    tensors = {
        name: xp.asarray(values, dtype=xp.float64).requires_grad_()
        for name, values in small_weights().items()
    }
    program = compile_reference(graph, tensors, xp=xp, dtype="float64")
    ids = ids_of(6)

    def loss():
        return (xp.log_softmax(run(program, ids), -1)[:, 3]).sum()

    loss().backward()
    step = 1e-6
    with xp.no_grad():
        for name, tensor in tensors.items():
            assert tensor.grad is not None, name
            flat = tensor.view(-1)
            i = 5 % len(flat)
            value = float(flat[i])
            flat[i] = value + step
            above = float(loss())
            flat[i] = value - step
            below = float(loss())
            flat[i] = value
            estimate = (above - below) / (2 * step)
            assert float(tensor.grad.view(-1)[i]) == pytest.approx(estimate, rel=1e-4, abs=1e-6), (
                name
            )


def test_fused_graph_computes_the_same():
    weights, ids = stored(small_weights()), ids_of(20)
    for activations in (ops.Activations(), ops.Activations(8, 8)):
        graph = small_graph(activations)
        plain, fused = (run(compile_reference(g, weights), ids) for g in (graph, fuse(graph)))
        assert len(fuse(graph).nodes) < len(graph.nodes)
        np.testing.assert_allclose(fused, plain, atol=1e-5)


def test_affine_weights_mean_what_they_dequantize_to():
    weights = stored(small_weights())
    rng = np.random.default_rng(3)
    affine = AffineTensor(
        Affine(8, 16, "minimum"),
        rng.integers(-128, 128, (32, WIDTH)).astype(np.int8),
        rng.uniform(0.001, 0.01, (32, 1)).astype(np.float16),
        rng.normal(size=(32, 1)).astype(np.float16),
    )
    dense = {**weights, "gate": DenseTensor(affine.dequantize())}
    graph, ids = small_graph(), ids_of(5)
    quantized = run(compile_reference(graph, {**weights, "gate": affine}), ids)
    assert np.array_equal(quantized, run(compile_reference(graph, dense), ids))


def test_capture_returns_the_unrounded_inputs_of_linears():
    weights = small_weights()
    program = compile_reference(small_graph(ops.Activations(8, 8)), stored(weights))
    batch = single(ids_of(4))
    inputs = program.capture(batch, program.new_kv(1), ("q", "k", "embed", "down"))
    embedded = weights["embed"][batch.ids]
    size = np.sqrt((embedded**2).mean(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(inputs["q"], embedded / size * weights["norm0"], rtol=1e-5)
    assert inputs["k"] is inputs["q"]
    assert inputs["down"].shape == (4, 32)
    assert inputs["embed"].shape == (1, WIDTH)  # the head's input: the selected row
    with pytest.raises(ValueError, match="norm0"):
        program.capture(batch, program.new_kv(1), ("norm0",))


def test_bfloat16_pages_hold_rounded_values_and_say_their_size():
    program = compile_reference(small_graph(), stored(small_weights()), kv_dtype="bfloat16")
    exact = compile_reference(small_graph(), stored(small_weights()))
    kv, exact_kv = program.new_kv(2), exact.new_kv(2)
    assert exact_kv.size_bytes == 2 * kv.size_bytes == 2 * 2 * 64 * 8 * 4
    batch = single(ids_of(70))
    program.step(batch, kv)
    exact.step(batch, exact_kv)
    rounded = exact_kv.keys[0].astype(ml_dtypes.bfloat16).astype(np.float32)
    assert np.array_equal(kv.keys[0], rounded)
    assert np.abs(kv.keys[0]).max() > 0


def test_no_logits_are_asked_for_and_none_are_given():
    program = compile_reference(small_graph(), stored(small_weights()))
    batch = single(ids_of(4))
    silent = Batch(batch.ids, batch.row_starts, batch.lengths, batch.pages, batch.logit_rows[:0])
    assert program.step(silent, program.new_kv(1)).shape == (0, VOCABULARY)


def test_a_wrong_batch_is_refused():
    program = compile_reference(small_graph(), stored(small_weights()))
    with pytest.raises(ValueError, match="page numbers"):
        program.step(single(ids_of(70)), program.new_kv(1))
    with pytest.raises(ValueError, match="token ids"):
        program.step(single(ids_of(3) + VOCABULARY), program.new_kv(1))
