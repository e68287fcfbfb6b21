"""One thread within, as before without."""

import numpy as np
import pytest
import scipy.linalg

from slipstream.compress import blas


def counts() -> list[int]:
    return [library.get() for library in blas._loaded()]


def test_threads_are_given_back_even_after_an_error() -> None:
    scipy.linalg.cholesky(np.eye(2))
    before = counts()
    with pytest.raises(KeyError), blas.one_blas_thread():
        assert all(count == 1 for count in counts())
        raise KeyError
    assert counts() == before


def test_products_are_right_within() -> None:
    x = np.random.default_rng(0).normal(size=(300, 200))
    with blas.one_blas_thread():
        inside = x.T @ x
    assert np.allclose(inside, x.T @ x)
