"""The span search's kernel: the errors of the reference, the same bits on every instruction set."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.backends.native_module import native_module
from slipstream.compress.passes.grid import fit_grid
from slipstream.compress.passes.spans import ends_of, reference_errors, squared_errors
from slipstream.formats.tensor import Affine

FORMATS = [
    Affine(bits, 32, zero)
    for bits in (2, 4, 8)
    for zero in ("symmetric", "zero_point", "minimum")
]  # fmt: skip


def search(seed: int, format: Affine, kinds: int | None) -> tuple:
    """Random groups, candidates around their spans, and perhaps an importance."""
    random = np.random.default_rng(seed)
    values = random.standard_t(4, (12, 48)).astype(np.float32)
    low, high = format.code_range
    scales = (random.random((5, 12)) / (high - low)).astype(np.float32)
    scales[0, 0] = 0
    zeros = random.integers(low, high, (5, 12), endpoint=True).astype(np.float32)
    importance = None if kinds is None else random.random((kinds, 48)).astype(np.float32)
    return values, scales, zeros, importance, format


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    format=st.sampled_from(FORMATS),
    kinds=st.sampled_from([None, 1, 3, 12]),
)
def test_the_kernel_finds_the_errors_of_the_reference(seed, format, kinds):
    given_ = search(seed, format, kinds)
    expected = reference_errors(*given_)
    for isa in native_module().isa_available():
        assert np.allclose(squared_errors(*given_, isa=isa), expected, rtol=2e-5, atol=1e-9)


@pytest.mark.parametrize("kinds", [None, 3])
def test_every_instruction_set_finds_the_same_bits(kinds):
    given_ = search(7, Affine(4, 32), kinds)
    found = {squared_errors(*given_, isa=isa).tobytes() for isa in native_module().isa_available()}
    assert len(found) == 1


def test_without_kernels_the_reference_chooses_the_same_spans(monkeypatch):
    weight = np.random.default_rng(3).standard_normal((64, 128)).astype(np.float32)
    native = fit_grid(weight, Affine(4, 64)).scale
    monkeypatch.setattr("slipstream.compress.passes.spans._module", lambda: None)
    assert np.mean(fit_grid(weight, Affine(4, 64)).scale == native) > 0.98  # ties may fall apart


def test_arrays_that_do_not_fit_each_other_are_refused():
    values, scales, zeros, _, format = search(1, Affine(4, 32), None)
    with pytest.raises(ValueError, match="fit each other"):
        squared_errors(values, scales, zeros[:4], None, format)
    with pytest.raises(ValueError, match="fit each other"):
        squared_errors(values[:, :40], scales, zeros, None, format)


def test_the_ends_of_groups_are_their_least_and_greatest():
    values = np.random.default_rng(5).standard_normal((6, 3, 48)).astype(np.float32)
    for isa in native_module().isa_available():
        least, most = ends_of(values, isa=isa)
        assert np.array_equal(least, values.min(axis=-1))
        assert np.array_equal(most, values.max(axis=-1))
    assert np.array_equal(ends_of(values[..., :40])[1], values[..., :40].max(axis=-1))
