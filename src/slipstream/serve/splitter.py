"""One answer of an assistant, split into what is said, what is thought, which tools are called.

A `Splitter` chains the reasoning splitter and the tool parser that a model's dialect asks for.
Pure: `push` text, `finish` once; how the text was cut into pieces changes nothing.
"""

from slipstream.serve.reasoning import ReasoningSplitter
from slipstream.serve.tools.events import CallArguments, CallBegun, Event, Message, Said
from slipstream.serve.tools.incremental import IncrementalParser


class Splitter:
    """The splitter of one answer; without parts it passes everything on as said.

    `one_call`: calls after the first are left out, for clients that want no parallel calls.
    """

    def __init__(
        self,
        reasoning: ReasoningSplitter | None = None,
        parser: IncrementalParser | None = None,
        *,
        one_call: bool = False,
    ) -> None:
        self.calls = 0
        self._reasoning = reasoning
        self._parser = parser
        self._one_call = one_call

    def push(self, text: str) -> list[Event]:
        """The events that `text` makes certain."""
        split: list[Event] = [Said(text)] if text else []
        return self._parsed(self._reasoning.push(text) if self._reasoning else split)

    def finish(self) -> list[Event]:
        """What was held back."""
        events = self._parsed(self._reasoning.finish() if self._reasoning else [])
        return events + self._counted(self._parser.finish() if self._parser else [])

    def whole(self, text: str) -> Message:
        """The message of an answer that is complete."""
        message = Message()
        message.add(self.push(text))
        message.add(self.finish())
        return message

    def _parsed(self, events: list[Event]) -> list[Event]:
        if self._parser is None:
            return events
        parsed: list[Event] = []
        for event in events:
            parsed += self._parser.push(event.text) if isinstance(event, Said) else [event]
        return self._counted(parsed)

    def _counted(self, events: list[Event]) -> list[Event]:
        if self._one_call:
            events = [event for event in events if not _of_later_call(event)]
        self.calls += sum(isinstance(event, CallBegun) for event in events)
        return events


def _of_later_call(event: Event) -> bool:
    return isinstance(event, CallBegun | CallArguments) and event.index > 0
