"""Answers of ``/v1/completions``: whole, and in chunks."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from slipstream.engine.answer import Completion, Delta
from slipstream.engine.codec import Decoder
from slipstream.engine.sampler import TokenLogprob
from slipstream.serve.openai_logprobs import completion_logprobs, prompt_logprobs
from slipstream.serve.replies import Json, fresh_id, usage
from slipstream.serve.stream import HOLE, SERVER_SENT, Framing, Template


@dataclass
class CompletionReply:
    """A reply. `echoes` are the prompts' texts, one per answer, where the client wants them back.

    `logprobs` asks for those of an echoed prompt too; `include_usage` ends a stream with usage;
    `prompt_ids` are each answer's own.
    """

    model: str
    decoder: Decoder
    prompt_ids: Sequence[tuple[int, ...]]
    n: int = 1
    include_usage: bool = False
    echoes: Sequence[str] | None = None
    show_prompt_logprobs: bool = False
    id: str = field(default_factory=lambda: fresh_id("cmpl-"))
    created: int = field(default_factory=lambda: int(time.time()))
    framing: Framing = SERVER_SENT
    _lengths: dict[int, int] = field(default_factory=dict)  # characters given out, by answer
    _plain: dict[int, Template] = field(default_factory=dict)  # chunks with nothing but text

    def whole(self, completions: Sequence[Completion]) -> Json:
        """A response object with one choice per completion."""
        choices = [self._choice(index, done, done.text) for index, done in enumerate(completions)]
        return {**self._frame(), "choices": choices, "usage": usage(completions, self.n)}

    def events(self, index: int, delta: Delta) -> Iterable[Json | bytes]:
        """A chunk, unless there is nothing to show in it."""
        if index in self._plain and not delta.logprobs and delta.finish is None:
            if delta.text:
                self._lengths[index] += len(delta.text)
                yield self._plain[index].filled(delta.text)
            return
        first = index not in self._lengths
        if not (first or delta.text or delta.logprobs or delta.finish):
            return
        choice = self._choice(index, delta, delta.text, first)
        self._lengths[index] = self._lengths.get(index, 0) + len(choice["text"])
        yield {**self._frame(), "choices": [choice]}
        if first and not delta.logprobs:
            bare = self._choice(index, Delta(delta.request_id, (), ""), HOLE, first=False)
            self._plain[index] = Template(self.framing, {**self._frame(), "choices": [bare]})

    def closing(self, completions: Sequence[Completion]) -> Iterable[Json]:
        """Usage, if asked for."""
        if self.include_usage:
            yield {**self._frame(), "choices": [], "usage": usage(completions, self.n)}

    def _frame(self) -> Json:
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
        }

    def _choice(self, index: int, part: Completion | Delta, text: str, first: bool = True) -> Json:
        echo = self.echoes[index] if self.echoes is not None and first else ""
        ids: list[int] = list(part.ids)
        entries: list[TokenLogprob | None] = list(part.logprobs)
        if echo and entries and part.prompt_logprobs is not None:
            ids[:0] = self.prompt_ids[index]
            entries[:0] = [None, *part.prompt_logprobs]
        offset = self._lengths.get(index, 0)
        choice: Json = {
            "index": index,
            "text": echo + text,
            "logprobs": completion_logprobs(self.decoder, entries, ids, offset),
            "finish_reason": part.finish,
        }
        if self.show_prompt_logprobs and first:
            choice["prompt_logprobs"] = prompt_logprobs(
                self.decoder, self.prompt_ids[index], part.prompt_logprobs
            )
        return choice
