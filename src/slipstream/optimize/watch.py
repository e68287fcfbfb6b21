"""What a search tells whoever waits for it. The command line draws bars; tests listen or do not."""

from collections.abc import Callable
from typing import Protocol

Advance = Callable[[float], None]


class Watcher(Protocol):
    """Hears of each stage of the work and of everything worth a line."""

    def begin(self, label: str, total: float) -> Advance:
        """A stage of `total` units begins, the one before it is over; call back as units pass."""
        ...

    def say(self, line: str) -> None:
        """Something happened."""
        ...


class Silent:
    """Hears and says nothing."""

    def begin(self, label: str, total: float) -> Advance:
        """Nothing."""
        return lambda units: None

    def say(self, line: str) -> None:
        """Nothing."""
