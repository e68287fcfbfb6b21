"""Sampling: greedy, the three filters, and noise that depends on nothing but (seed, index)."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.engine.exact import inverse_of, log_of, weights
from slipstream.engine.noise import Noise
from slipstream.engine.request import SamplingParams
from slipstream.engine.sampler import logprob, sample
from slipstream.errors import NumericError, RequestError


def logits_of(*probabilities):
    return np.log(np.array(probabilities, np.float32))


def draws(logits, params, count=400):
    return [sample(logits, params, seed, 0) for seed in range(count)]


def reaching(ids, weight, p):
    """The first of `ids` whose weights reach p of their total."""
    total, reached, first = sum(weight[ids]), 0.0, []
    for i in ids:
        first.append(i)
        reached += weight[i]
        if reached >= p * total:
            break
    return first


def obvious(logits, params, seed, index):
    """The slow, plain way to say what `sample` must return."""
    scores = (logits.astype(np.float64) - float(logits.max())) / params.temperature
    order = sorted(range(len(logits)), key=lambda i: (-logits[i], i))
    kept = order[: params.top_k] if params.top_k else order
    weight = weights(logits, logits.max(), inverse_of(params.temperature))
    if params.top_p < 1:
        kept = reaching(kept, weight, params.top_p)
    if params.min_p:
        kept = [i for i in kept if scores[i] >= log_of(params.min_p)]
    if params.typical_p < 1:
        kept = [i for i in sorted(kept) if weight[i] > 0]
        total = sum(weight[kept])
        surprise = {i: -log_of(weight[i] / total) for i in kept}
        expected = 0.0
        for i in kept:
            expected += weight[i] / total * surprise[i]
        kept.sort(key=lambda i: (abs(surprise[i] - expected), i))
        kept = reaching(kept, weight, params.typical_p)
    noise = Noise(seed, index).of(np.arange(len(logits)))
    return min(kept, key=lambda i: (-(scores[i] + noise[i]), i))


def test_greedy_takes_the_highest_and_the_lowest_id_among_equals():
    logits = np.array([1, 3, 3, 2], np.float32)
    assert sample(logits, SamplingParams(), 0, 0) == 1
    assert sample(logits, SamplingParams(temperature=1, top_k=1), 5, 9) == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_numbers_are_refused(bad):
    with pytest.raises(NumericError, match="not finite"):
        sample(np.array([0, bad, 1], np.float32), SamplingParams(), 0, 0)


def test_top_k_keeps_k_and_breaks_ties_by_id():
    params = SamplingParams(temperature=1, top_k=2)
    assert set(draws(logits_of(0.2, 0.3, 0.25, 0.25), params)) == {1, 2}


def test_top_p_keeps_the_fewest_that_reach_p():
    logits = logits_of(0.5, 0.3, 0.15, 0.05)
    assert set(draws(logits, SamplingParams(temperature=1, top_p=0.49))) == {0}
    assert set(draws(logits, SamplingParams(temperature=1, top_p=0.7))) == {0, 1}
    assert set(draws(logits, SamplingParams(temperature=1, top_p=0.9))) == {0, 1, 2}


def test_top_p_counts_what_top_k_left():
    params = SamplingParams(temperature=1, top_k=2, top_p=0.6)
    assert set(draws(logits_of(0.4, 0.2, 0.2, 0.2), params)) == {0}  # 0.4 of 0.6 left


def test_min_p_is_relative_to_the_most_likely():
    params = SamplingParams(temperature=1, min_p=0.25)
    assert set(draws(logits_of(0.6, 0.2, 0.14, 0.06), params)) == {0, 1}


def test_typical_p_prefers_the_usual_surprise_to_the_likeliest():
    logits = logits_of(*[0.3, *[0.07] * 10])  # entropy 2.22: 0.07 surprises by 2.66, 0.3 by 1.2
    drawn = set(draws(logits, SamplingParams(temperature=1, typical_p=0.6)))
    assert 0 not in drawn and len(drawn) == 9


def test_frequencies_follow_the_probabilities():
    probabilities = np.array([0.5, 0.3, 0.15, 0.05])
    counts = np.bincount(draws(logits_of(*probabilities), SamplingParams(temperature=1), 2000))
    chi_square = ((counts - 2000 * probabilities) ** 2 / (2000 * probabilities)).sum()
    assert chi_square < 16.3  # 3 degrees of freedom, p = 0.001; the seeds are fixed


def test_a_higher_temperature_flattens():
    logits = logits_of(0.8, 0.2)
    cool = draws(logits, SamplingParams(temperature=0.5))
    hot = draws(logits, SamplingParams(temperature=4))
    assert cool.count(1) < 0.12 * len(cool) and hot.count(1) > 0.35 * len(hot)


def test_a_vanishing_temperature_is_greedy_without_a_warning():
    logits = np.array([1, 3, 2], np.float32)
    with np.errstate(all="raise"):
        assert sample(logits, SamplingParams(temperature=1e-300), 3, 4) == 1


params_of = st.builds(
    SamplingParams,
    temperature=st.floats(0.05, 4),
    top_k=st.integers(0, 40),
    top_p=st.floats(0.05, 1),
    min_p=st.sampled_from([0.0, 0.01, 0.2]),
    typical_p=st.sampled_from([1.0, 0.9, 0.3]),
)


@settings(max_examples=300, deadline=None)
@given(params_of, st.integers(0, 2**64 - 1), st.integers(0, 10_000), st.integers(2, 700))
def test_equals_the_obvious_way(params, seed, index, vocabulary):
    generator = np.random.default_rng(seed)
    logits = np.round(generator.normal(size=vocabulary) * 3, 1).astype(np.float32)  # with ties
    assert sample(logits, params, seed, index) == obvious(logits, params, seed, index)


def test_masked_ids_are_never_drawn():
    logits = np.full(1000, -np.inf, np.float32)
    logits[[3, 77]] = 0
    assert set(draws(logits, SamplingParams(temperature=1), 50)) == {3, 77}


def test_where_all_is_forbidden_the_request_is_refused():
    with pytest.raises(RequestError, match="contradict"):
        sample(np.full(100, -np.inf, np.float32), SamplingParams(), 0, 0)


def test_logprobs_are_those_of_the_plain_distribution():
    entry = logprob(logits_of(0.5, 0.125, 0.25, 0.125), token=1, top=3)
    assert entry.id == 1 and entry.logprob == pytest.approx(math.log(0.125))
    assert [i for i, _ in entry.top] == [0, 2, 1]  # equals: the lower id first
    assert [math.exp(p) for _, p in entry.top] == pytest.approx([0.5, 0.25, 0.125])
