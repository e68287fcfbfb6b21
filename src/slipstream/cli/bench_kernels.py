"""`slipstream bench kernels`: each operation and shape beside this machine's measured ceilings."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from slipstream.backends.native import NativeOptions, NativeProgram, compile_native
from slipstream.backends.tuned import Choices, choices_path
from slipstream.bench.kernel_shapes import Format, read_format, shaped
from slipstream.bench.kernels import Row, Steps, Weights, look_at, measure_kernels
from slipstream.bench.roofline import page, picture
from slipstream.cli.answering import KVChoice
from slipstream.cli.bench import read_activations
from slipstream.cli.inspect import duration
from slipstream.cli.inspect_linears import choice_words
from slipstream.errors import UnsupportedError
from slipstream.formats.tensor import Codebook
from slipstream.machine import Ceilings, ceilings, forced_isa, machine, thread_count
from slipstream.models.load import load

SHARE_SHOWN = 0.005  # of a step: smaller kernels are shown with --all


@dataclass(frozen=True)
class Run:
    """Everything that is printed, plotted, or written as JSON."""

    name: str
    depth: int
    options: NativeOptions
    ceilings: Ceilings
    rows: tuple[Row, ...]

    @property
    def heading(self) -> str:
        """What was measured, on what."""
        threads = self.options.threads or thread_count()
        isa = forced_isa() or machine().isas[-1]
        return f"{self.name} on {machine().describe()}, {threads} threads, kernels {isa}"


def command(  # noqa: PLR0917  each argument is an option of the command line
    model: Annotated[str | None, typer.Argument(help="A name, a file or a folder.")] = None,
    shape: Annotated[str, typer.Option(help="Without a model: smol, 1B or 7B.")] = "smol",
    format: Annotated[
        str, typer.Option(help="Of a shape's weights: int4, int3 …, nf4, mxfp4, q4_k …")
    ] = "int4",
    group: Annotated[int, typer.Option(min=0, help="Inputs of a scale; 0: a row.")] = 32,
    sparse: Annotated[
        bool, typer.Option(help="Of a shape: two of each four weights zero, packed without.")
    ] = False,
    zeros: Annotated[
        float, typer.Option(min=0, max=0.99, help="With --sparse: this share, anywhere, by mask.")
    ] = 0.0,
    rows: Annotated[str, typer.Option(help="Rows of the steps.")] = "1,4,8,16,32,64,512",
    depth: Annotated[int, typer.Option(min=0, help="Positions before a decoded row.")] = 128,
    repeats: Annotated[int, typer.Option(min=3, help="Steps of each arm of the A/A run.")] = 7,
    threads: Annotated[int | None, typer.Option(min=1, help="Default: all usable cores.")] = None,
    activations: Annotated[str, typer.Option(help="auto, int8, bf16 or f32")] = "auto",
    kv: KVChoice = None,
    every: Annotated[bool, typer.Option("--all", help="Small operations too.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Write the roofline: .html or .svg.")] = None,
    tune: Annotated[bool, typer.Option(help="Choose the linears' plans anew, by timing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON with raw samples.")] = False,
) -> None:
    """Time the kernels inside a model's own steps: GB/s, Gop/s, and the share of the roof.

    Up to 64 rows are as many sequences that decode at --depth; from 128 on they are one prompt.
    """
    options = NativeOptions(threads, read_activations(activations), kv)
    if model and sparse:
        raise UnsupportedError("--sparse is for --shape; a pruned model shows what its start chose")
    form = _format(format, group, sparse, zeros)
    subject = _stored(model, options) if model else _shaped(shape, form, options)
    if tune:
        show_choices(tune_linears(subject.program), Console())
        return
    steps, limits = Steps(_counts(rows), depth, repeats), ceilings()
    measured = measure_kernels(subject.program, subject.weights, steps, limits)
    run = Run(subject.name, depth, options, limits, tuple(measured))
    if plot is not None:
        title, drawn = f"Kernels of {run.name}", plot.suffix == ".svg"
        plot.write_text((picture if drawn else page)(title, run.rows, run.ceilings, _notes(run)))
    if as_json:
        print(json.dumps(to_json(run), indent=1))
    else:
        show(run, Console(), every)


def tune_linears(program: NativeProgram) -> Choices:
    """Times every shape of the program again, and keeps what was found for later starts."""
    isa = forced_isa() or machine().isas[-1]
    return program.plan_linears(choices_path(isa, program.threads), tune=True, redo=True)


def show_choices(choices: Choices, console: Console) -> None:
    """A line for each shape and number of rows."""
    table = Table(title="Plans of the linears on this machine", title_justify="left")
    table.add_column("linear", overflow="fold")
    table.add_column("rows")
    for heading in ("gain", "±"):
        table.add_column(heading, justify="right")
    table.add_column("plan", overflow="fold")
    for shape, by_rows in choices.items():
        for rows, choice in by_rows.items():
            cells = (f"{choice.gain:.0%}", f"{choice.noise:.0%}", choice_words(choice))
            table.add_row(shape, rows, *cells)
    console.print(table)
    console.print(
        "gain: of the best candidate, in time; ±: how far the default differs from itself."
    )


@dataclass(frozen=True)
class Subject:
    """What is measured."""

    name: str
    program: NativeProgram
    weights: Weights


def _stored(name: str, options: NativeOptions) -> Subject:
    """A model as it is served, its packed weights mapped."""
    model = load(name)
    program = compile_native(
        model.graph,
        model.weights,
        options,
        settings=model.activations,
        identity=model.quick_identity(),
    )
    return Subject(name, program, look_at(model.graph, model.weights))


def _shaped(shape: str, format: Format, options: NativeOptions) -> Subject:
    """A named shape with random weights."""
    graph, weights = shaped(shape, format)
    form = format.form
    kind = form.name if isinstance(form, Codebook) else f"int{form.bits}"
    nested = ", nested scales" if format.nested else ""
    name = f"{shape} shape, {kind} group {form.group or 'row'}{nested}"
    if format.pattern == "2:4":
        name, options = f"{name} 2:4", replace(options, sparse="always")
    elif format.pattern == "mask":
        name = f"{name} by mask, {format.zeros:.0%} zeros"
        options = replace(options, sparse="mask")
    program = compile_native(graph, weights, options)
    return Subject(name, program, look_at(graph, weights, format.pattern))


def _format(text: str, group: int, sparse: bool, zeros: float) -> Format:
    if group % 16:
        raise UnsupportedError(f"--group is a multiple of 16, not {group}")
    if sparse and text not in {"int4", "int8"}:
        raise UnsupportedError(f"--sparse goes with --format int4 or int8, not {text}")
    if zeros and not sparse:
        raise UnsupportedError("--zeros goes with --sparse")
    return replace(read_format(text, group or None), sparse=sparse, zeros=zeros)


def _counts(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and 0 < int(part) <= 4096 for part in parts):
        raise typer.BadParameter(f"--rows takes numbers such as 1,8,512, not {text!r}")
    return tuple(dict.fromkeys(map(int, parts)))


def to_json(run: Run) -> dict[str, Any]:
    """Plain data with the raw samples."""
    return {
        "name": run.name,
        "machine": {**asdict(machine()), "fingerprint": machine().fingerprint},
        "isa": forced_isa() or machine().isas[-1],
        "threads": run.options.threads or thread_count(),
        "depth": run.depth,
        "ceilings": asdict(run.ceilings),
        "kernels": [row_json(row) for row in run.rows],
    }


def row_json(row: Row) -> dict[str, Any]:
    """One kernel at one number of rows, per call."""
    return {
        "kernel": row.kernel.name,
        "calls": len(row.kernel.nodes),
        "rows": row.rows,
        **asdict(row.cost),
        "seconds": row.seconds.as_json(),
        "bytes_per_s": row.bytes_per_s,
        "operations_per_s": row.operations_per_s,
        "share_of_roof": row.share,
        "noise": row.noise,
    }


def show(run: Run, console: Console, every: bool) -> None:
    """A table for each number of rows, and how noisy it was."""
    console.print(run.heading)
    for count in dict.fromkeys(row.rows for row in run.rows):
        console.print(_table(run, [row for row in run.rows if row.rows == count], every))
    for note in _notes(run):
        console.print(note)


def _notes(run: Run) -> list[str]:
    limits = run.ceilings
    return [
        f"{run.heading}. Decoded rows stand at depth {run.depth}.",
        f"Ceilings measured here: memory {limits.dram.median / 1e9:.1f} GB/s, int8 "
        f"{limits.int8.median / 1e9:.0f} Gop/s, float32 {limits.f32.median / 1e9:.0f} Gop/s. "
        "A multiply-add is two operations; bytes are weights and cached keys and values.",
        "± is how far apart equals came out (A/A, 95 %): no difference inside it is one.",
    ]


def _table(run: Run, rows: list[Row], every: bool) -> Table:
    step_s = sum(row.seconds.median * len(row.kernel.nodes) for row in rows)
    title = f"{rows[0].rows} rows, {step_s * 1e3:.3g} ms a step"
    table = Table(title=title, title_justify="left")
    table.add_column("operation", overflow="fold")
    for heading in ("calls", "a call", "±", "of step", "GB/s", "Gop/s", "of roof"):
        table.add_column(heading, justify="right")
    for row in rows:
        share = row.seconds.median * len(row.kernel.nodes) / step_s
        if every or share >= SHARE_SHOWN:
            table.add_row(*_cells(row, share))
    return table


def _cells(row: Row, share: float) -> tuple[str, ...]:
    return (
        row.kernel.name,
        str(len(row.kernel.nodes)),
        duration(row.seconds.median),
        f"{row.noise:.0%}",
        f"{share:.1%}",
        f"{row.bytes_per_s / 1e9:.1f}",
        f"{row.operations_per_s / 1e9:.1f}",
        f"{row.share:.0%}",
    )
