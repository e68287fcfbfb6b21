"""What an assistant's text turns out to be, piece by piece, and the message that adds up from it.

Splitters and parsers emit events; replies spell them. Neighboring pieces of the same kind may be
cut anywhere: only their sum has a meaning, and the sum does not depend on how the text arrived.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Said:
    """Text for the reader."""

    text: str


@dataclass(frozen=True)
class Thought:
    """Text of the model's reasoning."""

    text: str


@dataclass(frozen=True)
class CallBegun:
    """A call of the tool `name`; its arguments follow. `index` counts a message's calls."""

    index: int
    name: str


@dataclass(frozen=True)
class CallArguments:
    """A piece of the arguments of call `index`, JSON as the model wrote it."""

    index: int
    text: str


Event = Said | Thought | CallBegun | CallArguments


@dataclass
class Call:
    """One whole call; `arguments` is JSON text, as OpenAI's API has it."""

    name: str
    arguments: str = ""


@dataclass
class Message:
    """An assistant's whole message."""

    content: str = ""
    reasoning: str = ""
    calls: list[Call] = field(default_factory=list)

    def add(self, events: Iterable[Event]) -> None:
        """Appends what `events` bring."""
        for event in events:
            match event:
                case Said(text):
                    self.content += text
                case Thought(text):
                    self.reasoning += text
                case CallBegun(_, name):
                    self.calls.append(Call(name))
                case CallArguments(index, text):
                    self.calls[index].arguments += text
