"""A plan is chosen where it is faster, and noise chooses none; all plans give the same bits."""

import json
import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from slipstream.backends import tuned
from slipstream.backends.tuning import (
    ROWS_TIMED,
    Choice,
    LinearPlan,
    candidates_of,
    choose,
    race_cost,
)

DEFAULT = LinearPlan(16, 4096, 128, 6)
SHAPE = "64 gated 128 codes 4/32 int8/32"


def noisy(
    seed: int, spread: float, factors: dict[LinearPlan, float]
) -> Callable[[LinearPlan], float]:
    """Times of a machine where other work runs: log-normal, now and then ten times as long."""
    draw = random.Random(seed)

    def time_s(plan: LinearPlan) -> float:
        pause = 10 if draw.random() < 0.03 else 1
        return 1e-3 * factors.get(plan, 1.0) * pause * math.exp(draw.gauss(0, spread))

    return time_s


@pytest.mark.parametrize("rows", ROWS_TIMED)
def test_candidates_differ_from_the_default_in_one_thing(rows: str) -> None:
    for plan in candidates_of(rows, DEFAULT):
        assert sum(a != b for a, b in zip(plan.values, DEFAULT.values, strict=True)) == 1


@pytest.mark.parametrize("spread", [0.0, 0.02, 0.3])
def test_noise_chooses_nothing(spread: float) -> None:
    ways = candidates_of("few", DEFAULT)
    for seed in range(300):
        assert choose(DEFAULT, ways, noisy(seed, spread, {})).plan is None


def test_a_slower_candidate_is_never_chosen() -> None:
    ways = candidates_of("some", DEFAULT)
    slow = dict.fromkeys(ways, 1.2)
    found = choose(DEFAULT, ways, noisy(1, 0.02, slow))
    assert found.plan is None and found.gain < 0


def test_the_fastest_candidate_is_chosen_where_the_machine_is_calm() -> None:
    ways = candidates_of("few", DEFAULT)
    factors = {ways[1]: 0.9, ways[2]: 0.8}
    hits = [choose(DEFAULT, ways, noisy(seed, 0.01, factors)).plan for seed in range(50)]
    assert set(hits) <= {ways[2], None}
    assert hits.count(ways[2]) >= 40


def test_a_gain_inside_the_noise_is_not_taken() -> None:
    draw = random.Random(3)
    ways = candidates_of("few", DEFAULT)[:1]
    turns = iter(range(10**6))

    def time_s(plan: LinearPlan) -> float:
        """The default differs from itself by a third, turn by turn; the candidate gains a tenth."""
        if plan == DEFAULT:
            return 1.0 if next(turns) % 2 else 1.35
        return 1.045 + draw.random() * 1e-6

    found = choose(DEFAULT, ways, time_s)
    assert found.plan is None and found.noise > found.gain > 0


class FakeLinears:
    """Two shapes of three linears; the second's `fast` plan takes half the time."""

    def __init__(self, size_bytes: int = 64 << 20, fast: LinearPlan | None = None) -> None:
        self.size_bytes = size_bytes
        self.fast = fast
        self.timed = 0
        self.planned: dict[tuple[int, int], tuple[int, int, int, int]] = {}

    def linears(self) -> list[tuple[int, str, int]]:
        return [(node, SHAPE if node % 2 else "other", self.size_bytes) for node in range(6)]

    def linear_plan(self, node: int, rows: int) -> tuple[int, int, int, int]:
        return DEFAULT.values

    def time_linears(self, nodes: list[int], rows: int, plan: tuple[int, int, int, int]) -> int:
        self.timed += 1
        quick = self.fast is not None and plan == self.fast.values and nodes[0] % 2
        return (500 if quick else 1000) * len(nodes) + self.timed % 3

    def plan_linears(self, nodes: list[int], rows: int, plan: tuple[int, int, int, int]) -> None:
        for node in nodes:
            self.planned[node, rows] = plan


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLIPSTREAM_TUNE", "1")
    monkeypatch.setattr(tuned, "TUNING_S", 60.0)  # the fakes take no time, this machine may
    return tmp_path / "linears" / "machine.json"


def test_the_second_start_times_nothing_and_plans_the_same(path: Path) -> None:
    fast = replace(DEFAULT, prefetch_bytes=16384)
    first, second = FakeLinears(fast=fast), FakeLinears(fast=fast)
    found = tuned.plan_linears(first, path, tune=True)
    assert found[SHAPE]["few"].plan == fast and found["other"]["few"].plan is None
    assert tuned.plan_linears(second, path, tune=True) == found
    assert first.timed > 0 and second.timed == 0
    assert first.planned == second.planned == {(node, 1): fast.values for node in (1, 3, 5)}


def test_redo_times_again(path: Path) -> None:
    tuned.plan_linears(FakeLinears(), path, tune=True)
    again = FakeLinears()
    tuned.plan_linears(again, path, tune=False, redo=True)
    assert again.timed > 0


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"version": 99, "shapes": {}}', "{}"])
def test_a_damaged_file_is_ignored_and_written_anew(path: Path, damage: str) -> None:
    path.parent.mkdir()
    path.write_text(damage)
    assert tuned.load(path) is None
    tuned.plan_linears(FakeLinears(), path, tune=True)
    assert set(tuned.load(path) or {}) == {SHAPE, "other"}


@pytest.mark.parametrize(
    "field, value", [("tasks", 0), ("tasks", 1 << 30), ("task_rows", "1"), ("prefetch_bytes", -1)]
)
def test_a_plan_out_of_range_is_not_read(path: Path, field: str, value: object) -> None:
    tuned.store(path, {SHAPE: dict.fromkeys(ROWS_TIMED, Choice(DEFAULT, 0.1, 0.01))})
    data = json.loads(path.read_text())
    assert tuned.load(path) is not None
    data["shapes"][SHAPE]["few"]["plan"][field] = value
    path.write_text(json.dumps(data))
    assert tuned.load(path) is None


def test_what_does_not_fit_into_the_time_keeps_its_default(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuned, "TUNING_S", 0.0)
    fake = FakeLinears(fast=replace(DEFAULT, prefetch_bytes=16384))
    found = tuned.plan_linears(fake, path, tune=True)
    assert fake.timed == 0 and not fake.planned
    assert all("too long" in choice.note for choice in found[SHAPE].values())


def test_a_start_on_a_machine_too_busy_to_time_is_made_up_for(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = replace(DEFAULT, prefetch_bytes=16384)
    with monkeypatch.context() as busy:
        busy.setattr(tuned, "TUNING_S", 0.0)
        tuned.plan_linears(FakeLinears(fast=fast), path, tune=True)
    found = tuned.plan_linears(FakeLinears(fast=fast), path, tune=True)
    assert found[SHAPE]["few"].plan == fast


def test_small_programs_and_programs_told_so_are_not_timed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, asked = FakeLinears(size_bytes=1000), FakeLinears()
    tuned.plan_linears(small, path, tune=True)
    tuned.plan_linears(asked, path, tune=False)
    monkeypatch.setenv("SLIPSTREAM_TUNE", "0")
    off = FakeLinears()
    tuned.plan_linears(off, path, tune=True)
    assert small.timed == asked.timed == off.timed == 0 and not path.exists()


def test_the_cost_of_a_race_counts_its_samples() -> None:
    samples = 0

    def time_s(plan: LinearPlan) -> float:
        nonlocal samples
        samples += 1
        return 1.0 if plan == DEFAULT else 0.5

    ways = candidates_of("few", DEFAULT)
    assert choose(DEFAULT, ways, time_s).plan is not None
    assert samples == race_cost(ways, 1.0)
