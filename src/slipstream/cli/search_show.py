"""What `optimize` and `quantize` print: progress while they work, the table when they are done."""

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from slipstream.optimize.study import Study
from slipstream.optimize.table import HEADER, missed_words, rows
from slipstream.optimize.watch import Advance

_STYLES = {"chosen": "bold green", "front": "", "baseline": "dim", "stored": "dim"}
_WORDS_COLUMNS = (1, len(HEADER) - 1)


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


def show(study: Study, console: Console) -> None:
    """The trade-off table and the Pareto front."""
    limits = ", ".join(limit.text for limit in study.limits) or "none"
    table = Table(
        title=f"{study.model}: {study.evaluation_tokens:,} tokens, {study.text}; limits: {limits}",
        title_justify="left",
    )
    for index, name in enumerate(HEADER):
        words = index in _WORDS_COLUMNS
        table.add_column(
            name, justify="left" if words else "right", no_wrap=index != len(HEADER) - 1
        )
    for row in rows(study):
        table.add_row(*row.cells, style=_STYLES.get(row.mark or row.role, ""))
    console.print(table)
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


def misses(study: Study) -> str:
    """The nearest misses in words, one a line."""
    lines = [
        f"  {result.name}: {missed_words(study.verdict(result))}"
        for result in study.nearest_misses()
    ]
    return "\n".join(lines)
