"""`load` measures a server that is there, says so of one that is not, and refuses senseless words."""

import json
import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parents[1] / name) for name in ("serve", "engine")]

from fakes import FakeProgram, fake_engine, parrot  # noqa: E402
from live_server import live  # noqa: E402

from slipstream.serve.app import make_app  # noqa: E402


@pytest.fixture(scope="module")
def url():
    with live(make_app(fake_engine(FakeProgram(257, parrot("abc" * 99))), name="fake")) as address:
        yield address


WORK = ("--calls", "2", "--prompt", "12", "--answer", "5")


@pytest.fixture(autouse=True)
def small_vocabulary(monkeypatch):
    monkeypatch.setattr("slipstream.bench.load.TOKEN_IDS", (97, 123))
    monkeypatch.setattr("slipstream.bench.traces.TOKEN_IDS", (97, 123))


def test_json_has_a_row_for_each_concurrency(run, url):
    seen = run("load", url, "--concurrency", "1,3", *WORK, "--json")
    rows = json.loads(seen.out)
    assert list(rows) == ["1 at once", "3 at once"]
    assert [(row["calls"], row["failed"]) for row in rows.values()] == [(2, 0), (6, 0)]
    assert all(row["ttft"]["p50"] > 0 and row["tokens_per_s"] > 0 for row in rows.values())


def test_the_table_shows_what_failed(run, url):
    seen = run("load", f"{url}/v1", "--model", "absent", "--concurrency", "1", *WORK)
    assert seen.code == 0 and "2 of 2" in seen.out and "404" in seen.out


def test_a_trace_arrives_at_its_pace(run, url, tmp_path):
    row = {"timestamp": 0, "input_length": 9, "output_length": 3, "hash_ids": []}
    trace = tmp_path / "trace.jsonl"
    trace.write_text("\n".join(json.dumps({**row, "timestamp": t}) for t in (0, 400)))
    seen = run("load", url, "--trace", str(trace), "--pace", "4", "--json")
    (outcome,) = json.loads(seen.out).values()
    assert (outcome["calls"], outcome["failed"]) == (2, 0) and outcome["seconds"] >= 0.1


@pytest.mark.parametrize("words", [("--concurrency", "0"), ("--concurrency", "many")])
def test_senseless_counts_are_refused(run, url, words):
    assert run("load", url, *words).code == 2


def test_a_server_that_is_not_there_is_told_in_words(run):
    seen = run("load", "http://127.0.0.1:9")
    assert seen.code != 0 and "slipstream serve" in seen.err and "Traceback" not in seen.err
