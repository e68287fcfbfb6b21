"""Tool calls within an assistant's text, for every family whose calls are JSON after a marker.

`Syntax` is what differs between families; `CallParser` reads any of them, incrementally. However
the text is cut into pieces, the events add up to the same. A call that is malformed, or of a tool
that was not offered, comes out as text; nothing is lost but the markers and the white space around
calls.

    said … <marker> {call} , {call} </marker> … said
    TEXT │ BETWEEN  │ READING│BETWEEN          │ TEXT
"""

import re
from dataclasses import dataclass
from typing import Literal

from slipstream.serve.tools.call_reader import CallReader
from slipstream.serve.tools.events import Event, Said
from slipstream.serve.tools.incremental import IncrementalParser
from slipstream.serve.tools.markers import first_marker, held_back

HEAD = re.compile(r"([\w.-]+)(?:\[CALL_ID\][\w-]*)?(?:\[ARGS\])?\s*(?=\{)")
HEAD_LENGTH = 512  # characters from a marker to the arguments, at most

State = Literal["text", "between", "reading"]


@dataclass(frozen=True)
class Syntax:
    """How one family marks its calls.

    opener      marker before calls
    closer      marker after them; "" without one
    bare        an answer that begins with ``{`` may be a call without a marker
    heads       calls may have the form ``name[ARGS]{…}``
    separators  characters between calls
    """

    opener: str
    closer: str = ""
    bare: bool = False
    heads: bool = False
    separators: str = " \t\r\n,;[]"


class CallParser(IncrementalParser):
    """Reads one answer; only tools in `names` can be called."""

    def __init__(self, syntax: Syntax, names: frozenset[str]) -> None:
        super().__init__()
        self._syntax = syntax
        self._names = names
        self._state: State = "text"
        self._raw = ""  # to be given back as text if no call follows
        self._calls = 0
        self._section_calls = 0  # since the last opener
        self._spoken = False  # whether anything has come out
        self._reader = CallReader(0, names)

    def finish(self) -> list[Event]:
        """The rest: no text follows."""
        events: list[Event] = []
        if self._state == "reading":
            self._reader.finish()
            self._end_call(events, "")
        rest, self._held = self._held, ""
        if self._state == "between" and not self._section_calls:
            rest = self._raw + rest
        between = self._syntax.separators if self._state == "between" else None
        if self._calls and not rest.strip(between):
            return events
        return self._say(events, rest)

    def _step(self, events: list[Event]) -> bool:
        if self._state == "text":
            return self._in_text(events)
        if self._state == "between":
            return self._between(events)
        found, rest = self._reader.push(self._held)
        events += found
        self._held = rest
        if self._reader.over:
            self._end_call(events, rest)
        return bool(self._held)

    def _in_text(self, events: list[Event]) -> bool:
        opener = self._syntax.opener
        if self._syntax.bare and not self._spoken and not self._calls:
            bare = self._held.lstrip()
            if not bare:
                return False
            if bare[0] == "{":
                return self._open(self._held[: -len(bare)], bare)
        found = first_marker(self._held, (opener,))
        if found is not None:
            before = self._held[: found[0]]
            space = before[len(before.rstrip()) :]
            self._say(events, before.rstrip())
            return self._open(space + opener, self._held[found[0] + len(opener) :])
        cut = len(self._held) - held_back(self._held, (opener,))
        cut = len(self._held[:cut].rstrip())  # white space may be the last before a call
        self._say(events, self._held[:cut])
        self._held = self._held[cut:]
        return False

    def _open(self, raw: str, rest: str) -> bool:
        self._state, self._raw, self._held = "between", raw, rest
        self._section_calls = 0
        return True

    def _between(self, events: list[Event]) -> bool:
        for marker in (self._syntax.opener, self._syntax.closer):
            if marker and self._held.startswith(marker):
                return self._pass_marker(marker, events)
            if marker.startswith(self._held):
                return False  # it may become the marker
        if self._held[0] in self._syntax.separators:
            self._raw, self._held = self._raw + self._held[0], self._held[1:]
            return True
        if self._held[0] == "{":
            return self._read(None)
        if self._syntax.heads:
            return self._head(events)
        return self._leave(events)

    def _pass_marker(self, marker: str, events: list[Event]) -> bool:
        self._raw, self._held = self._raw + marker, self._held[len(marker) :]
        if marker == self._syntax.closer:
            if self._section_calls:
                self._raw = ""
            return self._leave(events, closed=True)
        return True

    def _leave(self, events: list[Event], closed: bool = False) -> bool:
        """No further call here: what was set aside is text, unless calls explain it."""
        raw, self._raw = self._raw, ""
        if raw and self._section_calls and not closed:
            self._held = raw + self._held
        else:
            self._say(events, raw)
        self._state = "text"
        return bool(self._held)

    def _head(self, events: list[Event]) -> bool:
        """``name[ARGS]{``: the call is all that follows."""
        found = HEAD.match(self._held)
        if found is None:
            hopeless = "{" in self._held or len(self._held) > HEAD_LENGTH
            return self._leave(events) if hopeless else False
        if found[1] not in self._names:
            return self._leave(events)
        self._raw, self._held = self._raw + found[0], self._held[found.end() :]
        return self._read(found[1])

    def _read(self, name: str | None) -> bool:
        self._state = "reading"
        self._reader = CallReader(self._calls, self._names, name)
        return True

    def _end_call(self, events: list[Event], rest: str) -> None:
        """The reader is over: a call has ended, or there was none."""
        self._held = rest
        if self._reader.failed:
            self._say(events, self._raw + self._reader.text)
            self._state, self._raw = "text", ""
            return
        self._state, self._raw = "between", ""
        self._calls += 1
        self._section_calls += 1

    def _say(self, events: list[Event], text: str) -> list[Event]:
        if text:
            self._spoken = True
            events.append(Said(text))
        return events
