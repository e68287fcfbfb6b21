"""Answers as OpenAI's API spells them: whole, and in chunks.

A `Reply` knows the two shapes (chat, plain completion) and fills in what deltas bring. It decides
nothing and waits for nothing.
"""

import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from slipstream.engine.answer import Completion, Delta
from slipstream.engine.codec import Decoder
from slipstream.engine.sampler import TokenLogprob

Json = dict[str, Any]
Kind = Literal["chat", "completion"]

PREFIXES: dict[Kind, str] = {"chat": "chatcmpl-", "completion": "cmpl-"}


@dataclass(frozen=True)
class Reply:
    """The frame of one answer: its id, its time, its model, and how tokens are spelled."""

    kind: Kind
    model: str
    decoder: Decoder
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, completions: Sequence[Completion]) -> Json:
        """A response object with one choice per completion."""
        name = "chat.completion" if self.kind == "chat" else "text_completion"
        choices = [self._choice(index, done) for index, done in enumerate(completions)]
        return {**self._frame(name), "choices": choices, "usage": usage(completions)}

    def chunk(self, index: int, delta: Delta, first: bool) -> Json:
        """One event of a stream; `first` of its choice: it says who speaks."""
        name = "chat.completion.chunk" if self.kind == "chat" else "text_completion"
        choice: Json = {
            "index": index,
            "logprobs": self._logprobs(delta.logprobs),
            "finish_reason": delta.finish,
        }
        if self.kind == "chat":
            said: Json = {"content": delta.text} if delta.text or delta.ids else {}
            choice["delta"] = {"role": "assistant", **said} if first else said
        else:
            choice["text"] = delta.text
        return {**self._frame(name), "choices": [choice]}

    def usage_chunk(self, usage: Json) -> Json:
        """The last event of a stream that was asked for usage."""
        name = "chat.completion.chunk" if self.kind == "chat" else "text_completion"
        return {**self._frame(name), "choices": [], "usage": usage}

    def _frame(self, name: str) -> Json:
        return {
            "id": PREFIXES[self.kind] + self.id,
            "object": name,
            "created": self.created,
            "model": self.model,
        }

    def _choice(self, index: int, done: Completion) -> Json:
        choice: Json = {
            "index": index,
            "logprobs": self._logprobs(done.logprobs),
            "finish_reason": done.finish,
        }
        if self.kind == "chat":
            choice["message"] = {"role": "assistant", "content": done.text, "refusal": None}
        else:
            choice["text"] = done.text
        return choice

    def _logprobs(self, entries: Sequence[TokenLogprob]) -> Json | None:
        if not entries:
            return None
        if self.kind == "chat":
            return {"content": [self._chat_entry(entry) for entry in entries], "refusal": None}
        texts = [self._text(entry.id) for entry in entries]
        return {
            "tokens": texts,
            "token_logprobs": [entry.logprob for entry in entries],
            "top_logprobs": [{self._text(i): p for i, p in entry.top} for entry in entries],
            "text_offset": [sum(map(len, texts[:index])) for index in range(len(texts))],
        }

    def _chat_entry(self, entry: TokenLogprob) -> Json:
        top = [self._token(token, value) for token, value in entry.top]
        return {**self._token(entry.id, entry.logprob), "top_logprobs": top}

    def _token(self, token: int, value: float) -> Json:
        text = self._text(token)
        whole = "\ufffd" not in text  # otherwise its bytes are part of a character
        return {"token": text, "logprob": value, "bytes": list(text.encode()) if whole else None}

    def _text(self, token: int) -> str:
        return self.decoder.decode([token], skip_special=False)


def usage(completions: Iterable[Completion]) -> Json:
    """Tokens read and written, over all choices."""
    counts = [(len(done.prompt_ids), len(done.ids)) for done in completions]
    read, written = (sum(column) for column in zip(*counts, strict=True))
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
    }
