"""Answers of Ollama's API: one JSON object, or one a line while the answer grows.

A call is told when it is complete, since its arguments are an object here; durations are in
nanoseconds.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from slipstream.engine.answer import Completion, Delta
from slipstream.engine.codec import Decoder
from slipstream.engine.sampler import TokenLogprob
from slipstream.serve.openai_logprobs import chat_logprobs
from slipstream.serve.replies import Json
from slipstream.serve.splitter import Splitter
from slipstream.serve.stream import Framing, compact
from slipstream.serve.tools.events import Call, CallArguments, CallBegun, Event, Said, Thought


def _line(content: Json) -> bytes:
    return compact(content) + b"\n"


LINES = Framing(
    "application/x-ndjson", _line, lambda refusal: _line({"error": refusal.message}), b""
)


@dataclass
class OllamaReply:
    """A reply. `chat`: a message; otherwise ``response`` has the text."""

    model: str
    decoder: Decoder
    splitter: Splitter
    chat: bool
    framing: Framing = LINES
    _call: Call | None = field(default=None)  # begun and not yet told

    def whole(self, completions: Sequence[Completion]) -> Json:
        """The answer in one object."""
        (done,) = completions
        events = self.splitter.push(done.text) + self.splitter.finish()
        parts = [*self._parts(events), *self._told_call()]
        said = "".join(part.get("content", "") for part in parts)
        thought = "".join(part.get("thinking", "") for part in parts)
        calls = [call for part in parts for call in part.get("tool_calls", ())]
        message: Json = {"content": said}
        if thought:
            message["thinking"] = thought
        if calls:
            message["tool_calls"] = calls
        return {**self._object(message), **self._logprobs(done.logprobs), **_ending(done)}

    def events(self, index: int, delta: Delta) -> Iterable[Json]:
        """One object per piece."""
        events = self.splitter.push(delta.text)
        if delta.finish is not None:
            events += self.splitter.finish()
        parts = self._parts(events)
        if delta.finish is not None:
            parts += self._told_call()
        if not parts and delta.logprobs:
            parts = [{"content": ""}]
        for place, part in enumerate(parts):
            logprobs = self._logprobs(delta.logprobs) if place == 0 else {}
            yield {**self._object({"content": "", **part}), **logprobs, "done": False}

    def closing(self, completions: Sequence[Completion]) -> Iterable[Json]:
        """How it ended, and how long it took."""
        yield {**self._object({"content": ""}), **_ending(completions[0])}

    def _parts(self, events: Iterable[Event]) -> list[Json]:
        """Pieces of messages."""
        parts: list[Json] = []
        for event in events:
            match event:
                case Said(text):
                    parts += [*self._told_call(), {"content": text}]
                case Thought(text):
                    parts.append({"thinking": text})
                case CallBegun(_, name):
                    parts += self._told_call()
                    self._call = Call(name)
                case CallArguments(_, text):
                    assert self._call is not None
                    self._call.arguments += text
        return parts

    def _told_call(self) -> list[Json]:
        """The call that is complete now; as text, if its arguments are no object."""
        call, self._call = self._call, None
        if call is None:
            return []
        try:
            arguments = json.loads(call.arguments, parse_float=_finite)
        except (ValueError, RecursionError):
            return [{"content": f"{call.name}{call.arguments}"}]
        return [{"tool_calls": [{"function": {"name": call.name, "arguments": arguments}}]}]

    def _object(self, part: Json) -> Json:
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        frame = {"model": self.model, "created_at": now}
        if self.chat:
            return {**frame, "message": {"role": "assistant", **part}}
        named = {"thinking": part["thinking"]} if "thinking" in part else {}
        return {**frame, "response": part["content"], **named}

    def _logprobs(self, entries: Sequence[TokenLogprob]) -> Json:
        spelled = chat_logprobs(self.decoder, entries)
        return {} if spelled is None else {"logprobs": spelled["content"]}


def _finite(text: str) -> float:
    """JSON has no infinity, though it has 1e999."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large")
    return value


def loaded(model: str, chat: bool) -> Json:
    """The answer to a request that asks for nothing."""
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    said: Json = {"message": {"role": "assistant", "content": ""}} if chat else {"response": ""}
    return {"model": model, "created_at": now, **said, "done": True, "done_reason": "load"}


def _ending(done: Completion) -> Json:
    times = done.timings
    return {
        "done": True,
        "done_reason": "length" if done.finish == "length" else "stop",
        "total_duration": _ns(times.finished_s - times.arrived_s),
        "load_duration": 0,
        "prompt_eval_count": len(done.prompt_ids),
        "prompt_eval_duration": _ns(times.first_token_s - times.started_s),
        "eval_count": len(done.ids),
        "eval_duration": _ns(times.finished_s - times.first_token_s),
    }


def _ns(seconds: float) -> int:
    return max(0, round(seconds * 1e9))
