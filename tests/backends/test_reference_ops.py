"""Each operation of the reference against the same in plain loops over Python floats."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.backends import reference_ops as reference
from slipstream.graph import ops


def rows_of(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_embed_scales_the_rows_of_its_ids():
    table = rows_of(0, 5, 3)
    assert np.array_equal(reference.embed(np.array([4, 0, 4]), table, 2.0), table[[4, 0, 4]] * 2)


def test_position_embed_adds_the_row_of_each_position():
    x, table = rows_of(0, 2, 3), rows_of(1, 9, 3)
    expected = x + table[[2 + 3, 0 + 3]]
    assert np.array_equal(reference.position_embed(x, np.array([2, 0]), table, 3), expected)


@pytest.mark.parametrize("heads", [1, 3])
def test_rms_norm_divides_each_piece_by_its_size(heads):
    x, weight = rows_of(0, 2, 12), rows_of(1, 12 // heads)
    op = ops.Norm("rms", "w", eps=1e-3, weight_offset=1.0, heads=heads)
    expected = []
    for row in x.tolist():
        pieces = [row[i : i + 12 // heads] for i in range(0, 12, 12 // heads)]
        for piece in pieces:
            size = math.sqrt(sum(v * v for v in piece) / len(piece) + 1e-3)
            expected += [v / size * (w + 1.0) for v, w in zip(piece, weight.tolist(), strict=True)]
    result = reference.norm(x, op, weight, None)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result.reshape(-1), expected, rtol=1e-6)


def test_layer_norm_is_centered_and_has_a_bias():
    x, weight, bias = rows_of(0, 1, 6) + 5, rows_of(1, 6), rows_of(2, 6)
    op = ops.Norm("layer", "w", eps=1e-5, bias="b")
    row = x[0].tolist()
    mean = sum(row) / 6
    size = math.sqrt(sum((v - mean) ** 2 for v in row) / 6 + 1e-5)
    expected = [(v - mean) / size * w + b for v, w, b in zip(row, weight, bias, strict=True)]
    np.testing.assert_allclose(reference.norm(x, op, weight, bias)[0], expected, rtol=1e-5)


def test_fused_operations_equal_their_parts():
    x, delta, weight = rows_of(0, 3, 8), rows_of(1, 3, 8), rows_of(2, 8)
    norm = ops.Norm("rms", "w", 1e-5)
    total, normed = reference.add_norm(x, delta, norm, weight, None)
    assert np.array_equal(total, x + delta)
    assert np.array_equal(normed, reference.norm(x + delta, norm, weight, None))

    gate, up = rows_of(3, 5, 8), rows_of(4, 5, 8)
    activations = ops.Activations(8, 4)
    rounded = reference.round_activations(x, activations)
    op = ops.GatedLinear("g", "u", "silu", activations)
    fused = reference.gate(*reference.gated_halves(x, gate, up, op), op.kind)
    parts = reference.gate(rounded @ gate.T, rounded @ up.T, "silu")
    assert np.array_equal(fused, parts)


def test_linear_gives_one_output_for_each_weight():
    x, first, second, bias = rows_of(0, 3, 8), rows_of(1, 5, 8), rows_of(2, 2, 8), rows_of(3, 2)
    outputs = reference.linear(x, (first, second), (None, bias), ops.Activations())
    np.testing.assert_allclose(outputs[0], np.einsum("ri,oi->ro", x, first), rtol=1e-5, atol=1e-6)
    expected = np.einsum("ri,oi->ro", x, second) + bias
    np.testing.assert_allclose(outputs[1], expected, rtol=1e-5, atol=1e-6)


ACTIVATIONS = {
    "silu": lambda v: v / (1 + math.exp(-v)),
    "gelu": lambda v: 0.5 * v * (1 + math.erf(v / math.sqrt(2))),
    "gelu_tanh": lambda v: (
        0.5 * v * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3)))
    ),
    "relu": lambda v: max(v, 0.0),
}


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activations_are_their_formulas(kind):
    values = np.array([[-90.0, -20.0, -3.0, -0.5, 0.0, 1e-3, 0.7, 4.0, 90.0]], np.float32)
    expected = [ACTIVATIONS[kind](float(v)) for v in values[0]]
    with np.errstate(over="raise", invalid="raise"):
        result = reference.activate(values, kind)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result[0], expected, rtol=3e-6, atol=1e-6)


def test_soft_cap_bounds_and_keeps_small_values():
    x = np.array([[-1e6, -0.01, 0.01, 1e6]], np.float32)
    np.testing.assert_allclose(reference.soft_cap(x, 30.0), [[-30, -0.01, 0.01, 30]], rtol=1e-6)


def test_rotary_turns_pairs_as_complex_numbers_and_leaves_the_rest():
    op = ops.Rotary(heads=2, head_dim=6, frequencies=(1.0, 0.25), attention_factor=1.5)
    x, positions = rows_of(0, 3, 12), np.array([0, 7, 100_000], np.int32)
    cosines, sines = reference.rotary_angles(positions, op)
    result = reference.rotary(x, cosines, sines, op).reshape(3, 2, 6)
    heads = x.reshape(3, 2, 6).astype(np.float64)
    turns = 1.5 * np.exp(1j * positions[:, None, None] * np.array([1.0, 0.25]))
    turned = (heads[..., :2] + 1j * heads[..., 2:4]) * turns
    np.testing.assert_allclose(result[..., :2], turned.real, atol=1e-6)
    np.testing.assert_allclose(result[..., 2:4], turned.imag, atol=1e-6)
    np.testing.assert_array_equal(result[..., 4:], heads[..., 4:])


def attend_slowly(queries, keys, values, visible, op):
    shared = op.heads // op.kv_heads
    result = np.zeros((len(queries), op.heads, op.head_dim))
    for t, row in enumerate(queries.reshape(-1, op.heads, op.head_dim).astype(np.float64)):
        for head in range(op.heads):
            weights = []
            for n in range(len(keys)):
                score = float(row[head] @ keys[n, head // shared]) * op.scale
                if op.soft_cap is not None:
                    score = op.soft_cap * math.tanh(score / op.soft_cap)
                weights.append(math.exp(score) if visible[t, n] else 0.0)
            for n, weight in enumerate(weights):
                result[t, head] += weight / sum(weights) * values[n, head // shared]
    return result.reshape(queries.shape)


@pytest.mark.parametrize("soft_cap", [None, 2.0])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2), (3, 1)])
def test_attention_equals_plain_loops(heads, kv_heads, soft_cap):
    op = ops.Attention(0, heads, kv_heads, head_dim=4, scale=0.6, soft_cap=soft_cap)
    queries, keys, values = (
        rows_of(0, 3, heads * 4),
        rows_of(1, 5, kv_heads, 4),
        rows_of(2, 5, kv_heads, 4),
    )
    visible = np.array([[1, 1, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 1, 1, 1]], bool)
    result = reference.attend(queries, keys, values, visible, op)
    np.testing.assert_allclose(result, attend_slowly(queries, keys, values, visible, op), atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    group=st.sampled_from([None, 4, 8]),
    scale=st.sampled_from([1e-30, 1e-3, 1.0, 1e4]),
)
def test_int8_rounding_follows_its_definition(seed, group, scale):
    x = rows_of(seed, 3, 16) * np.float32(scale)
    x[1] = 0
    result = reference.round_activations(x, ops.Activations(8, group))
    width = group or 16
    for row, rounded in zip(x, result, strict=True):
        for start in range(0, 16, width):
            piece, got = row[start : start + width], rounded[start : start + width]
            largest = np.abs(piece).max()
            inverse = np.float32(127.0) / largest if largest > 0 else np.float32(0.0)
            codes = np.rint(piece * inverse)
            assert np.abs(codes).max() <= 127
            assert np.array_equal(got, codes * (largest / np.float32(127.0)))


def test_int8_rounds_halves_to_even():
    x = np.array([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5]], np.float32)
    rounded = reference.round_activations(x, ops.Activations(8, None))
    assert rounded.tolist() == [[127.0, 0.0, 2.0, 2.0, 0.0, -2.0]]


def test_16_bits_round_to_the_nearest_bfloat16():
    x = np.array([[1.0, 1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-7, 1e-40]], np.float32)
    rounded = reference.round_activations(x, ops.Activations(16))
    assert rounded.dtype == np.float32
    assert rounded[0, :4].tolist() == [1.0, 1.0, 1 + 2**-6, -1 - 2**-7]
    assert reference.round_activations(x.astype(np.float64), ops.Activations(16)).dtype == float


def test_32_bits_leave_the_input_untouched():
    x = rows_of(0, 2, 8)
    assert reference.round_activations(x, ops.Activations()) is x
