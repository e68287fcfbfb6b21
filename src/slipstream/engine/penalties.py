"""Penalties on tokens that were there before, and the counts that they need.

    repetition  l / p for l > 0, else l · p, for tokens of prompt and answer (Keskar et al., 2019)
    frequency   l - f · count, over the answer only, as OpenAI defines it
    presence    l - p where the count is above 0, likewise

All in float32, in this order, one token independent of the others. The counts are a function of the
ids: they follow them as they grow, and begin again if they became fewer.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from slipstream.engine.request import SamplingParams

Floats = NDArray[np.float32]


class Tally:
    """How often each token occurs: its ids in order of first sight, and their counts."""

    def __init__(self) -> None:
        self._places: dict[int, int] = {}
        self._ids = np.empty(64, np.int64)
        self._counts = np.empty(64, np.float32)

    @property
    def ids(self) -> NDArray[np.int64]:
        """int64 [U]: the distinct tokens."""
        return self._ids[: len(self._places)]

    @property
    def counts(self) -> Floats:
        """float32 [U]: how often each occurs."""
        return self._counts[: len(self._places)]

    def add(self, token: int) -> None:
        """Counts one more."""
        place = self._places.get(token)
        if place is None:
            place = self._places[token] = len(self._places)
            if place == len(self._ids):
                self._grow()
            self._ids[place], self._counts[place] = token, 0
        self._counts[place] += 1

    def _grow(self) -> None:
        self._ids = np.concatenate([self._ids, np.empty_like(self._ids)])
        self._counts = np.concatenate([self._counts, np.empty_like(self._counts)])


class Penalties:
    """The penalties of one request."""

    def __init__(self, params: SamplingParams, prompt_length: int) -> None:
        self._repetition = np.float32(params.repetition_penalty)
        self._frequency = np.float32(params.frequency_penalty)
        self._presence = np.float32(params.presence_penalty)
        self._prompt_length = prompt_length
        self._begin()

    def _begin(self) -> None:
        self._known = 0
        self._all, self._answer = Tally(), Tally()

    def apply(self, logits: Floats, ids: Sequence[int]) -> None:
        """Changes float32 [V] logits in place; `ids` are prompt and answer so far."""
        self._follow(ids)
        if self._repetition != 1:
            seen = self._all.ids
            values = logits[seen]
            logits[seen] = np.where(
                values > 0, values / self._repetition, values * self._repetition
            )
        if self._frequency or self._presence:
            said = self._answer.ids
            logits[said] -= self._frequency * self._answer.counts
            logits[said] -= self._presence

    def _follow(self, ids: Sequence[int]) -> None:
        if len(ids) < self._known:
            self._begin()
        for position in range(self._known, len(ids)):
            if self._repetition != 1:
                self._all.add(ids[position])
            if position >= self._prompt_length:
                self._answer.add(ids[position])
        self._known = len(ids)
