"""`slipstream bench`: how fast models run here, beside each other and beside this machine's limits.

All models take turns within each round; a difference inside the measured noise is not called one.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, cast, get_args

import typer
from rich.console import Console
from rich.table import Table

from slipstream.backends.native import NativeOptions, compile_native
from slipstream.bench.memory import peak_memory_bytes
from slipstream.bench.race import Entry, Line, Result, race, workloads_of
from slipstream.bench.workload import Workload
from slipstream.cli.answering import KVChoice
from slipstream.graph.cost import sizes_of
from slipstream.graph.passes.activations import Choice
from slipstream.machine import Ceilings, ceilings, forced_isa, machine, thread_count
from slipstream.models.load import load


@dataclass(frozen=True)
class Run:
    """Everything that is printed, or written as JSON."""

    workload: Workload
    options: NativeOptions
    result: Result
    memory_bytes: Mapping[str, int]
    ceilings: Ceilings

    @property
    def threads(self) -> int:
        """Of every program."""
        return self.options.threads or thread_count()

    @property
    def isa(self) -> str:
        """The kernels' path."""
        return forced_isa() or machine().isas[-1]


def command(  # noqa: PLR0917  each argument is an option of the command line
    models: Annotated[list[str], typer.Argument(help="Names, files or folders; see `pull`.")],
    prompt: Annotated[int, typer.Option(min=0, help="Tokens of the prompt; 0: no prefill.")] = 512,
    decode: Annotated[int, typer.Option(min=0, help="Tokens to decode; 0: no decoding.")] = 64,
    depth: Annotated[int, typer.Option(min=1, help="Context before decoding.")] = 8,
    streams: Annotated[str, typer.Option(help="Streams that decode together: 1,8")] = "1",
    repeats: Annotated[int, typer.Option(min=1, help="Rounds in alternation.")] = 7,
    threads: Annotated[int | None, typer.Option(min=1, help="Default: all usable cores.")] = None,
    activations: Annotated[str, typer.Option(help="auto, int8, bf16 or f32")] = "auto",
    kv: KVChoice = None,
    memory: Annotated[bool, typer.Option(help="Peak memory, each in its own process.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON with raw samples.")] = False,
) -> None:
    """Measure prefill and decode speed, peak memory, and the share of this machine's ceilings."""
    if len(set(models)) < len(models):
        raise typer.BadParameter("every model once; the noise is measured anyway")
    if prompt == decode == 0:
        raise typer.BadParameter("nothing to measure: --prompt and --decode are both 0")
    counts = read_streams(streams)
    workload = Workload(prompt, decode, depth, max(counts))
    options = NativeOptions(threads, read_activations(activations), kv)
    entries = [open_entry(name, options) for name in models]
    limits = ceilings()
    result = race(entries, workloads_of(workload, counts), repeats, limits)
    peaks = {name: peak_memory_bytes(name, options, workload) for name in models} if memory else {}
    run = Run(workload, options, result, peaks, limits)
    if as_json:
        print(json.dumps(to_json(run), indent=1))
    else:
        show(run, Console())


def read_streams(text: str) -> tuple[int, ...]:
    """``1,8`` → (1, 8); refused: anything that is not a list of positive numbers."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise typer.BadParameter(f"--streams takes numbers such as 1,8, not {text!r}")
    return tuple(dict.fromkeys(int(part) for part in parts))


def read_activations(text: str) -> Choice:
    """One of the choices of NativeOptions, or refused."""
    if text not in get_args(Choice):
        raise typer.BadParameter(f"--activations is one of {', '.join(get_args(Choice))}")
    return cast(Choice, text)


def open_entry(name: str, options: NativeOptions) -> Entry:
    """Loads and compiles a model."""
    model = load(name)
    wishes = model.activations
    program = compile_native(model.graph, model.weights, options, settings=wishes)
    return Entry(name, program, sizes_of(model.graph, model.weights))


def to_json(run: Run) -> dict[str, Any]:
    """Plain data with the raw samples."""
    return {
        "machine": {**asdict(machine()), "fingerprint": machine().fingerprint},
        "isa": run.isa,
        "threads": run.threads,
        "ceilings": asdict(run.ceilings),
        "workload": asdict(run.workload),
        "noise": dict(run.result.noise),
        "peak_memory_bytes": dict(run.memory_bytes),
        "results": [line_json(line) for line in run.result.lines],
    }


def line_json(line: Line) -> dict[str, Any]:
    """One measured number."""
    return {
        "model": line.model,
        "task": line.task,
        "tokens_per_s": line.tokens_per_s.as_json(),
        "bandwidth_share": line.bandwidth,
        "compute_share": line.compute,
        "against_first": line.against_first and line.against_first.as_json(),
    }


def show(run: Run, console: Console) -> None:
    """The table, what it was measured on, and how noisy that is."""
    console.print(f"{machine().describe()}, {run.threads} threads, kernels {run.isa}")
    console.print(_table(run))
    for task, noise in run.result.noise.items():
        console.print(f"noise of {task}: equals differ by up to {noise:.1%} here")
    for name, peak in run.memory_bytes.items():
        console.print(f"peak memory of {name}: {peak / 2**20:.0f} MiB")


def _table(run: Run) -> Table:
    work = run.workload
    table = Table(
        title=f"Prompt of {work.prompt_tokens}, {work.decode_tokens} decoded behind {work.depth}; "
        "median (lowest…highest)",
        title_justify="left",
    )
    table.add_column("model", overflow="fold")
    table.add_column("task")
    for heading in ("tokens/s", "of bandwidth", "of arithmetic"):
        table.add_column(heading, justify="right")
    compared = any(line.against_first for line in run.result.lines)
    if compared:
        table.add_column("against the first")
    for line in run.result.lines:
        shares = [f"{line.bandwidth:.0%}", f"{line.compute:.0%}"]
        against = [str(line.against_first or "")] if compared else []
        table.add_row(line.model, line.task, str(line.tokens_per_s), *shares, *against)
    return table
