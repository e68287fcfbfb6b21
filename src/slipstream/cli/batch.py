"""`slipstream batch`: a file of requests, answered as a server would answer them.

The output lies beside a journal until it is complete, so that the same command goes on after a
kill; then the journal is gone and the output is there as a whole.
"""

import asyncio
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slipstream.checkpoint.sources import resolve
from slipstream.cli.answering import Context, Json, Threads, waiting
from slipstream.cli.serve_models import served_name
from slipstream.engine.engine import Engine
from slipstream.engine.options import EngineOptions
from slipstream.errors import RequestError, SourceError

if TYPE_CHECKING:
    from slipstream.serve.batch_jobs import Progress
    from slipstream.serve.batch_journal import Journal
    from slipstream.serve.batch_lines import BatchLines

SAY_EVERY_S = 10.0  # where there is no terminal to draw a bar on
Watch = Callable[["Progress"], None]


def command(  # noqa: PLR0917  each argument is an option of the command line
    source: Annotated[Path, typer.Argument(metavar="IN", help="requests, one JSON object a line")],
    out: Annotated[Path, typer.Option("-o", "--out", help="the answers, in the same order")],
    model: Annotated[
        str | None, typer.Option(help="answers every line, whatever model it names")
    ] = None,
    max_batch: Annotated[int, typer.Option(min=1, help="requests that run at once")] = 32,
    context: Context = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Answer a file of requests in OpenAI's batch format, whatever happens on the way.

    Each line: {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {…}}.
    Killed or stopped by Ctrl-C, the same command goes on where it was.
    """
    reading, journals = (
        import_module(f"slipstream.serve.batch_{part}") for part in ("lines", "journal")
    )
    lines: BatchLines = reading.read_lines(source)
    chosen = model or lines.model
    if chosen is None:
        raise RequestError("the lines name no model, or several; say which one with --model")
    beside = out.with_name(out.name + ".journal")
    if out.exists() and not beside.exists():
        raise SourceError(f"{out} is there already; delete it or write to another file")
    journal: Journal = journals.Journal(beside, {"input": lines.digest, "model": chosen})
    resolve(chosen)  # has a progress bar of its own
    options = EngineOptions(max_batch=max_batch, context=context, threads=threads)
    with waiting(f"loading {chosen}"):
        engine = Engine.open(chosen, options)
    try:
        progress = asyncio.run(_answered(engine, chosen, lines, journal))
    except KeyboardInterrupt:
        _say(f"{len(journal)} of {len(lines)} answered; the same command goes on from here")
        raise
    finally:
        journal.sync()
    journal.write(out)
    journal.remove()
    _say_done(progress, out, as_json)


async def _answered(
    engine: Engine, model: str, lines: "BatchLines", journal: "Journal"
) -> "Progress":
    """Serves the engine to the lines alone, without a socket."""
    jobs, answers, catalogs, servers, admission = (
        import_module(f"slipstream.serve.{part}")
        for part in ("batch_jobs", "batch_answers", "catalog", "server", "admission")
    )
    window = 2 * engine.settings.limits.max_batch  # the next ones wait when one has ended
    limits = admission.AdmissionLimits(queue=1024, body_bytes=2**30)
    name = served_name(model)
    catalog = catalogs.Catalog([catalogs.Served(name, engine, limits)])
    server = servers.Server(catalog, limits)
    progress: Progress = jobs.begun(lines, journal)
    catalog.start()
    try:
        answer = answers.RouteAnswers(server, model=name)
        with _shown(progress) as watch:
            await jobs.BatchRun(lines, journal, answer, progress, window, watch=watch).run()
    finally:
        await catalog.stop()
    return progress


@contextmanager
def _shown(progress: "Progress") -> Iterator[Watch]:
    """A bar on a terminal, a line now and then elsewhere."""
    earlier, began = progress.done, time.monotonic()
    if not sys.stderr.isatty():
        said = began

        def say(now: "Progress") -> None:
            nonlocal said
            if time.monotonic() - said >= SAY_EVERY_S:
                said = time.monotonic()
                _say(_line(now, said - began, earlier))

        yield say
        return
    from rich import progress as bars  # noqa: PLC0415  only for terminals
    from rich.console import Console  # noqa: PLC0415

    columns: list[Any] = [bars.BarColumn(), bars.TextColumn("{task.description}")]
    with bars.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=progress.total, completed=progress.done)

        def draw(now: "Progress") -> None:
            text = _line(now, time.monotonic() - began, earlier)
            bar.update(task, completed=now.done, description=text)

        draw(progress)
        yield draw


def _line(progress: "Progress", seconds: float, earlier: int) -> str:
    """``120/1000, 3 refused, 512 tokens/s, 1:23 left``."""
    seconds = max(seconds, 1e-6)
    tokens = (progress.prompt_tokens + progress.answer_tokens) / seconds
    rate = (progress.done - earlier) / seconds
    left = (progress.total - progress.done) / rate if rate else None
    parts = [f"{progress.done}/{progress.total}"]
    parts += [f"{progress.failed} refused"] if progress.failed else []
    parts += [f"{tokens:.0f} tokens/s"]
    parts += [] if left is None else [f"{int(left // 60)}:{int(left % 60):02} left"]
    return ", ".join(parts)


def _say_done(progress: "Progress", out: Path, as_json: bool) -> None:
    if as_json:
        told = {"done": progress.done, "failed": progress.failed, "out": str(out)}
        tokens = {
            "prompt_tokens": progress.prompt_tokens,
            "answer_tokens": progress.answer_tokens,
        }
        print(json.dumps(told | tokens))
        return
    refused = f", {progress.failed} of them refused in words" if progress.failed else ""
    _say(f"{progress.done} requests{refused}: {out}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
