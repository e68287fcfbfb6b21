"""Speed is measured in alternation, from the right batches; shown with a program that counts."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from slipstream.backends.batch import Batch
from slipstream.bench.offline import Contestant, measure_speed, take_turns
from slipstream.bench.samples import Samples
from slipstream.bench.workload import Workload, decode_batches, prefill_batch
from slipstream.graph.graph import Graph


@dataclass
class Clock:
    """Time that passes only when a program says so."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class FakeKV:
    page_count: int
    size_bytes: int = 0


@dataclass
class FakeProgram:
    """Takes `row_s` seconds per row; notes every batch, after checking it."""

    clock: Clock
    row_s: float = 1.0
    log: list[str] = field(default_factory=list)
    name: str = "fake"
    batches: list[Batch] = field(default_factory=list)
    graph: Graph = field(default_factory=lambda: Graph("fake", (), 4, 100, 4096))

    def new_kv(self, page_count: int) -> FakeKV:
        return FakeKV(page_count)

    def step(self, batch: Batch, kv: FakeKV):
        batch.check(self.graph, kv.page_count)
        self.batches.append(batch)
        self.log.append(self.name)
        self.clock.now += self.row_s * len(batch.ids)
        return np.zeros((len(batch.logit_rows), 100), np.float32)

    def capture(self, batch, kv, weights):
        raise NotImplementedError


def test_tokens_per_second_are_the_rows_over_their_time() -> None:
    clock = Clock()
    speed = measure_speed(
        {"one": FakeProgram(clock, row_s=0.5)}, prompt_tokens=70, decode_tokens=6, clock=clock
    )["one"]
    assert speed.prefill == Samples((2.0,) * 5)
    assert speed.decode == Samples((2.0,) * 5)


def test_streams_decode_together_and_count_together() -> None:
    clock = Clock()
    program = FakeProgram(clock, row_s=0.25)
    speed = measure_speed(
        {"one": program}, prompt_tokens=0, decode_tokens=3, streams=8, repeats=2, clock=clock
    )["one"]
    assert speed.prefill is None and speed.streams == 8
    assert speed.decode is not None and speed.decode.median == 4.0
    assert [len(batch.ids) for batch in program.batches] == [8 * 8, 8, 8, 8] * 3


def test_contestants_alternate_and_take_turns_to_begin() -> None:
    clock, log = Clock(), []
    programs = [FakeProgram(clock, log=log, name=name) for name in "AB"]
    contestants = [Contestant(p, Workload(decode_tokens=0), clock) for p in programs]
    take_turns(contestants, rounds=3)
    assert "".join(log) == "ABBAAB"


def test_the_warming_round_is_not_measured() -> None:
    clock = Clock()
    program = FakeProgram(clock)
    speed = measure_speed({"one": program}, decode_tokens=0, repeats=3, clock=clock)["one"]
    assert speed.prefill is not None and len(speed.prefill.values) == 3
    assert len(program.batches) == 4


@pytest.mark.parametrize("streams", [1, 3])
@pytest.mark.parametrize(("depth", "steps"), [(1, 1), (8, 64), (64, 1), (63, 70), (200, 5)])
def test_decoding_writes_behind_its_own_prompt(streams: int, depth: int, steps: int) -> None:
    workload = Workload(0, steps, depth, streams)
    ids = workload.ids(100)
    first = prefill_batch(ids[:, :depth])
    batches = list(decode_batches(ids[:, : depth + steps], depth, steps))
    pages = batches[0].pages
    assert (first.pages == pages[:, : first.pages.shape[1]]).all()
    assert len(np.unique(pages)) == pages.size and pages.max() < workload.page_count
    assert [batch.lengths[0] for batch in batches] == list(range(depth, depth + steps))
    assert (np.stack([batch.ids for batch in batches], 1) == ids[:, depth : depth + steps]).all()


def test_the_same_seed_gives_the_same_tokens() -> None:
    assert (Workload(seed=3).ids(100) == Workload(seed=3).ids(100)).all()
    assert (Workload(seed=3).ids(100) != Workload(seed=4).ids(100)).any()


def test_given_tokens_are_repeated_to_the_length() -> None:
    ids = Workload(5, 1, 2, streams=2, given=(7, 8)).ids(100)
    assert ids.tolist() == [[7, 8, 7, 8, 7]] * 2


@pytest.mark.parametrize("wrong", [{"prompt_tokens": -1}, {"depth": 0}, {"streams": 0}])
def test_a_senseless_workload_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Workload(**wrong)


def test_no_repeats_are_refused() -> None:
    with pytest.raises(ValueError, match="repeat"):
        measure_speed({}, repeats=0)
