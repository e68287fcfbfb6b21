"""`slipstream load`: put load on a server that speaks OpenAI's API, and show what clients see."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from slipstream.bench.client import Target, run_load
from slipstream.bench.load import Call, Outcome, random_calls, summary
from slipstream.bench.traces import calls_of, read_trace
from slipstream.errors import UnavailableError

AT_ONCE_MAX = 1024  # calls of a trace that may be open together


def command(  # noqa: PLR0917  each argument is an option of the command line
    url: Annotated[str, typer.Argument(help="the server, such as http://127.0.0.1:8000")],
    model: Annotated[str | None, typer.Option(help="default: the first it lists")] = None,
    concurrency: Annotated[str, typer.Option(help="clients at once: 1,8,32")] = "1,8",
    calls: Annotated[int, typer.Option(min=1, help="requests for each client")] = 4,
    prompt: Annotated[int, typer.Option(min=1, help="tokens of a prompt")] = 128,
    answer: Annotated[int, typer.Option(min=1, help="tokens of an answer")] = 64,
    shared_prefix: Annotated[int, typer.Option(min=0, help="tokens that prompts share")] = 0,
    trace: Annotated[Path | None, typer.Option(help="recorded arrivals (Azure, Mooncake)")] = None,
    requests: Annotated[int, typer.Option(min=1, help="how many of the trace")] = 100,
    pace: Annotated[float, typer.Option(min=0.001, help="times the trace's own speed")] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Measure a server: tokens per second, time to the first token, time between tokens.

    Prompts are random token ids, answers run to their full length (`ignore_eos`). With --trace,
    requests arrive as recorded, at --pace times the recorded speed.
    """
    base = url.rstrip("/").removesuffix("/v1") + "/v1"
    target = Target(base, model or first_model(base))
    loads: dict[str, tuple[list[Call], int]]
    if trace is not None:
        recorded = read_trace(trace, requests)
        work = calls_of(recorded, pace=pace, prompt_max=prompt, answer_max=answer)
        loads = {f"{trace.name}, {pace:g}× pace": (work, AT_ONCE_MAX)}
    else:
        loads = {
            f"{count} at once": (
                random_calls(
                    count * calls, prompt, answer, shared_prefix=shared_prefix, seed=count
                ),
                count,
            )
            for count in read_counts(concurrency)
        }
    outcomes = measure(target, loads, quiet=as_json)
    if as_json:
        print(json.dumps({name: outcome.as_json() for name, outcome in outcomes.items()}, indent=1))
    else:
        show(outcomes, Console())


def measure(
    target: Target, loads: dict[str, tuple[list[Call], int]], *, quiet: bool
) -> dict[str, Outcome]:
    """Each load in turn, with a bar on stderr."""
    outcomes = {}
    with Progress(console=Console(stderr=True), transient=True, disable=quiet) as progress:
        for name, (work, at_once) in loads.items():
            bar = progress.add_task(name, total=len(work))
            seen = run_load(target, work, at_once, lambda _, bar=bar: progress.advance(bar))  # type: ignore[misc]
            outcomes[name] = summary(seen)
    return outcomes


def first_model(base: str) -> str:
    """The name of the first model that a server lists. UnavailableError: nobody answers."""
    try:
        answer = httpx.get(f"{base}/models", timeout=10)
        answer.raise_for_status()
        listed: Sequence[dict[str, Any]] = answer.json()["data"]
        return str(listed[0]["id"])
    except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError) as error:
        raise UnavailableError(
            f"{base}/models does not answer as OpenAI's API does ({error}); is a server running "
            "there? `slipstream serve MODEL` starts one"
        ) from error


def read_counts(text: str) -> list[int]:
    """``1,8`` → [1, 8]; refused: anything that is not a list of positive numbers."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise typer.BadParameter(f"--concurrency takes numbers such as 1,8, not {text!r}")
    return list(dict.fromkeys(int(part) for part in parts))


def show(outcomes: dict[str, Outcome], console: Console) -> None:
    """The table, and what went wrong."""
    table = Table(title="times in ms, p50 / p95 / p99", title_justify="left")
    for heading in ("load", "tokens/s", "first token", "between tokens", "failed"):
        table.add_column(heading, justify="left" if heading == "load" else "right")
    for name, outcome in outcomes.items():
        table.add_row(
            name,
            f"{outcome.tokens_per_s:.1f}",
            str(outcome.ttft or "–"),
            str(outcome.itl or "–"),
            f"{outcome.failed} of {outcome.calls}",
        )
    console.print(table)
    for name, outcome in outcomes.items():
        for error in outcome.errors:
            console.print(f"{name}: {error}", markup=False)
