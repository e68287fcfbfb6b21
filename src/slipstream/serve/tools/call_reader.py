"""One tool call as a JSON object, read character by character while it is being written.

    {"name": "weather", "arguments": {"city": "Oslo"}}      "parameters" is taken for "arguments"

As soon as the name is known and the arguments begin, they stream. The parsers of all families feed
a `CallReader`; one that fails before it has emitted anything gives its text back.
"""

import json
from typing import Literal

from slipstream.serve.tools.events import CallArguments, CallBegun, Event

SPACE = " \t\r\n"
ARGUMENT_KEYS = frozenset({"arguments", "parameters"})
SCALAR = frozenset("+-.0123456789aeflnrstuE")  # of numbers, true, false and null
STRUCTURE = frozenset("{}[],:")

Phase = Literal["open", "key", "colon", "value", "after", "done", "failed"]


class ValueScanner:
    """Follows one JSON value. `push` a character: True while it belongs to the value."""

    def __init__(self) -> None:
        self.ended = False
        self.sound = True  # no character that JSON does not have there
        self._depth = 0
        self._text = False  # within a string
        self._escape = False
        self._kind = ""  # first character

    def push(self, char: str) -> bool:
        """Whether `char` is part of the value; `ended` once it was the last one."""
        if self._text:
            self._in_string(char)
            return True
        if self._kind and not self._depth:  # a scalar goes on until something else comes
            if char in SCALAR:
                return True
            self.ended = True
            return False
        if char not in SCALAR and char not in STRUCTURE and char not in SPACE and char != '"':
            self.sound, self.ended = False, True
            return False
        self._kind = self._kind or char
        self._text = char == '"'
        self._depth += (char in "{[") - (char in "}]")
        self.ended = not self._text and not self._depth and char in "}]"
        return True

    def _in_string(self, char: str) -> None:
        if self._escape:
            self._escape = False
        elif char == "\\":
            self._escape = True
        elif char == '"':
            self._text = False
            self.ended = not self._depth


class CallReader:
    """Reads call number `index`; only tools in `names` can be called.

    With `name`, the text is the arguments alone. Text that does not belong to the call any more is
    left to the caller.
    """

    def __init__(self, index: int, names: frozenset[str], name: str | None = None) -> None:
        self.begun = False
        self.text = ""  # all that was read
        self._index = index
        self._names = names
        self._alone = name is not None
        self._name = name
        self._phase: Phase = "open" if name is None else "value"
        self._scanner = ValueScanner()
        self._raw = ""  # the key or value being read, or to be emitted
        self._key = "arguments"
        self._arguments: str | None = None
        self._streaming = False

    @property
    def over(self) -> bool:
        """Whether it reads no further."""
        return self._phase in ("done", "failed")

    @property
    def failed(self) -> bool:
        """Whether its text is no call."""
        return self._phase == "failed"

    def push(self, text: str) -> tuple[list[Event], str]:
        """(events, the rest of `text` that it did not read because it is over)."""
        events: list[Event] = []
        place = 0
        while place < len(text) and not self.over:
            place += self._take(text[place], events)
        self.text += text[:place]
        self._flush(events)
        return events, text[place:]

    def finish(self) -> None:
        """No text follows: what has not begun by now is no call."""
        if not self.over:
            self._phase = "done" if self.begun else "failed"

    def _take(self, char: str, events: list[Event]) -> bool:
        """Reads one character; False when it ends the call without belonging to it."""
        if self._phase == "value":
            return self._value(char, events)
        if self._phase == "key" and self._raw:
            self._in_key(char)
        elif char not in SPACE:
            self._between(char, events)
        return True

    def _between(self, char: str, events: list[Event]) -> None:
        """Punctuation around keys and values."""
        if (self._phase, char) in {("open", "{"), ("after", ",")}:
            self._phase = "key"
        elif self._phase == "key" and char == '"':
            self._raw, self._scanner = char, ValueScanner()
            self._scanner.push(char)
        elif (self._phase, char) == ("colon", ":"):
            self._phase, self._raw, self._scanner = "value", "", ValueScanner()
        elif self._phase in ("key", "after") and char == "}":
            self._close(events)
        else:
            self._stop()

    def _in_key(self, char: str) -> None:
        self._scanner.push(char)
        self._raw += char
        if self._scanner.ended:
            self._key, self._phase = str(_json(self._raw)), "colon"

    def _value(self, char: str, events: list[Event]) -> bool:
        if not self._raw and not self._streaming:
            if char in SPACE:
                return True
            self._start_value(char, events)
        belongs = self._scanner.push(char)
        self._raw += char if belongs else ""
        if not self._scanner.sound:
            self._stop()
        elif self._scanner.ended:
            self._end_value(events)
            if not belongs and not self.over:  # the comma or bracket after a number
                return self._take(char, events)
        return belongs

    def _start_value(self, char: str, events: list[Event]) -> None:
        known = self._name is not None and not self.begun
        if self._key in ARGUMENT_KEYS and known and char == "{":
            self._begin(events)
            self._streaming = True

    def _end_value(self, events: list[Event]) -> None:
        self._phase = "after"
        if self._streaming:
            self._flush(events)
            self._streaming = False
        elif self._key == "name":
            name = _json(self._raw)
            if isinstance(name, str) and name in self._names:
                self._name = name
            else:
                self._stop()
        elif self._key in ARGUMENT_KEYS:
            self._arguments = _arguments(self._raw)
            if self._arguments is None:
                self._stop()
        self._raw = ""
        if self._alone and not self.over:
            self._close(events)

    def _close(self, events: list[Event]) -> None:
        """The call is complete."""
        if not self.begun:
            if self._name is None:
                self._stop()
                return
            self._begin(events)
            events.append(CallArguments(self._index, self._arguments or "{}"))
        self._phase = "done"

    def _begin(self, events: list[Event]) -> None:
        assert self._name is not None
        self.begun = True
        events.append(CallBegun(self._index, self._name))

    def _flush(self, events: list[Event]) -> None:
        """Emits what has been read of the arguments."""
        if self._streaming and self._raw:
            events.append(CallArguments(self._index, self._raw))
            self._raw = ""

    def _stop(self) -> None:
        """Something that a call cannot have: the call ends here, or never was one."""
        self._phase = "done" if self.begun else "failed"


def _arguments(raw: str) -> str | None:
    """JSON text of an object; an object within a string counts, null has no arguments."""
    value = _json(raw)
    if isinstance(value, str):
        raw, value = value, _json(value)
    if value is None and raw == "null":
        return "{}"
    return raw if isinstance(value, dict) else None


def _json(raw: str) -> object:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None
