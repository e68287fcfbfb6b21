"""`inspect` counts a tiny model right, and never mixes predictions with measurements."""

import io
import json
from types import MappingProxyType

import numpy as np
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from slipstream.checkpoint.checkpoint import TokenizerData
from slipstream.cli import inspect as verb
from slipstream.cli import inspect_measure
from slipstream.cli.inspect_rows import look_at, rows_of_kinds
from slipstream.formats.affine import quantize_affine
from slipstream.formats.tensor import Affine, DenseTensor
from slipstream.graph import ops
from slipstream.graph.cost import StepShape
from slipstream.graph.graph import Builder, Graph
from slipstream.machine import Ceilings, Rate
from slipstream.models.model import Model

WIDTH, VOCABULARY = 32, 48
LIMITS = Ceilings("avx2", 2, *[Rate(2e9, 1e9, 3e9)] * 7)


class FakeCheckpoint:
    activations = MappingProxyType({})
    tokenizer = TokenizerData()


def tiny_model() -> Model:
    """An embedding, an attention and a head tied to the embedding; int4 but for the embedding."""
    build = Builder()
    x = build.add("embed", ops.Embed("embed"), "ids")
    q, k, v = (build.add(n, ops.Linear((n,), (None,)), x) for n in ("q", "k", "v"))
    x = build.add("attention", ops.Attention(0, 2, 2, 16, 0.25), q, k, v)
    x = build.add("select", ops.Select(), x)
    build.add("head", ops.Linear(("embed",), (None,)), x)
    graph = Graph("tiny", tuple(build.nodes), WIDTH, VOCABULARY, 128)
    draw = np.random.default_rng(0)
    matrix = draw.normal(size=(WIDTH, WIDTH)).astype(np.float32)
    weights = {name: quantize_affine(matrix, Affine(4, 32)) for name in ("q", "k", "v")}
    weights["embed"] = DenseTensor(draw.normal(size=(VOCABULARY, WIDTH)).astype(np.float32))
    return Model("tiny", graph, weights, None, FakeCheckpoint())  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verb, "load", lambda name: tiny_model())
    monkeypatch.setattr(verb, "ceilings", lambda refresh: LIMITS)


def run(*arguments: str):
    app = typer.Typer()
    app.command()(verb.command)
    return CliRunner().invoke(app, ["tiny", *arguments])


def test_weights_are_counted_once_by_format() -> None:
    model = tiny_model()
    found = look_at(model.graph, model.weights)
    assert [(s.format, s.tensors, s.parameters) for s in found.formats] == [
        ("float32", 1, VOCABULARY * WIDTH),
        ("int4 group 32, symmetric", 3, 3 * WIDTH * WIDTH),
    ]
    assert found.size_bytes == 4 * VOCABULARY * WIDTH + 3 * (WIDTH * WIDTH // 2 + 2 * WIDTH)


def test_json_holds_every_kind_and_the_total() -> None:
    data = json.loads(run("--json", "--rows", "3", "--context", "5").stdout)
    assert [row["name"] for row in data["operations"]] == [
        "embed",
        "linear",
        "attention",
        "select",
        "head",
    ]
    assert data["parameters"] == VOCABULARY * WIDTH + 3 * WIDTH * WIDTH
    assert data["kv_bytes_per_token"] == 2 * 2 * 16 * 2
    assert data["step"] == {"rows": 3, "context": 5}
    assert data["isa"] in data["machine"]["isas"]
    total = sum(row["bytes_weights"] for row in data["operations"])
    assert data["total"]["bytes_weights"] == total > 0
    assert all(row["measured_s"] is None for row in data["operations"])


def test_all_shows_every_node_as_it_runs() -> None:
    data = json.loads(run("--json", "--all").stdout)
    names = [row["name"] for row in data["operations"]]
    assert names[0] == "embed" and names[-1] == "head" and len(names) == 5  # q, k, v are one


def test_measured_times_stand_in_their_own_column(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = run().stdout
    assert "predicted" in plain and "measured  " not in plain
    model = tiny_model()
    graph = verb.inspect(model, StepShape(), measure=False).graph
    times = {node.name: 1e-3 for node in graph}
    monkeypatch.setattr(inspect_measure, "measure_nodes", lambda *a: times)
    found = verb.inspect(model, StepShape(), measure=True)
    rows = rows_of_kinds(found.graph, found.rows)
    assert all(row.measured_s == pytest.approx(1e-3) for row in rows)
    assert found.total.measured_s == pytest.approx(5e-3)
    assert found.total.predicted_s != found.total.measured_s
    page = io.StringIO()
    verb.show(found, rows, Console(file=page, width=160))
    assert "predicted" in page.getvalue() and "share of roof" in page.getvalue()


@pytest.mark.parametrize(("seconds", "text"), [(2e-6, "2 µs"), (0.0123, "12.3 ms"), (1.5, "1.5 s")])
def test_durations_read_well(seconds: float, text: str) -> None:
    assert verb.duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"), [(0, "–"), (999, "999 B"), (1500, "1.5 kB"), (96.6e6, "96.6 MB")]
)
def test_sizes_read_well(number: float, text: str) -> None:
    assert verb.size(number) == text


def test_senseless_steps_are_refused() -> None:
    assert run("--rows", "0").exit_code == 2
    assert run("--context", "-1").exit_code == 2
