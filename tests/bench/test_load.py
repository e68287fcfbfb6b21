"""Load: the calls are what was asked for, and what clients saw adds up."""

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path[:0] = [str(Path(__file__).parents[1] / name) for name in ("serve", "engine")]

from fakes import FakeProgram, fake_engine, parrot  # noqa: E402
from live_server import live  # noqa: E402

from slipstream.bench.client import Target, run_load  # noqa: E402
from slipstream.bench.load import Call, Seen, random_calls, spread, summary  # noqa: E402
from slipstream.bench.traces import Recorded, calls_of, read_trace  # noqa: E402
from slipstream.errors import FileFormatError  # noqa: E402
from slipstream.serve.app import make_app  # noqa: E402

MOONCAKE = [
    {"timestamp": 500, "input_length": 1000, "output_length": 7, "hash_ids": [3, 4]},
    {"timestamp": 900, "input_length": 1400, "output_length": 900, "hash_ids": [3, 5, 6]},
]


@given(st.lists(st.floats(0, 100), min_size=1))
def test_percentiles_are_among_the_values_and_rise(values):
    seen = spread(values)
    assert min(values) <= seen.p50 <= seen.p95 <= seen.p99 <= max(values)
    assert sum(value <= seen.p95 for value in values) >= 0.95 * len(values)


def test_a_failed_call_counts_as_failed_and_not_as_tokens():
    good = Seen(0.0, 0.5, 2.0, 10, (0.1, 0.2))
    bad = Seen(0.0, None, 4.0, 99, (), "503: no")
    outcome = summary([good, bad])
    assert (outcome.calls, outcome.failed, outcome.errors) == (2, 1, ("503: no",))
    assert outcome.tokens_per_s == 10 / 4
    assert outcome.ttft.p50 == 0.5 and outcome.itl.p99 == 0.2


def test_prompts_share_what_they_should_and_nothing_more():
    calls = random_calls(5, 100, 3, shared_prefix=60)
    assert {call.prompt[:60] for call in calls} == {calls[0].prompt[:60]}
    assert len({call.prompt[60:64] for call in calls}) == 5
    assert all(len(call.prompt) == 100 and call.answer_tokens == 3 for call in calls)


def test_a_trace_keeps_arrivals_lengths_and_sharing(tmp_path):
    path = tmp_path / "trace.jsonl"
    path.write_text("\n".join(map(json.dumps, MOONCAKE)))
    first, second = calls_of(read_trace(path, 9), pace=2, prompt_max=1200, answer_max=50)
    assert (first.arrival_s, second.arrival_s) == (0, pytest.approx(0.2))
    assert (len(first.prompt), len(second.prompt)) == (1000, 1200)
    assert (first.answer_tokens, second.answer_tokens) == (7, 50)
    assert first.prompt[:512] == second.prompt[:512] != second.prompt[512:1024]
    assert first.prompt[512:520] != second.prompt[512:520]


def test_azure_timestamps_are_read(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:17:03.9799600,48,10\n2023-11-16 18:17:04.0319600,31,8\n"
    )
    one, two = read_trace(path, 9)
    assert (one.arrival_s, two.arrival_s) == (0, pytest.approx(0.052))
    assert (two.prompt_tokens, two.answer_tokens) == (31, 8)


@pytest.mark.parametrize("text", ["", "nonsense", "TIMESTAMP,ContextTokens\nx,1"])
def test_what_is_no_trace_is_refused(tmp_path, text):
    path = tmp_path / "trace.csv"
    path.write_text(text)
    with pytest.raises(FileFormatError, match="trace"):
        read_trace(path, 1)


def test_a_real_server_answers_a_load():
    with live(make_app(fake_engine(FakeProgram(257, parrot("abc" * 50))), name="fake")) as url:
        calls = [Call((97, 98, 99), 20) for _ in range(12)]
        seen = run_load(Target(f"{url}/v1", "fake"), calls, 4)
        outcome = summary(seen)
        refused = run_load(Target(f"{url}/v1", "absent"), calls[:2], 2)
    assert (outcome.calls, outcome.failed) == (12, 0)
    assert all(one.tokens == 20 and len(one.gaps_s) == 19 for one in seen)
    assert all(one.error.startswith("404") for one in refused)


def test_a_server_that_is_not_there_is_told():
    (seen,) = run_load(Target("http://127.0.0.1:9/v1", "m"), [Call((1,), 1)], 1)
    assert "Connect" in seen.error


def test_another_seed_gives_other_ids_and_shares_the_same_pages():
    recorded = [Recorded(0.0, 600, 4, (1,)), Recorded(1.0, 600, 4, (1,))]
    first, again, other = (
        calls_of(recorded, pace=1, prompt_max=4096, answer_max=9, seed=seed) for seed in (0, 0, 1)
    )
    assert first == again and all(len(call.prompt) == 600 for call in other)
    for calls in (first, other):
        assert calls[0].prompt[:512] == calls[1].prompt[:512]
        assert calls[0].prompt[512:] != calls[1].prompt[512:]
    assert first[0].prompt[:512] != other[0].prompt[:512]
