"""What pages of codes give back: near what was written, and counted byte by byte."""

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.formats.kv import (
    KV_FORMATS,
    KVType,
    key_read_back,
    kv_position_bytes,
    rotate,
    to_bfloat16,
    value_read_back,
)

WIDTHS = st.sampled_from([1, 2, 7, 8, 20, 48, 64, 80, 128])


def random_heads(width: int, seed: int, sticking_out: float = 1.0) -> np.ndarray:
    heads = np.random.default_rng(seed).normal(size=(5, 3, width)).astype(np.float32)
    heads[..., 0] *= sticking_out
    return heads


@given(WIDTHS, st.integers(0, 99))
def test_a_rotation_undoes_itself_and_keeps_products(width, seed):
    a, b = random_heads(width, seed), random_heads(width, seed + 100)
    np.testing.assert_allclose(rotate(rotate(a)), a, atol=1e-5)
    np.testing.assert_allclose((rotate(a) * rotate(b)).sum(-1), (a * b).sum(-1), atol=1e-4)


@given(WIDTHS, st.integers(0, 99))
def test_codes_of_values_are_off_by_half_a_step(width, seed):
    values = random_heads(width, seed)
    step = np.abs(values).max(-1, keepdims=True) / 127 * (1 + 2**-7)
    assert (np.abs(value_read_back(values, "int8") - values) <= 0.51 * step).all()
    turned = rotate(values)
    span = turned.max(-1, keepdims=True) - turned.min(-1, keepdims=True)
    size = np.abs(turned).max(-1, keepdims=True)
    off = np.abs(rotate(value_read_back(values, "int4")) - turned)
    assert (off <= 0.51 * span / 15 + size * 2**-7 + 1e-6).all()


def test_a_channel_that_sticks_out_costs_the_others_little_once_rotated():
    keys = random_heads(64, 3, sticking_out=40.0)
    plain = value_read_back(keys, "int8")
    turned = key_read_back(keys, "int8")

    def lost(rounded):
        return np.square(rounded - keys)[..., 1:].mean()

    assert lost(turned) < lost(plain) / 4


@pytest.mark.parametrize("kv", get_args(KVType))
def test_nothing_written_reads_back_as_nothing(kv):
    zeros = np.zeros((2, 1, 24), np.float32)
    assert (key_read_back(zeros, kv) == 0).all() and (value_read_back(zeros, kv) == 0).all()


def test_the_torch_library_rounds_alike():
    torch = pytest.importorskip("torch")
    heads = random_heads(48, 5)
    for kv in get_args(KVType):
        for read_back in (key_read_back, value_read_back):
            theirs = read_back(torch.from_numpy(heads), kv).numpy()
            np.testing.assert_array_equal(read_back(heads, kv), theirs)


def test_bytes_of_a_position_count_codes_and_scales():
    assert kv_position_bytes("bfloat16", 3, 64) == 3 * 2 * 128
    assert kv_position_bytes("int8", 3, 64) == 3 * 2 * 66
    assert kv_position_bytes("k8v4", 3, 64) == 3 * (66 + 36)
    assert kv_position_bytes("int4", 3, 64) == 3 * 2 * 36
    assert kv_position_bytes("int4", 1, 40) == 2 * (32 + 4)  # codes come in whole 16 bytes
    assert set(KV_FORMATS) == set(get_args(KVType))


def test_bfloat16_ties_go_to_even():
    ties = np.array([1 + 2**-8, 1 + 3 * 2**-8], np.float32)
    assert to_bfloat16(ties).tolist() == [1.0, 1 + 2**-6]
