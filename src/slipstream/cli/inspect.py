"""`slipstream inspect`: what a model is, what it costs, and how fast this machine could run it.

Predictions are this machine's measured ceilings applied to counted bytes and operations; with
``--measure`` the native program's own times stand beside them, in a column of their own.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from slipstream.cli.inspect_linears import Linears, linears_of
from slipstream.cli.inspect_packed import Packed, packed_of
from slipstream.cli.inspect_rows import Row, Weights, add, look_at, rows_of_kinds, rows_of_nodes
from slipstream.graph.cost import StepShape, kv_token_bytes
from slipstream.graph.graph import Graph
from slipstream.graph.passes.activations import assign_activations
from slipstream.graph.passes.fuse import fuse
from slipstream.machine import (
    Ceilings,
    Machine,
    Rate,
    ceilings,
    forced_isa,
    machine,
    thread_count,
)
from slipstream.models.load import load
from slipstream.models.model import Model

BUSY_SHARE = 1.2


@dataclass(frozen=True)
class Inspection:
    """Everything that is printed, or written as JSON."""

    model: Model
    graph: Graph  # as the native backend runs it: activations assigned, fused
    weights: Weights
    step: StepShape
    here: Machine
    isa: str
    ceilings: Ceilings
    rows: tuple[Row, ...]
    packed: Packed
    linears: Linears

    @property
    def total(self) -> Row:
        """The whole step."""
        return add("step", self.rows)


def command(  # noqa: PLR0917  each argument is an option of the command line
    model: Annotated[str, typer.Argument(help="A name, a file or a folder; see `pull`.")],
    measure: Annotated[bool, typer.Option(help="Run it, and show measured times.")] = False,
    rows: Annotated[int, typer.Option(min=1, help="New tokens in the step.")] = 1,
    context: Annotated[int, typer.Option(min=0, help="Tokens already in the cache.")] = 0,
    every: Annotated[bool, typer.Option("--all", help="Every operation, not each kind.")] = False,
    probe: Annotated[bool, typer.Option(help="Measure this machine's ceilings again.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show a model's architecture, formats, and the cost of each operation on this machine."""
    loaded = load(model)
    step = StepShape((rows,), (context,), loaded.graph.kv or "bfloat16")
    found = inspect(loaded, step, measure, probe)
    shown = list(found.rows) if every else rows_of_kinds(found.graph, found.rows)
    if as_json:
        print(json.dumps(to_json(found, shown), indent=1))
    else:
        show(found, shown, Console())


def inspect(model: Model, step: StepShape, measure: bool, probe: bool = False) -> Inspection:
    """Looks at the weights once, probes the machine if need be, and runs the step if asked to."""
    weights = look_at(model.graph, model.weights)
    wishes = model.activations
    graph = fuse(assign_activations(model.graph, model.weights, "auto", wishes))
    measured_s: Mapping[str, float] | None = None
    if measure:
        from slipstream.cli.inspect_measure import measure_nodes  # noqa: PLC0415  needs kernels

        measured_s = measure_nodes(model, step.rows[0], step.contexts[0])
    found = ceilings(refresh=probe)
    rows = rows_of_nodes(graph, weights.sizes, step, found, measured_s)
    isa = forced_isa() or machine().isas[-1]
    packed, linears = packed_of(model), linears_of(isa, thread_count())
    here = machine()
    return Inspection(model, graph, weights, step, here, isa, found, tuple(rows), packed, linears)


# ---- JSON ----------------------------------------------------------------------------------------


def to_json(found: Inspection, shown: list[Row]) -> dict[str, Any]:
    """Plain data: bytes, operations and seconds."""
    return {
        "model": found.model.name,
        "architecture": found.graph.architecture,
        "context": found.graph.context,
        "vocabulary": found.graph.vocabulary,
        "width": found.graph.width,
        "parameters": found.weights.parameters,
        "size_bytes": found.weights.size_bytes,
        "formats": [asdict(stored) for stored in found.weights.formats],
        "packed": asdict(found.packed),
        "linears": found.linears.as_json(),
        "kv_bytes_per_token": kv_token_bytes(found.graph, found.step.kv),
        "machine": {**asdict(found.here), "fingerprint": found.here.fingerprint},
        "isa": found.isa,
        "ceilings": asdict(found.ceilings),
        "step": {"rows": found.step.rows[0], "context": found.step.contexts[0]},
        "operations": [row_json(row) for row in shown],
        "total": row_json(found.total),
    }


def row_json(row: Row) -> dict[str, Any]:
    """One row; `measured_s` is null unless it was measured."""
    return {
        "name": row.name,
        "count": row.count,
        **asdict(row.cost),
        "predicted_s": row.predicted_s,
        "measured_s": row.measured_s,
    }


# ---- tables --------------------------------------------------------------------------------------


