"""A difference is called one only beyond the noise of the machine."""

import numpy as np
import pytest

from slipstream.bench.compare import compare, noise_band, ratio_interval
from slipstream.bench.samples import Samples, gather


def noisy(speed: float, seed: int, count: int = 15, spread: float = 0.03) -> Samples:
    return gather(speed * np.random.default_rng(seed).normal(1, spread, count))


def test_equals_show_no_difference() -> None:
    verdicts = [compare(noisy(100, 2 * s), noisy(100, 2 * s + 1)).verdict for s in range(40)]
    assert verdicts.count("no difference seen") >= 34  # 95 % intervals, medians of few


def test_a_clear_difference_is_seen_both_ways() -> None:
    slow, fast = noisy(100, 1), noisy(130, 2)
    faster = compare(slow, fast, noise=0.05)
    assert faster.verdict == "faster" and 1.2 < faster.low < faster.ratio < faster.high < 1.4
    assert compare(fast, slow, noise=0.05).verdict == "slower"


def test_a_difference_inside_the_noise_is_not_called_one() -> None:
    one, other = noisy(100, 1, spread=0.001), noisy(104, 2, spread=0.001)
    assert compare(one, other).verdict == "faster"
    assert compare(one, other, noise=0.05).verdict == "no difference seen"


def test_the_noise_band_is_what_equals_differ_by() -> None:
    assert noise_band(Samples((1.0, 1.0, 1.0)), Samples((1.0, 1.0, 1.0))) == 0
    assert 0 < noise_band(noisy(100, 1), noisy(100, 2)) < 0.1


def test_a_drift_that_both_share_cancels() -> None:
    drift = np.linspace(1, 2, 12)
    ratio, low, high = ratio_interval(gather(100 * drift), gather(150 * drift))
    assert ratio == pytest.approx(1.5) and low == pytest.approx(high)


def test_too_few_pairs_decide_nothing() -> None:
    assert compare(Samples((1.0,) * 4), Samples((9.0,) * 4)).verdict == "no difference seen"


def test_unpaired_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="pairs"):
        compare(Samples((1.0,)), Samples((1.0, 2.0)))


def test_samples_are_never_none() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Samples(())
