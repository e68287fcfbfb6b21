"""What `optimize` and `quantize` print: progress while they work, the table when they are done."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from slipstream.optimize.study import Study
from slipstream.optimize.table import HEADER, Row, missed_words, rows
from slipstream.optimize.watch import Advance

_STYLES = {"chosen": "bold green", "front": "", "baseline": "dim", "stored": "dim"}
VERDICT = len(HEADER) - 1
_WORDS_COLUMNS = (1, VERDICT)
_ALL = tuple(range(len(HEADER)))
_MANY = tuple(i for i, name in enumerate(HEADER) if name not in ("ppl ×", "memory"))
_FEW = tuple(i for i in _MANY if HEADER[i] not in ("95 % interval", "prefill tok/s"))
_BY_WIDTH = ((_ALL, 150), (_MANY, 108), (_FEW, 0))  # columns, and the characters they take


class Bars:
    """A `Watcher` that draws one bar for the stage under way and prints lines above it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("left:"),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=console, transient=True)
        self._task: TaskID | None = None

    def __enter__(self) -> "Bars":
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def begin(self, label: str, total: float) -> Advance:
        """The bar of a new stage takes the place of the last."""
        if self._task is not None:
            self._progress.remove_task(self._task)
        task = self._task = self._progress.add_task(label, total=total)
        return lambda units: self._progress.advance(task, units)

    def say(self, line: str) -> None:
        """A line above the bar."""
        self._console.print(line, markup=False, highlight=False)


def open_console(*, stderr: bool) -> Console:
    """The terminal; a file or a pipe gets wide lines, since nobody is there to see them wrap."""
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=170)


def show(study: Study, console: Console) -> None:
    """The trade-off table and the Pareto front."""
    limits = ", ".join(limit.text for limit in study.limits) or "none"
    title = f"{study.model}: {study.evaluation_tokens:,} tokens, {study.text}; limits: {limits}"
    console.print(title, markup=False)
    console.print(table(study, console.width))
    baseline = "The baseline is the file as it is stored"
    formats = study.facts.get("stored_formats")
    console.print(f"{baseline}{f' ({formats})' if formats else ''}, with float32 activations.")
    front = ", ".join(result.name for result in study.front())
    console.print(
        f"Pareto front (KL, decode speed, size): {front or 'nothing was measured wholly'}"
    )
    skipped = study.facts.get("not_measured")
    if skipped:
        console.print(f"Not measured for lack of time (--budget-s): {', '.join(skipped)}")


def table(study: Study, width: int) -> Table:
    """As many columns as `width` characters hold: all of them, or the most telling."""
    shown, brief = next((c, c is not _ALL) for c, least in _BY_WIDTH if width >= least)
    drawn = Table(box=SIMPLE_HEAD, pad_edge=False)
    for index in shown:
        words = index in _WORDS_COLUMNS
        drawn.add_column(HEADER[index], justify="left" if words else "right", no_wrap=not words)
    for row in rows(study):
        cells = [_brief(row, index) if brief else row.cells[index] for index in shown]
        drawn.add_row(*cells, style=_STYLES.get(row.mark or row.role, ""))
    return drawn


def _brief(row: Row, index: int) -> str:
    """A cell without the spread of its speed, or the verdict in a word."""
    cell = row.cells[index]
    if index != VERDICT:
        return cell.split(" (")[0]
    if cell.startswith("failed"):
        return "failed"
    if row.mark == "chosen" or row.role != "candidate" or cell == "not timed":
        return {"the file as it is": "the file"}.get(cell, cell)
    return "within" if cell.startswith("within") else "outside"


def misses(study: Study) -> str:
    """The nearest misses in words, one a line."""
    lines = [
        f"  {result.name}: {missed_words(study.verdict(result))}"
        for result in study.nearest_misses()
    ]
    return "\n".join(lines)
