"""Tool calls written as tags, one for each argument, as Qwen3-Coder and GLM write them.

    <tool_call> <function=NAME> <parameter=KEY>⏎ value ⏎</parameter> … </function> </tool_call>
    <tool_call> NAME <arg_key>KEY</arg_key> <arg_value>value</arg_value> … </tool_call>

`TagSyntax` is what differs, `TagParser` reads both and spells the arguments as JSON. What the
tool's schema calls a string streams as it comes, other values follow when they are complete. As
with `CallParser`, any cut of a text gives the same sum, and what is no call comes out as text.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from slipstream.serve.tools.events import CallArguments, CallBegun, Event, Said
from slipstream.serve.tools.incremental import IncrementalParser
from slipstream.serve.tools.markers import first_marker, held_back
from slipstream.serve.tools.tool import Tool

NAME = re.compile(r"[\w.-]*")
NAME_LENGTH = 512  # characters of a name or a key, at most
LITERALS = {"True": "true", "False": "false", "None": "null"}

State = Literal["text", "head", "body", "key", "value", "closing"]


@dataclass(frozen=True)
class TagSyntax:
    """How one family marks its calls; the tags in the order in which they come.

    lead        what stands before the name, after the opener
    head        what ends the name; "" if the first argument or the end of the call does
    value_open  between key and value; "" if the key's end is all there is
    call_close  what ends the arguments; the closer may follow
    newlines    a line break on either side of a value is not part of it
    """

    opener: str
    closer: str
    lead: str
    head: str
    key_open: str
    key_close: str
    value_open: str
    value_close: str
    call_close: str
    newlines: bool = False


class TagParser(IncrementalParser):
    """Reads one answer; only `tools` can be called."""

    def __init__(self, syntax: TagSyntax, tools: Sequence[Tool]) -> None:
        super().__init__()
        self._syntax = syntax
        self._tools = {tool.name: tool for tool in tools}
        self._state: State = "text"
        self._raw = ""  # to be given back as text if no call follows
        self._calls = 0
        self._kinds: dict[str, Any] = {}  # of the tool's arguments: their schemas
        self._arguments = 0  # of this call
        self._spelled_text = False  # the value is a text, which streams
        self._begun = False  # something of the value has been read

    def finish(self) -> list[Event]:
        """The rest: no text follows. A call that is cut short keeps what it has."""
        events: list[Event] = []
        if self._state == "head":
            self._give_back(events)
        elif self._state == "value" and self._spelled_text:
            self._spell(events, self._held)
            self._held = ""
        elif self._state in ("body", "key", "value"):
            self._held = ""
        if not (self._calls and not self._held.strip()):
            self._say(events, self._held)
        self._held = ""
        return events

    def _step(self, events: list[Event]) -> bool:
        match self._state:
            case "text":
                return self._in_text(events)
            case "head":
                return self._head(events)
            case "body":
                return self._body(events)
            case "key":
                return self._key(events)
            case "value":
                return self._value(events)
            case "closing":
                return self._closing()

    def _in_text(self, events: list[Event]) -> bool:
        opener = self._syntax.opener
        found = first_marker(self._held, (opener,))
        if found is not None:
            before = self._held[: found[0]]
            self._say(events, before.rstrip())
            self._raw = before[len(before.rstrip()) :] + opener
            self._held = self._held[found[0] + len(opener) :]
            self._state = "head"
            return True
        cut = len(self._held) - held_back(self._held, (opener,))
        cut = len(self._held[:cut].rstrip())  # white space may be the last before a call
        self._say(events, self._held[:cut])
        self._held = self._held[cut:]
        return False

    def _head(self, events: list[Event]) -> bool:
        syntax = self._syntax
        found = _after(self._held.lstrip(), (syntax.lead,))
        if found is None:
            return False
        name = NAME.match(found[1]) if found[0] is not None else None
        if name is None or name.end() > NAME_LENGTH:
            return self._give_back(events)
        rest = found[1][name.end() :]
        ends = (syntax.head,) if syntax.head else (syntax.key_open, syntax.call_close)
        followed = _after(rest if syntax.head else rest.lstrip(), ends)
        if followed is None:
            return False
        if followed[0] is None or name[0] not in self._tools:
            return self._give_back(events)
        self._held = followed[1] if syntax.head else rest
        self._begin(events, name[0])
        return True

    def _begin(self, events: list[Event], name: str) -> None:
        self._state, self._raw, self._arguments = "body", "", 0
        properties = self._tools[name].parameters.get("properties")
        self._kinds = properties if isinstance(properties, dict) else {}
        events += [CallBegun(self._calls, name), CallArguments(self._calls, "{")]
        self._calls += 1

    def _give_back(self, events: list[Event]) -> bool:
        """No call after the opener: it was text."""
        self._say(events, self._raw)
        self._state, self._raw = "text", ""
        return bool(self._held)

    def _body(self, events: list[Event]) -> bool:
        found = _after(self._held.lstrip(), (self._syntax.key_open, self._syntax.call_close))
        if found is None:
            return False
        if found[0] == self._syntax.key_open:
            self._state, self._held = "key", found[1]
            return True
        if found[0] is None:
            return self._break_off(events)
        self._spell(events, "}")
        self._held = found[1]
        self._state = "text" if self._syntax.call_close == self._syntax.closer else "closing"
        return True

    def _key(self, events: list[Event]) -> bool:
        syntax = self._syntax
        end = self._held.find(syntax.key_close, 0, NAME_LENGTH + len(syntax.key_close))
        if end < 0:
            hopeless = len(self._held) >= NAME_LENGTH + len(syntax.key_close)
            return self._break_off(events) if hopeless else False
        rest = self._held[end + len(syntax.key_close) :]
        found = _after(rest.lstrip(), (syntax.value_open,)) if syntax.value_open else ("", rest)
        if found is None:
            return False
        if found[0] is None:
            return self._break_off(events)
        key = self._held[:end].strip()
        self._spelled_text = is_text(self._kinds.get(key))
        comma = ", " if self._arguments else ""
        quote = '"' if self._spelled_text else ""
        spelled = f"{comma}{json.dumps(key, ensure_ascii=False)}: {quote}"
        events.append(CallArguments(self._calls - 1, spelled))
        self._state, self._held, self._begun = "value", found[1], False
        self._arguments += 1
        return True

    def _value(self, events: list[Event]) -> bool:
        close = self._syntax.value_close
        if self._syntax.newlines and not self._begun:
            self._held, self._begun = self._held.removeprefix("\n"), True
        end = self._held.find(close)
        if end >= 0:
            value = self._held[:end]
            value = value.removesuffix("\n") if self._syntax.newlines else value
            if self._spelled_text:
                self._spell_text(events, value)
                self._spell(events, '"')
            else:
                self._spell(events, _json_of(value))
            self._held, self._state = self._held[end + len(close) :], "body"
            return True
        if self._spelled_text:
            ends = ("\n" + close, close) if self._syntax.newlines else (close,)
            cut = len(self._held) - held_back(self._held, ends)
            self._spell_text(events, self._held[:cut])
            self._held = self._held[cut:]
        return False

    def _closing(self) -> bool:
        found = _after(self._held.lstrip(), (self._syntax.closer,))
        if found is None:
            return False
        self._held = self._held if found[0] is None else found[1]
        self._state = "text"
        return True

    def _break_off(self, events: list[Event]) -> bool:
        """Something that a call cannot have: it ends here, and what follows is text."""
        self._spell(events, "}")
        self._state = "text"
        return True

    def _spell_text(self, events: list[Event], text: str) -> None:
        self._spell(events, json.dumps(text, ensure_ascii=False)[1:-1])

    def _spell(self, events: list[Event], text: str) -> None:
        if text:
            events.append(CallArguments(self._calls - 1, text))

    def _say(self, events: list[Event], text: str) -> None:
        if text:
            events.append(Said(text))


def _after(text: str, markers: tuple[str, ...]) -> tuple[str | None, str] | None:
    """(the marker that `text` begins with, what follows it); (None, text) if it begins with none;
    None while it may become one.
    """
    for marker in markers:
        if text.startswith(marker):
            return marker, text[len(marker) :]
    if any(marker.startswith(text) for marker in markers):
        return None
    return None, text


def is_text(schema: Any) -> bool:
    """Whether an argument is a text as it stands, not JSON: its schema says so."""
    return isinstance(schema, dict) and schema.get("type") == "string"


def _refuse(constant: str) -> None:
    raise ValueError(f"JSON has no {constant}")


def _json_of(value: str) -> str:
    """A value that may be JSON: as it is if so, Python's words for constants, or as a text."""
    bare = value.strip()
    spelled = LITERALS.get(bare, bare)
    try:
        json.loads(spelled, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return json.dumps(value, ensure_ascii=False)
    return spelled
