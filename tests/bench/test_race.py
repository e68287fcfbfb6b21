"""A race compares with the first within the noise, and holds every number against the ceilings."""

import pytest

from slipstream.bench.race import AGAIN, Entry, measure, race, tasks_of, workloads_of
from slipstream.bench.shares import bandwidth_share, compute_share
from slipstream.bench.workload import Workload
from slipstream.graph import ops
from slipstream.graph.cost import Cost, Size
from slipstream.graph.graph import Builder, Graph
from slipstream.machine import Ceilings, Rate

WIDTH, VOCABULARY = 4, 10


class FakeProgram:
    """Does nothing; has a graph of an embedding and a head."""

    def __init__(self) -> None:
        build = Builder()
        x = build.add("select", ops.Select(), build.add("embed", ops.Embed("embed"), "ids"))
        build.add("head", ops.Linear(("head",), (None,)), x)
        self.graph = Graph("fake", tuple(build.nodes), WIDTH, VOCABULARY, 4096)

    def new_kv(self, page_count):
        return None

    def step(self, batch, kv):
        return None

    def capture(self, batch, kv, weights):
        raise NotImplementedError


SIZES = {name: Size((VOCABULARY, WIDTH), 160) for name in ("embed", "head")}
LIMITS = Ceilings("avx2", 2, *[Rate(1000.0, 1000.0, 1000.0)] * 7)


def entry(name: str) -> Entry:
    return Entry(name, FakeProgram(), SIZES)


def test_the_prompt_is_prefilled_only_with_the_first_number_of_streams() -> None:
    first, second = workloads_of(Workload(32, 4), (1, 8))
    assert [task.name for task in tasks_of(first)] == ["prefill", "decode, 1 stream"]
    assert [task.name for task in tasks_of(second)] == ["decode, 8 streams"]


def test_without_decoding_the_streams_do_not_matter() -> None:
    assert len(workloads_of(Workload(32, 0), (1, 8))) == 1


def test_one_model_has_no_noise_and_no_comparison() -> None:
    result = race([entry("one")], [Workload(8, 2)], 2, LIMITS)
    assert [(line.task, line.against_first) for line in result.lines] == [
        ("prefill", None),
        ("decode, 1 stream", None),
    ]
    assert result.noise == {}


def test_several_models_are_compared_with_the_first() -> None:
    result = race([entry("one"), entry("two")], [Workload(8, 2)], 2, LIMITS)
    assert [line.against_first is None for line in result.lines] == [True, False, True, False]
    assert set(result.noise) == {"prefill", "decode, 1 stream"}
    assert set(measure([entry("one"), entry("two")], Workload(8, 2), 1)) == {"one", "two", AGAIN}


def test_shares_are_of_bytes_and_operations_per_second() -> None:
    cost = Cost(bytes_weights=300, bytes_kv=200, operations_int8=100, operations_f32=150)
    assert bandwidth_share(cost, 2.0, LIMITS) == pytest.approx(0.25)
    assert compute_share(cost, 0.5, LIMITS) == pytest.approx(0.5)


def test_a_decode_step_costs_its_streams() -> None:
    (_, decode) = tasks_of(Workload(8, 4, 8, streams=3))
    assert decode.tokens == 3
    cost = decode.cost(entry("one"))
    assert cost.bytes_weights == 160 + 3 * 160 // VOCABULARY
    assert cost.operations == 3 * 2 * VOCABULARY * WIDTH
