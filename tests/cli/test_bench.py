"""`bench` refuses senseless races and reports raw samples, shares and comparisons."""

import json

import pytest
import typer
from typer.testing import CliRunner

from slipstream.bench.race import Entry
from slipstream.cli import bench as verb
from slipstream.graph import ops
from slipstream.graph.cost import Size
from slipstream.graph.graph import Builder, Graph
from slipstream.machine import Ceilings, Rate


class FakeProgram:
    def __init__(self) -> None:
        build = Builder()
        x = build.add("select", ops.Select(), build.add("embed", ops.Embed("embed"), "ids"))
        build.add("head", ops.Linear(("embed",), (None,)), x)
        self.graph = Graph("fake", tuple(build.nodes), 4, 10, 4096)

    def new_kv(self, page_count):
        return None

    def step(self, batch, kv):
        return None


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"embed": Size((10, 4), 160)}
    monkeypatch.setattr(verb, "open_entry", lambda name, _: Entry(name, FakeProgram(), sizes))
    limits = Ceilings("avx2", 2, *[Rate(2.0, 1.0, 3.0)] * 7)
    monkeypatch.setattr(verb, "ceilings", lambda: limits)
    monkeypatch.setattr(verb, "peak_memory_bytes", lambda *a: 5 << 20)


def run(*arguments: str):
    app = typer.Typer()
    app.command()(verb.command)
    return CliRunner().invoke(app, list(arguments))


def test_json_keeps_raw_samples_of_every_task() -> None:
    done = run("one", "--json", "--streams", "1,4", "--repeats", "3")
    data = json.loads(done.stdout)
    tasks = [item["task"] for item in data["results"]]
    assert tasks == ["prefill", "decode, 1 stream", "decode, 4 streams"]
    assert all(len(item["tokens_per_s"]["samples"]) == 3 for item in data["results"])
    assert data["peak_memory_bytes"] == {"one": 5 << 20}
    assert data["machine"]["fingerprint"] and data["ceilings"]["dram"]["median"] == 2.0


def test_two_models_are_compared_and_the_noise_is_told() -> None:
    done = run("one", "two", "--repeats", "5", "--no-memory")
    assert done.exit_code == 0
    assert "noise of prefill" in done.stdout and "peak memory" not in done.stdout


@pytest.mark.parametrize(
    "wrong",
    [
        ("one", "one"),
        ("one", "--streams", "1,x"),
        ("one", "--streams", "0"),
        ("one", "--activations", "int3"),
        ("one", "--prompt", "0", "--decode", "0"),
        ("one", "--repeats", "0"),
    ],
)
def test_senseless_races_are_refused(wrong: tuple[str, ...]) -> None:
    assert run(*wrong).exit_code == 2
