"""Everything between a step's logits and its tokens. `Engine._sample` calls it once per step.

Keeps what requests need from token to token (counts for penalties, the state of a grammar). All of
it follows from a request's tokens so far: forgotten and begun anew, it draws the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from slipstream.engine.grammar_masks import Bits, GrammarMasks
from slipstream.engine.request import Request
from slipstream.engine.sampler import TokenLogprob, logprob, sample
from slipstream.engine.shaping import Shaping, changes_logits
from slipstream.errors import RequestError, SlipstreamError

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
    """Draws the next tokens of the requests of one engine."""

    def __init__(self) -> None:
        self._shapings: dict[int, Shaping | None] = {}
        self._masks = GrammarMasks()

    def draw(self, rows: Floats, sequences: Sequence[Tokens]) -> Drawn:
        """One token for each row of float32 [L, V] logits; row i belongs to sequence i."""
        drawn = Drawn()
        for row, sequence in zip(rows, sequences, strict=True):
            request = sequence.request
            try:
                drawn.tokens[request.id] = token = self._token(row, sequence)
            except SlipstreamError as error:  # of this request alone: the others go on
                drawn.failed[request.id] = error
                continue
            drawn.logprobs[request.id] = _logprobs(row, token, request)
        self._look_ahead(sequences, drawn.tokens)
        return drawn

    def forget(self, request_id: int) -> None:
        """The request has ended."""
        self._shapings.pop(request_id, None)
        self._masks.forget(request_id)

    def _token(self, row: Floats, sequence: Tokens) -> int:
        request = sequence.request
        shaped = self._shaped(row, sequence)
        if shaped is not row and shaped.max() == -np.inf:
            raise RequestError("no token is left here: the answer's constraints contradict")
        return sample(shaped, request.params, request.seed, sequence.answer_length)

    def _shaped(self, row: Floats, sequence: Tokens) -> Floats:
        """The logits to draw from: `row` itself where the request changes nothing."""
        request, grammar = sequence.request, sequence.request.constraints.grammar
        shaping = self._shaping(request)
        shaped = row if shaping is None else shaping.apply(row, sequence.ids)
        if grammar is not None:
            shaped = _masked(shaped, self._masks.bits(request.id, grammar, _answer_of(sequence)))
        return shaped

    def _look_ahead(self, sequences: Sequence[Tokens], tokens: Mapping[int, int]) -> None:
        """Has the masks of the next step made while the engine does other things."""
        constrained = [s for s in sequences if s.request.constraints.grammar is not None]
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


def _logprobs(row: Floats, token: int, request: Request) -> tuple[TokenLogprob, ...]:
    params = request.params
    return (logprob(row, token, params.top_logprobs),) if params.logprobs else ()
