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
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, TransferSpeedColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total or None)
