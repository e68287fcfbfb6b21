"""The native sampler draws what the reference draws, to the last bit, on every instruction set."""

import numpy as np
import pytest

from slipstream.engine.request import SamplingParams
from slipstream.engine.sampler import ReferenceSampler, Row
from slipstream.errors import DeadEndError, NumericError

native = pytest.importorskip("slipstream._native")

SHAPES = ("ties", "masked", "flat", "peaked", "plain")
SIZES = (1, 2, 63, 64, 65, 130, 1000, 5000)


def sampler(isa, threads):
    from slipstream.engine.sampler_native import NativeSampler

    return NativeSampler(threads, isa)


@pytest.fixture(scope="module")
def samplers():
    return [sampler(isa, threads) for isa in native.isa_available() for threads in (1, 2)]


def random_logits(generator, size):
    logits = generator.normal(size=size) * generator.choice([0.01, 1, 3, 8])
    match generator.choice(SHAPES):
        case "ties":
            logits = np.round(logits, 1)
        case "masked":
            logits[generator.random(size) < 0.5] = -np.inf
        case "flat":
            logits[:] = 1
        case "peaked":
            logits[generator.integers(size)] += generator.integers(40)
    if generator.random() < 0.03:
        logits[generator.integers(size)] = generator.choice([np.nan, np.inf])
    if generator.random() < 0.02:
        logits[:] = -np.inf
    return logits.astype(np.float32)


def random_row(generator, size):
    params = SamplingParams(
        temperature=float(generator.choice([0, 1e-300, 0.01, 0.7, 1, 2, 10, 1e6])),
        top_k=int(generator.choice([0, 0, 1, 2, 50, 300])),
        top_p=float(generator.choice([1, 1, 0.99, 0.9, 0.5, 1e-9])),
        min_p=float(generator.choice([0, 0, 0.01, 0.3, 1, 1e-310])),
        typical_p=float(generator.choice([1, 1, 1, 0.8, 0.3, 1e-9])),
    )
    seed, index = int(generator.integers(2**63)), int(generator.integers(5000))
    return Row(random_logits(generator, size), params, seed, index)


def told(tokens):
    return [token if isinstance(token, int) else type(token) for token in tokens]


@pytest.mark.parametrize("seed", range(8))
def test_tokens_equal_the_reference(samplers, seed):
    generator = np.random.default_rng(seed)
    for size in SIZES:
        rows = [random_row(generator, size) for _ in range(30)]
        expected = told(ReferenceSampler().draw(rows))
        for one in samplers:
            assert told(one.draw(rows)) == expected


@pytest.mark.slow
def test_tokens_of_a_large_vocabulary_equal_the_reference(samplers):
    generator = np.random.default_rng(99)
    for size in (49_152, 151_936, 262_144):
        rows = [random_row(generator, size) for _ in range(40)]
        expected = told(ReferenceSampler().draw(rows))
        for one in samplers:
            assert told(one.draw(rows)) == expected


def test_logprobs_equal_the_reference(samplers):
    generator = np.random.default_rng(5)
    for size in SIZES:
        rows = [random_logits(generator, size) for _ in range(20)]
        rows = [row for row in rows if np.isfinite(row.max())]
        tokens = generator.integers(size, size=len(rows)).tolist()
        tops = generator.integers(0, 21, size=len(rows)).tolist()
        expected = ReferenceSampler().logprobs(rows, tokens, tops)
        for one in samplers:
            assert one.logprobs(rows, tokens, tops) == expected


def test_each_row_is_refused_alone(samplers):
    good, nan, empty = np.zeros(70), np.full(70, np.nan), np.full(70, -np.inf)
    rows = [Row(x.astype(np.float32), SamplingParams(), 0, 0) for x in (good, nan, empty, good)]
    for one in samplers:
        assert told(one.draw(rows)) == [0, NumericError, DeadEndError, 0]


def test_a_row_of_another_array_may_be_a_slice(samplers):
    logits = np.random.default_rng(1).normal(size=(6, 100)).astype(np.float32)[:, :77]
    rows = [Row(row, SamplingParams(temperature=1), 3, i) for i, row in enumerate(logits)]
    assert samplers[0].draw(rows) == ReferenceSampler().draw(rows)


def test_arrays_that_do_not_fit_are_refused():
    inner = native.Sampler("auto", 1)
    row, controls, keys = np.zeros(4, np.float32), np.zeros((1, 6)), np.zeros((1, 3), np.uint64)
    with pytest.raises(ValueError, match="entry for each row"):
        inner.draw([row, row], controls, keys, np.zeros(2, np.int64))
    with pytest.raises(ValueError, match="equally long"):
        inner.totals([row, row[:3]], np.zeros(2), np.zeros(2, np.float32))
    with pytest.raises(ValueError, match="dtype"):
        inner.draw([row.astype(float)], controls, keys, np.zeros(1, np.int64))
    with pytest.raises(ValueError, match="instruction set"):
        native.Sampler("mmx", 1)
