"""The race against peers: workers answer one at a time, and every round has everyone once."""

import importlib
import os
import sys
from pathlib import Path

import pytest

PEERS = Path(__file__).resolve().parents[2] / "benchmarks" / "peers"
FAKE = """
import sys
from protocol import serve

class Engine:
    def __init__(self, speed):
        self.speed = speed
    def prefill(self, ids):
        print("noise of a library")
        return len(ids) / self.speed
    def decode(self, prompt, ids):
        return len(ids) / self.speed
    def greedy(self, prompt, count):
        return list(range(count))

serve(lambda settings: (Engine(settings["speed"]), {"engine": "fake"}))
"""


@pytest.fixture
def contest(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(PEERS))
    contest = importlib.import_module("contest")

    monkeypatch.setattr(contest, "SETTLE_S", 0)
    return contest


@pytest.fixture
def fake(contest, tmp_path: Path):
    script = tmp_path / "worker.py"
    script.write_text(FAKE)

    def worker(name: str, speed: float):
        paths = {"PYTHONPATH": os.pathsep.join([str(PEERS), *sys.path])}
        return contest.Worker(name, Path(sys.executable), str(script), {"speed": speed}, paths)

    return worker


def test_rates_are_tokens_over_the_workers_seconds(contest, fake) -> None:
    with fake("slow", 10.0) as slow, fake("fast", 40.0) as fast:
        todo = contest.tasks(range(100), prompt=50, decode=4, depth=8)
        rates = contest.measure([slow, fast], todo, rounds=3)
        assert slow.about == {"engine": "fake"} and slow.resident_bytes > 0
    assert rates == {
        name: {"slow": pytest.approx([10.0] * 3), "fast": pytest.approx([40.0] * 3)}
        for name in ("decode", "prefill")
    }


def test_every_round_has_everyone_and_another_who_begins(contest) -> None:
    assert "".join(contest.turns("ABC", 3)) == "ABCBCACAB"


def test_a_worker_that_dies_is_named(contest, fake) -> None:
    with fake("broken", 1.0) as worker, pytest.raises(SystemExit, match="broken"):
        worker.ask(do="dance")
