"""From a prompt and its parameters to a `Request`: checked, completed and numbered.

`Engine.request` and `Engine.requests` are its only callers. It refuses what the engine could not
answer, so that whatever has become a `Request` can be run.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from slipstream.engine.codec import TextCodec
from slipstream.engine.constrain import Constrainer
from slipstream.engine.constraints import Constraints
from slipstream.engine.noise import choice_seed
from slipstream.engine.request import Request, SamplingParams
from slipstream.errors import PromptTooLongError, RequestError

Prompt = str | Sequence[int]

PRIORITY_LIMIT = 1_000_000
KEY_LENGTH_MAX = 256


@dataclass(frozen=True)
class Terms:
    """How a request is to be treated, apart from its tokens; see `Request`.

    timeout_s  from now until the answer ends, finished or not
    """

    priority: int = 0
    timeout_s: float | None = None
    key: str = ""
    adapter: str | None = None

    def __post_init__(self) -> None:
        if abs(self.priority) > PRIORITY_LIMIT:
            raise RequestError(f"priority must be in -{PRIORITY_LIMIT}…{PRIORITY_LIMIT}")
        if self.timeout_s is not None and not (0 < self.timeout_s < math.inf):
            raise RequestError("timeout_s must be above 0 and finite")
        if len(self.key) > KEY_LENGTH_MAX:
            raise RequestError(f"key must have at most {KEY_LENGTH_MAX} characters")


class Intake:
    """Makes requests for one engine."""

    def __init__(
        self,
        tokenizer: TextCodec,
        vocabulary: int,
        context: int,
        *,
        clock: Callable[[], float],
        fresh_seed: Callable[[], int],
    ) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._context = context
        self._clock = clock
        self._fresh_seed = fresh_seed
        self._constrainer = Constrainer(tokenizer, vocabulary)
        self._ids = count(1)

    def request(
        self, prompt: Prompt, params: SamplingParams, terms: Terms, choice: int = 0
    ) -> Request:
        """The request of one answer. RequestError and PromptTooLongError say what is wrong."""
        ids = self.prompt_ids(prompt)
        room = self._room(ids, params)
        seed = self._fresh_seed() if params.seed is None else params.seed
        return Request(
            id=next(self._ids),
            prompt_ids=ids,
            params=params,
            seed=choice_seed(seed, choice),
            max_tokens=min(room, params.max_tokens or room),
            stop_ids=params.stop_ids
            | (frozenset() if params.ignore_eos else self._tokenizer.eos_ids),
            priority=terms.priority,
            deadline_s=None if terms.timeout_s is None else self._clock() + terms.timeout_s,
            key=terms.key,
            adapter=terms.adapter,
            constraints=self._constrainer.constraints(params),
        )

    def siblings(self, prompt: Prompt, params: SamplingParams, terms: Terms) -> list[Request]:
        """`params.n` requests that share a prompt: the first leads, the others use its pages."""
        leader = self.request(prompt, params, terms)
        return [leader] + [
            replace(
                leader,
                id=next(self._ids),
                seed=choice_seed(leader.seed, choice),  # choice 0 has the seed itself
                leader=leader.id,
            )
            for choice in range(1, params.n)
        ]

    def step(
        self, leader: Request, answer: tuple[int, ...], rivals: int, constraints: Constraints
    ) -> Request:
        """A request of the one token that follows `answer`, a beam of `leader`."""
        params = replace(
            leader.params,
            beam_width=1,
            n=1,
            max_tokens=None,
            stop=(),  # beams watch their texts themselves
            prompt_logprobs=None if answer else leader.params.prompt_logprobs,
        )
        return replace(
            leader,
            id=next(self._ids),
            prompt_ids=leader.prompt_ids + answer,
            params=params,
            max_tokens=1,
            answered=len(answer),
            rivals=rivals,
            constraints=constraints,
        )

    def prompt_ids(self, prompt: Prompt) -> tuple[int, ...]:
        """The prompt's token ids, at least one and all within the vocabulary."""
        ids: Sequence[Any] = self._tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        if not len(ids):
            raise RequestError("the prompt has no tokens; give at least one")
        if not 0 <= min(ids) <= max(ids) < self._vocabulary:
            raise RequestError(f"token ids of the prompt must be in 0…{self._vocabulary - 1}")
        return tuple(int(i) for i in ids)

    def _room(self, ids: Sequence[int], params: SamplingParams) -> int:
        """The most tokens an answer to `ids` may have."""
        context, wanted = self._context, params.max_tokens or 1
        if len(ids) + wanted > context:
            raise PromptTooLongError(
                f"the prompt has {len(ids)} tokens and {wanted} are asked for as an answer; "
                f"together {len(ids) + wanted} of at most {context}. Shorten one of them"
            )
        return context - len(ids)