def show(found: Inspection, shown: list[Row], console: Console) -> None:
    """The whole page."""
    console.print(_facts(found))
    console.print(_formats(found.weights))
    console.print(_ceilings(found))
    console.print(_operations(found, shown))
    if share_of_roof(found.total) > BUSY_SHARE:
        console.print(
            "A step far above its roof means that the machine was busy when its ceilings were "
            "probed: run again with --probe when it is idle."
        )


def _facts(found: Inspection) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_row("model", found.model.name)
    table.add_row("architecture", found.graph.architecture)
    table.add_row("blocks", str(len(found.graph.attentions)))
    table.add_row("width, vocabulary", f"{found.graph.width}, {found.graph.vocabulary}")
    table.add_row("context", f"{found.graph.context} tokens")
    table.add_row("parameters", f"{found.weights.parameters / 1e6:.1f} million")
    table.add_row("weights", size(found.weights.size_bytes))
    per_token = kv_token_bytes(found.graph, found.step.kv)
    table.add_row("KV per token", f"{size(per_token)} ({found.step.kv})")
    table.add_row("machine", found.here.describe())
    table.add_row("kernels", f"{found.isa}, {thread_count()} threads")
    table.add_row("packed weights", str(found.packed))
    table.add_row("linears", str(found.linears))
    return table


def _formats(weights: Weights) -> Table:
    table = Table(title="Weights by format", title_justify="left")
    table.add_column("format")
    for heading in ("tensors", "parameters", "bytes", "bits each"):
        table.add_column(heading, justify="right")
    for stored in sorted(weights.formats, key=lambda stored: -stored.size_bytes):
        table.add_row(
            stored.format,
            str(stored.tensors),
            f"{stored.parameters:,}",
            size(stored.size_bytes),
            f"{8 * stored.size_bytes / stored.parameters:.2f}",
        )
    return table


def _ceilings(found: Inspection) -> Table:
    limits = found.ceilings
    title = f"Measured ceilings, {limits.threads} threads, {limits.isa}"
    table = Table(title=title, title_justify="left")
    table.add_column("what")
    for heading in ("median", "lowest", "highest"):
        table.add_column(heading, justify="right")
    for name, rate, unit in _rates(limits):
        values = (rate.median, rate.low, rate.high)
        table.add_row(name, *(f"{value / 1e9:.1f} {unit}" for value in values))
    return table


def _rates(limits: Ceilings) -> Iterator[tuple[str, Rate, str]]:
    yield "memory read, 1 thread", limits.dram_1, "GB/s"
    yield "memory read", limits.dram, "GB/s"
    yield "cache read, 1 thread", limits.cache_1, "GB/s"
    yield "cache read", limits.cache, "GB/s"
    yield "float32 multiply-add", limits.f32, "Gop/s"
    yield "int8 product", limits.int8, "Gop/s"
    yield "bfloat16 product", limits.bf16, "Gop/s"


def _operations(found: Inspection, shown: list[Row]) -> Table:
    rows, context = found.step.rows[0], found.step.contexts[0]
    table = Table(title=f"A step of {rows} rows at context {context}", title_justify="left")
    table.add_column("operation")
    measured = found.total.measured_s is not None
    headings = ["count", "weights", "KV", "activations", "operations", "predicted"]
    headings += ["measured", "share of roof"] if measured else []
    for heading in headings:
        table.add_column(heading, justify="right")
    for row in shown:
        table.add_row(row.name, *_cells(row, measured))
    table.add_section()
    table.add_row("step", *_cells(found.total, measured))
    return table


def _cells(row: Row, measured: bool) -> list[str]:
    cost = row.cost
    cells = [str(row.count), size(cost.bytes_weights), size(cost.bytes_kv)]
    cells += [size(cost.bytes_activations), count(cost.operations), duration(row.predicted_s)]
    if measured and row.measured_s is not None:
        cells += [duration(row.measured_s), f"{share_of_roof(row):.0%}"]
    return cells


def share_of_roof(row: Row) -> float:
    """The predicted least time as a share of the measured time; 0 where nothing was measured."""
    return row.predicted_s / row.measured_s if row.measured_s else 0.0


def size(size_bytes: float) -> str:
    """``1.5 MB``: powers of a thousand, as the ceilings are per second."""
    return _scaled(size_bytes, ("B", "kB", "MB", "GB", "TB"))


def count(number: float) -> str:
    """``1.5 M``."""
    return _scaled(number, ("", "k", "M", "G", "T")).rstrip()


def _scaled(number: float, units: tuple[str, ...]) -> str:
    place = 0
    while number >= 1000 and place + 1 < len(units):
        number, place = number / 1000, place + 1
    text = f"{number:.0f}" if place == 0 else f"{number:.3g}"
    return "–" if number == 0 else f"{text} {units[place]}"


def duration(seconds: float) -> str:
    """``12.3 µs`` or ``4.56 ms``."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.3g} µs"
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
