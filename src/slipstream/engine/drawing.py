"""Everything between a step's logits and its tokens. `Engine._sample` calls it once per step.

Keeps what requests need from token to token (counts for penalties, the state of a grammar). All of
it follows from a request's tokens so far: forgotten and begun anew, it draws the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from slipstream.engine.beam_rivals import rivals_of
from slipstream.engine.grammar_masks import Bits, GrammarMasks
from slipstream.engine.request import Request
from slipstream.engine.sampler import Row, Sampler, TokenLogprob
from slipstream.engine.sampler_native import fastest_sampler
from slipstream.engine.shaping import Shaping, changes_logits
from slipstream.errors import SlipstreamError

Floats = NDArray[np.float32]


class Tokens(Protocol):
    """A request's tokens so far; the scheduler's `Sequence` is one."""

    request: Request
    ids: list[int]

    @property
    def answer_length(self) -> int:
        """How many of `ids` are the answer's."""
        ...


@dataclass
class Drawn:
    """What a step yields, by request id: a token each, or the reason why there is none."""

    tokens: dict[int, int] = field(default_factory=dict)
    logprobs: dict[int, tuple[TokenLogprob, ...]] = field(default_factory=dict)
    failed: dict[int, SlipstreamError] = field(default_factory=dict)


class Drawer:
    """Draws the next tokens of the requests of one engine, on up to `threads` threads."""

    def __init__(self, threads: int = 1, sampler: Sampler | None = None) -> None:
        self._sampler = sampler or fastest_sampler(threads)
        self._shapings: dict[int, Shaping | None] = {}
        self._masks = GrammarMasks()

    def draw(self, rows: Floats, sequences: Sequence[Tokens]) -> Drawn:
        """One token for each row of float32 [L, V] logits; row i belongs to sequence i."""
        drawn = Drawn()
        ready: list[Row] = []
        of_ready: list[tuple[Request, Floats]] = []
        beams: list[tuple[Request, Floats, Floats, Floats]] = []
        for row, sequence in zip(rows, sequences, strict=True):
            request = sequence.request
            try:
                ranked, shaped = self._shaped(row, sequence)
            except SlipstreamError as error:  # of this request alone: the others go on
                drawn.failed[request.id] = error
                continue
            ready.append(Row(shaped, request.params, request.seed, sequence.answer_length))
            of_ready.append((request, row))
            if request.rivals:
                beams.append((request, row, ranked, shaped))
        for (request, _), token in zip(of_ready, self._sampler.draw(ready), strict=True):
            if isinstance(token, int):
                drawn.tokens[request.id] = token
            else:
                drawn.failed[request.id] = token
        self._look_ahead(sequences, drawn.tokens)
        self._add_logprobs(drawn, of_ready)
        for request, row, ranked, shaped in beams:
            if request.id in drawn.tokens:
                count, top = request.rivals, request.params.top_logprobs
                drawn.logprobs[request.id] = rivals_of(
                    self._sampler, row, ranked, shaped, count=count, top=top
                )
        return drawn

    def score(self, rows: Floats, tokens: Sequence[int], top: int) -> list[TokenLogprob]:
        """How likely `tokens` were under float32 [L, V] logits, each with its `top` rivals."""
        count = min(len(rows), len(tokens))
        return self._sampler.logprobs(list(rows[:count]), tokens[:count], [top] * count)

    def forget(self, request_id: int) -> None:
        """The request has ended."""
        self._shapings.pop(request_id, None)
        self._masks.forget(request_id)

    def _add_logprobs(self, drawn: Drawn, rows: Sequence[tuple[Request, Floats]]) -> None:
        """Log-probabilities come from the logits as the model gave them."""
        drawn.logprobs = dict.fromkeys(drawn.tokens, ())
        wanted = [
            (request.id, logits, request.params.top_logprobs)
            for request, logits in rows
            if request.params.logprobs and not request.rivals and request.id in drawn.tokens
        ]
        if wanted:
            tokens = [drawn.tokens[request_id] for request_id, _, _ in wanted]
            entries = self._sampler.logprobs(
                [logits for _, logits, _ in wanted], tokens, [top for _, _, top in wanted]
            )
            for (request_id, _, _), entry in zip(wanted, entries, strict=True):
                drawn.logprobs[request_id] = (entry,)

    def _shaped(self, row: Floats, sequence: Tokens) -> tuple[Floats, Floats]:
        """(the logits that rank beams, those to draw from: without what is forbidden); both are
        `row` itself where the request changes nothing.
        """
        request, grammar = sequence.request, sequence.request.constraints.grammar
        shaping = self._shaping(request)
        ranked = shaped = row
        if shaping is not None:
            ranked = shaping.change(row, sequence.ids)
            shaped = shaping.forbid(ranked.copy() if request.rivals else ranked, sequence.ids)
        if grammar is not None:
            shaped = _masked(shaped, self._masks.bits(request.id, grammar, _answer_of(sequence)))
        return ranked, shaped

    def _look_ahead(self, sequences: Sequence[Tokens], tokens: Mapping[int, int]) -> None:
        """Has the masks of the next step made while the engine does other things."""
        constrained = [
            s
            for s in sequences
            if s.request.constraints.grammar is not None and not s.request.rivals  # one token each
        ]
        if constrained:
            ids = [(s.request.id, s) for s in constrained if s.request.id in tokens]
            self._masks.prepare({i: [*_answer_of(s), tokens[i]] for i, s in ids})

    def _shaping(self, request: Request) -> Shaping | None:
        if request.id not in self._shapings:
            self._shapings[request.id] = Shaping(request) if changes_logits(request) else None
        return self._shapings[request.id]


def _answer_of(sequence: Tokens) -> list[int]:
    return sequence.ids[len(sequence.request.prompt_ids) :]


def _masked(row: Floats, bits: Bits) -> Floats:
    allowed = np.unpackbits(bits, count=len(row), bitorder="little").view(np.bool_)
    return np.where(allowed, row, np.float32(-np.inf))
