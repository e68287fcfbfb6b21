"""Answers of ``/v1/responses``: the response object, whole or told in named events."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from slipstream.engine.answer import Completion, Delta
from slipstream.engine.codec import TextCodec
from slipstream.serve.refusal import Refusal
from slipstream.serve.replies import Json, fresh_id
from slipstream.serve.responses_output import OutputItems
from slipstream.serve.responses_request import ResponsesRequest
from slipstream.serve.splitter import Splitter
from slipstream.serve.stream import Framing, compact


def _named(content: Json) -> bytes:
    return f"event: {content['type']}\ndata: ".encode() + compact(content) + b"\n\n"


def _failed(refusal: Refusal) -> bytes:
    error = refusal.body()["error"]
    told = {"code": error["code"], "message": error["message"], "param": error["param"]}
    return _named({"type": "error", **told, "sequence_number": 0})


NAMED_EVENTS = Framing("text/event-stream", _named, _failed, b"")


@dataclass
class ResponsesReply:
    """A reply. `keep` is called with the finished response, to store it."""

    model: str
    asked: ResponsesRequest
    codec: TextCodec
    splitter: Splitter
    output: OutputItems
    keep: Callable[[Json], None]
    id: str = field(default_factory=lambda: fresh_id("resp_"))
    created: int = field(default_factory=lambda: int(time.time()))
    framing: Framing = NAMED_EVENTS
    _told: int = 0

    def whole(self, completions: Sequence[Completion]) -> Json:
        """The response object."""
        (done,) = completions
        self.output.push(self.splitter.push(done.text) + self.splitter.finish())
        return self._finished(done)[1]

    def events(self, index: int, delta: Delta) -> Iterable[Json]:
        """What the delta adds; before the first one, that the response exists."""
        if not self._told:
            for name in ("response.created", "response.in_progress"):
                yield self._numbered({"type": name, "response": self._object("in_progress")})
        events = self.splitter.push(delta.text)
        if delta.finish is not None:
            events += self.splitter.finish()
        for told in self.output.push(events):
            yield self._numbered(told)

    def closing(self, completions: Sequence[Completion]) -> Iterable[Json]:
        """The end of the open item and of the response."""
        told, response = self._finished(completions[0])
        for event in told:
            yield self._numbered(event)
        name = f"response.{response['status']}"
        yield self._numbered({"type": name, "response": response})

    def _finished(self, done: Completion) -> tuple[list[Json], Json]:
        """(the last events about items, the response object), which is kept."""
        status = "incomplete" if done.finish == "length" else "completed"
        told = self.output.close(status)
        response = self._object(status)
        response["output"] = self.output.items
        response["usage"] = self._usage(done)
        if status == "incomplete":
            response["incomplete_details"] = {"reason": "max_output_tokens"}
        self.keep(response)
        return told, response

    def _numbered(self, event: Json) -> Json:
        self._told += 1
        return {**event, "sequence_number": self._told - 1}

    def _usage(self, done: Completion) -> Json:
        read, written = len(done.prompt_ids), len(done.ids)
        thought = len(self.codec.encode(self.output.reasoning, special=False))
        return {
            "input_tokens": read,
            "input_tokens_details": {"cached_tokens": done.cached_tokens},
            "output_tokens": written,
            "output_tokens_details": {"reasoning_tokens": min(thought, written)},
            "total_tokens": read + written,
        }

    def _object(self, status: str) -> Json:
        """The response object, with what the client asked for repeated as the API wants it."""
        sent = self.asked.model_dump(mode="json", by_alias=True, exclude_none=True)
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "instructions": self.asked.instructions,
            "max_output_tokens": self.asked.max_output_tokens,
            "metadata": self.asked.metadata or {},
            "model": self.model,
            "output": [],
            "parallel_tool_calls": self.asked.parallel_tool_calls is not False,
            "previous_response_id": self.asked.previous_response_id,
            "reasoning": {"effort": None, "summary": None},
            "store": self.asked.store is not False,
            "temperature": sent.get("temperature", 1.0),
            "text": {"format": {"type": "text"}, **sent.get("text", {})},
            "tool_choice": sent.get("tool_choice", "auto"),
            "tools": [_tool(tool) for tool in sent.get("tools", [])],
            "top_p": sent.get("top_p", 1.0),
            "truncation": "disabled",
            "usage": None,
            "user": self.asked.user,
        }


def _tool(sent: Json) -> Json:
    return {"parameters": {}, "strict": False, **sent}
