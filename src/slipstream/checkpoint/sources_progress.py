"""One progress bar on stderr for everything that takes a while to fetch or to check.

The bar is drawn only on a terminal and only when the caller is not quiet; otherwise `progress`
hands out a function that does nothing, and rich is never imported.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Report = Callable[[int, int], None]


@contextmanager
def progress(title: str, *, quiet: bool) -> Iterator[Report]:
    """Yields `report(done_bytes, total_bytes)`, to be called as often as you like."""
    if quiet or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich import console  # noqa: PLC0415 (slow to import)
    from rich import progress as bars  # noqa: PLC0415

    columns = (bars.TextColumn("{task.description}"), bars.BarColumn(), bars.DownloadColumn())
    speed = bars.TransferSpeedColumn()
    with bars.Progress(*columns, speed, console=console.Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total or None)
