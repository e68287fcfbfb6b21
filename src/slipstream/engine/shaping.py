"""What changes one request's logits before a token is drawn: always the same steps in one order.

    logits → + logit bias → penalties → only allowed ids → no bad words → no end before min tokens
           → only what the grammar allows

Forbidden tokens get -inf. The drawer keeps one `Shaping` for each request that asks for any of it.
Its result is a function of the logits and of the tokens so far, whatever happened in between.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from slipstream.engine.penalties import Penalties
from slipstream.engine.request import Request, SamplingParams
from slipstream.engine.words import completing_ids, tail_length

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]

FORBIDDEN = np.float32(-np.inf)


def changes_logits(request: Request) -> bool:
    """Whether `request` needs a `Shaping`; most do not."""
    params = request.params
    return bool(
        params.logit_bias
        or penalizes(params)
        or params.allowed_ids is not None
        or request.constraints.bad_words
        or params.min_tokens
    )


def penalizes(params: SamplingParams) -> bool:
    """Whether any penalty is set."""
    penalties = (params.repetition_penalty != 1, params.presence_penalty, params.frequency_penalty)
    return any(penalties)


class Shaping:
    """The changes that one request asks for."""

    def __init__(self, request: Request) -> None:
        params = request.params
        self._prompt_length = len(request.prompt_ids) - request.answered
        self._bias_ids = np.array([i for i, _ in params.logit_bias], np.int64)
        self._biases = np.array([bias for _, bias in params.logit_bias], np.float32)
        self._penalties = Penalties(params, self._prompt_length) if penalizes(params) else None
        self._allowed = None if params.allowed_ids is None else _sorted_ids(params.allowed_ids)
        self._bad_words = request.constraints.bad_words
        self._bad_tail = tail_length(self._bad_words)
        self._min_tokens = params.min_tokens
        self._ends = _sorted_ids(request.stop_ids)

    def apply(self, logits: Floats, ids: Sequence[int]) -> Floats:
        """A changed copy of float32 [V] logits; `ids` are prompt and answer so far."""
        return self.forbid(self.change(logits, ids), ids)

    def change(self, logits: Floats, ids: Sequence[int]) -> Floats:
        """The first half, what makes tokens more or less likely: a copy."""
        shaped = logits.copy()
        shaped[self._bias_ids] += self._biases
        if self._penalties is not None:
            self._penalties.apply(shaped, ids)
        return shaped

    def forbid(self, shaped: Floats, ids: Sequence[int]) -> Floats:
        """The second half, in place: -inf for what must not come now."""
        if self._allowed is not None:
            allowed = shaped[self._allowed]
            shaped.fill(FORBIDDEN)
            shaped[self._allowed] = allowed
        answer_length = len(ids) - self._prompt_length
        if self._bad_words:
            tail = ids[len(ids) - min(answer_length, self._bad_tail) :]
            _forbid(shaped, np.array(completing_ids(self._bad_words, tail), np.int64))
        if answer_length < self._min_tokens:
            _forbid(shaped, self._ends)
        return shaped


def _forbid(logits: Floats, ids: Ids) -> None:
    """A tokenizer may know ids that the model has no logits for."""
    logits[ids[ids < len(logits)]] = FORBIDDEN


def _sorted_ids(ids: frozenset[int]) -> Ids:
    return np.array(sorted(ids), np.int64)
