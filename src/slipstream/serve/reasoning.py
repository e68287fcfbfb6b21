"""Reasoning apart from the answer: ``<think>…</think>``, as Qwen3, SmolLM3 and DeepSeek write it.

`ReasoningSplitter` is pure and incremental; `splitter` chains it before the tool parser. A model
begins to think at the start of its answer or not at all; where its template has opened
``<think>`` already, it begins inside.
"""

from typing import Literal

from slipstream.serve.tools.events import Event, Said, Thought
from slipstream.serve.tools.incremental import IncrementalParser
from slipstream.serve.tools.markers import held_back

OPEN, CLOSE = "<think>", "</think>"

State = Literal["start", "thinking", "after", "speaking"]


class ReasoningSplitter(IncrementalParser):
    """Splits one answer; white space around the reasoning belongs to neither part.

    `inside`: the prompt ends within the reasoning already. An answer that never closes its
    reasoning was all reasoning.
    """

    def __init__(self, *, inside: bool = False) -> None:
        super().__init__()
        self._state: State = "thinking" if inside else "start"
        self._thought = False  # whether any reasoning has come out

    def finish(self) -> list[Event]:
        """What was held back: no text follows."""
        held, self._held = self._held, ""
        if self._state == "thinking":
            held = held.rstrip()
            return [Thought(held)] if held else []
        return [Said(held)] if held and self._state != "after" else []

    def _step(self, events: list[Event]) -> bool:
        if self._state == "start":
            return self._begin()
        if self._state == "thinking":
            return self._think(events)
        if self._state == "after":
            self._held = self._held.lstrip()
            self._state = "speaking" if self._held else "after"
            return bool(self._held)
        events.append(Said(self._held))
        self._held = ""
        return False

    def _begin(self) -> bool:
        bare = self._held.lstrip()
        if bare.startswith(OPEN):
            self._held, self._state = bare[len(OPEN) :], "thinking"
            return True
        if OPEN.startswith(bare):  # also when there is only white space so far
            return False
        self._state = "speaking"
        return True

    def _think(self, events: list[Event]) -> bool:
        if not self._thought:
            self._held = self._held.lstrip()
        end = self._held.find(CLOSE)
        if end >= 0:
            self._emit(events, self._held[:end].rstrip())
            self._held, self._state = self._held[end + len(CLOSE) :], "after"
            return True
        cut = len(self._held) - held_back(self._held, (CLOSE,))
        cut = len(self._held[:cut].rstrip())  # white space may be the last before the end
        self._emit(events, self._held[:cut])
        self._held = self._held[cut:]
        return False

    def _emit(self, events: list[Event], text: str) -> None:
        if text:
            self._thought = True
            events.append(Thought(text))
