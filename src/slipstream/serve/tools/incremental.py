"""How text that comes in pieces is split into events, whatever it is split by.

The tool parsers and the reasoning splitter are of this kind: they hold back what is not yet
certain, and move over it step by step. However the text is cut, the events add up to the same.
"""

from abc import ABC, abstractmethod

from slipstream.serve.tools.events import Event


class IncrementalParser(ABC):
    """Reads one answer: `push` its pieces, `finish` once."""

    def __init__(self) -> None:
        self._held = ""  # not yet decided upon

    def push(self, text: str) -> list[Event]:
        """The events that are certain now."""
        self._held += text
        events: list[Event] = []
        while self._held and self._step(events):
            pass
        return events

    @abstractmethod
    def finish(self) -> list[Event]:
        """The rest: no text follows."""

    @abstractmethod
    def _step(self, events: list[Event]) -> bool:
        """One move over what is held, never empty; False when it needs more text."""
