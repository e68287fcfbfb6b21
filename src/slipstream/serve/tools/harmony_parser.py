"""The messages of one answer in OpenAI's harmony format, as gpt-oss writes them.

    <|channel|>analysis<|message|> thought <|end|>
    <|start|>assistant<|channel|>commentary to=functions.NAME json<|message|> {…} <|call|>
    <|start|>assistant<|channel|>final<|message|> said <|return|>

The channel says what a message is: reasoning, a call if it is addressed to a function, or words for
the reader. As with `CallParser`, any cut of a text gives the same sum. The prompt has written the
first ``<|start|>assistant``.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from slipstream.serve.tools.events import CallArguments, CallBegun, Event, Said, Thought
from slipstream.serve.tools.incremental import IncrementalParser
from slipstream.serve.tools.markers import first_marker, held_back
from slipstream.serve.tools.tool import Tool

START, CHANNEL, BODY = "<|start|>", "<|channel|>", "<|message|>"
ENDS = ("<|end|>", "<|call|>", "<|return|>", START)
CHANNEL_NAME = re.compile(r"<\|channel\|>\s*(\w+)")
RECIPIENT = re.compile(r"\bto=functions\.([\w.-]+)")
HEAD_BEGINS = (CHANNEL, START, BODY, "<|constrain|>", "to=", "assistant")
HEAD_LENGTH = 512  # characters of a message's head, at most

State = Literal["head", "body"]
Kind = Literal["said", "thought", "call"]


@dataclass(frozen=True)
class HarmonySyntax:
    """The markers that a vocabulary has as tokens of their own."""

    opener: str = CHANNEL
    closer: str = BODY


class HarmonyParser(IncrementalParser):
    """Reads one answer; only `tools` can be called. Reasoning comes out as `Thought`."""

    def __init__(self, tools: Sequence[Tool]) -> None:
        super().__init__()
        self._names = frozenset(tool.name for tool in tools)
        self._state: State = "head"
        self._kind: Kind = "said"
        self._calls = 0
        self._messages: dict[Kind, int] = {}

    def finish(self) -> list[Event]:
        """The rest: no text follows. A head without a body says nothing."""
        events: list[Event] = []
        if self._state == "body" or not _begins_head(self._held):
            self._emit(events, self._held)
        self._held = ""
        return events

    def _step(self, events: list[Event]) -> bool:
        return self._head(events) if self._state == "head" else self._body(events)

    def _head(self, events: list[Event]) -> bool:
        if not _begins_head(self._held):
            self._begin(events, "said")
            return True
        end = self._held.find(BODY, 0, HEAD_LENGTH + len(BODY))
        if end < 0:
            if len(self._held) < HEAD_LENGTH + len(BODY):
                return False
            self._begin(events, "said")
            return True
        head, self._held = self._held[:end], self._held[end + len(BODY) :]
        channel, recipient = CHANNEL_NAME.search(head), RECIPIENT.search(head)
        if recipient is not None and recipient[1] in self._names:
            events.append(CallBegun(self._calls, recipient[1]))
            self._calls += 1
            self._begin(events, "call")
        elif channel is not None and channel[1] == "analysis":
            self._begin(events, "thought")
        else:
            self._begin(events, "said")
        return True

    def _begin(self, events: list[Event], kind: Kind) -> None:
        """A message begins; another one of its kind is on a line of its own."""
        self._state, self._kind = "body", kind
        if kind != "call" and self._messages.get(kind):
            self._emit(events, "\n")
        self._messages[kind] = self._messages.get(kind, 0) + 1

    def _body(self, events: list[Event]) -> bool:
        found = first_marker(self._held, ENDS)
        if found is not None:
            place, marker = found
            self._emit(events, self._held[:place])
            self._held, self._state = self._held[place + len(marker) :], "head"
            return True
        cut = len(self._held) - held_back(self._held, ENDS)
        self._emit(events, self._held[:cut])
        self._held = self._held[cut:]
        return False

    def _emit(self, events: list[Event], text: str) -> None:
        if not text:
            return
        match self._kind:
            case "said":
                events.append(Said(text))
            case "thought":
                events.append(Thought(text))
            case "call":
                events.append(CallArguments(self._calls - 1, text))


def _begins_head(text: str) -> bool:
    """Whether a message's head begins like this, or may."""
    bare = text.lstrip()
    return any(bare.startswith(begin) or begin.startswith(bare) for begin in HEAD_BEGINS)
