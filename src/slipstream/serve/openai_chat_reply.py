"""Answers of ``/v1/chat/completions``: whole, and in chunks.

The model's text is split by a `Splitter` into what is said, what is thought and which tools are
called; the same splitter reads a whole answer and a stream, so both say the same.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from slipstream.engine.answer import Completion, Delta
from slipstream.engine.codec import Decoder
from slipstream.serve.openai_logprobs import chat_logprobs, prompt_logprobs
from slipstream.serve.replies import Json, fresh_id, usage
from slipstream.serve.splitter import Splitter
from slipstream.serve.stream import HOLE, SERVER_SENT, Framing, Template
from slipstream.serve.tools.events import CallArguments, CallBegun, Event, Message, Said, Thought


@dataclass
class ChatReply:
    """A reply. `new_splitter` makes the splitter of one answer; `new_call_id` names a tool call."""

    model: str
    decoder: Decoder
    new_splitter: Callable[[], Splitter]
    new_call_id: Callable[[], str]
    n: int = 1
    include_usage: bool = False
    show_prompt_logprobs: bool = False
    id: str = field(default_factory=lambda: fresh_id("chatcmpl-"))
    created: int = field(default_factory=lambda: int(time.time()))
    framing: Framing = SERVER_SENT
    _splitters: dict[int, Splitter] = field(default_factory=dict)
    _said: dict[int, Template] = field(default_factory=dict)

    def whole(self, completions: Sequence[Completion]) -> Json:
        """A response object with one choice per completion."""
        choices = [self._choice(index, done) for index, done in enumerate(completions)]
        frame = self._frame("chat.completion")
        return {**frame, "choices": choices, "usage": usage(completions, self.n)}

    def events(self, index: int, delta: Delta) -> Iterable[Json | bytes]:
        """Chunks, one per event; the first says who speaks, the last how it ended."""
        first = index not in self._splitters
        if first:
            self._splitters[index] = self.new_splitter()
        splitter = self._splitters[index]
        events = splitter.push(delta.text)
        if delta.finish is not None:
            events += splitter.finish()
        if not (first or delta.logprobs or delta.finish):
            match events:
                case [Said(text)]:
                    yield self._plain(index).filled(text)
                    return
        pieces = [self._spelled(event) for event in events]
        if not pieces:
            if not (first or delta.logprobs or delta.finish):
                return
            pieces = [{"content": ""} if first and delta.finish is None else {}]
        if first:
            pieces[0] = {"role": "assistant", **pieces[0]}
        for place, piece in enumerate(pieces):
            choice: Json = {"index": index, "delta": piece, "logprobs": None, "finish_reason": None}
            if place == 0:
                choice["logprobs"] = chat_logprobs(self.decoder, delta.logprobs)
            if place == len(pieces) - 1:
                choice["finish_reason"] = finish_reason(delta.finish, splitter.calls)
            yield {**self._frame("chat.completion.chunk"), "choices": [choice]}

    def _plain(self, index: int) -> Template:
        """A chunk with nothing but text that is said."""
        if index not in self._said:
            delta, ending = {"content": HOLE}, {"logprobs": None, "finish_reason": None}
            choice = {"index": index, "delta": delta, **ending}
            content = {**self._frame("chat.completion.chunk"), "choices": [choice]}
            self._said[index] = Template(self.framing, content)
        return self._said[index]

    def closing(self, completions: Sequence[Completion]) -> Iterable[Json]:
        """Usage, if asked for."""
        if self.include_usage:
            frame = self._frame("chat.completion.chunk")
            yield {**frame, "choices": [], "usage": usage(completions, self.n)}

    def _frame(self, name: str) -> Json:
        return {"id": self.id, "object": name, "created": self.created, "model": self.model}

    def _choice(self, index: int, done: Completion) -> Json:
        said = self.new_splitter().whole(done.text)
        choice: Json = {
            "index": index,
            "message": self._message(said),
            "logprobs": chat_logprobs(self.decoder, done.logprobs),
            "finish_reason": finish_reason(done.finish, len(said.calls)),
        }
        if self.show_prompt_logprobs:
            choice["prompt_logprobs"] = prompt_logprobs(
                self.decoder, done.prompt_ids, done.prompt_logprobs
            )
        return choice

    def _message(self, said: Message) -> Json:
        content = None if said.calls and not said.content else said.content
        message: Json = {"role": "assistant", "content": content, "refusal": None}
        if said.reasoning:
            message["reasoning_content"] = said.reasoning
        if said.calls:
            message["tool_calls"] = [
                {
                    "id": self.new_call_id(),
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in said.calls
            ]
        return message

    def _spelled(self, event: Event) -> Json:
        match event:
            case Said(text):
                return {"content": text}
            case Thought(text):
                return {"reasoning_content": text}
            case CallBegun(index, name):
                function: Json = {"name": name, "arguments": ""}
                call = {"index": index, "id": self.new_call_id(), "type": "function"}
                return {"tool_calls": [{**call, "function": function}]}
            case CallArguments(index, text):
                return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}


def finish_reason(finish: str | None, calls: int) -> str | None:
    """OpenAI's word for how an answer ended; None while it has not."""
    return "tool_calls" if finish == "stop" and calls else finish
