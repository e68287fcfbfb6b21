"""What TensorBoard shows of a training: scalars by update, in its own event files.

The files are written by tensorboardX, an optional package; without a folder nothing is written.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from slipstream.errors import MachineError


class Log(Protocol):
    """Hears of every update."""

    def write(self, update: int, scalars: Mapping[str, float]) -> None:
        """Figures by name, after that many updates."""
        ...

    def close(self) -> None:
        """Everything is on disk."""
        ...


class NoLog:
    """Keeps nothing."""

    def write(self, update: int, scalars: Mapping[str, float]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class EventLog:
    """TensorBoard's event files in `folder`; a resumed run hides what was logged beyond it."""

    def __init__(self, folder: Path, updates: int) -> None:
        try:
            from tensorboardX import SummaryWriter  # noqa: PLC0415  optional
        except ImportError:
            raise MachineError(
                "a log for TensorBoard needs tensorboardX: pip install slipstream[train]"
            ) from None
        self._writer: Any = SummaryWriter(str(folder), purge_step=updates + 1)

    def write(self, update: int, scalars: Mapping[str, float]) -> None:
        """One point of each curve."""
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, update)

    def close(self) -> None:
        """Flushes."""
        self._writer.close()


def open_log(folder: Path | None, updates: int) -> Log:
    """A log in `folder`, going on after so many updates; MachineError without tensorboardX."""
    return NoLog() if folder is None else EventLog(folder, updates)
