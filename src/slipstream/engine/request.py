"""What a client asks of the engine: a prompt as token ids, and how its answer is to be drawn.

Built by the engine's public methods and by the server; frozen, and checked when built, so that
everything below may trust it.
"""

import math
from dataclasses import dataclass
from typing import Literal

from slipstream.errors import RequestError

FinishReason = Literal["stop", "length", "cancelled", "timeout"]

STOP_STRINGS_MAX = 16
TOP_LOGPROBS_MAX = 20


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are drawn, and when to stop. RequestError says which field is out of range.

    temperature   0: the most likely token, the lowest id among equals; above 0: a draw
    top_k         keep the k most likely (0: all)
    top_p         keep the fewest most likely tokens whose probabilities reach p (1: all)
    min_p         keep tokens at least min_p as likely as the most likely one (0: all)
    max_tokens    most tokens of the answer (None: as many as the context holds)
    stop          strings that end the answer; they are not part of it
    stop_ids      token ids that end it, besides the model's own end of turn
    ignore_eos    do not stop at the model's own end of turn (for benchmarks)
    seed          the same seed gives the same tokens, whoever else is served (None: a fresh one)
    logprobs      also report each token's log-probability under the unmodified distribution,
    top_logprobs  and those of this many most likely tokens
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    stop_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    seed: int | None = None
    logprobs: bool = False
    top_logprobs: int = 0

    def __post_init__(self) -> None:
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        object.__setattr__(self, "stop", stop)
        object.__setattr__(self, "stop_ids", frozenset(self.stop_ids))
        self._check()

    def _check(self) -> None:
        _require(math.isfinite(self.temperature) and self.temperature >= 0, "temperature", "≥ 0")
        _require(self.top_k >= 0, "top_k", "≥ 0 (0 keeps all)")
        _require(0 < self.top_p <= 1, "top_p", "in (0, 1]")
        _require(0 <= self.min_p <= 1, "min_p", "in [0, 1]")
        _require(self.max_tokens is None or self.max_tokens >= 1, "max_tokens", "≥ 1")
        _require(all(self.stop), "stop", "made of strings that are not empty")
        _require(len(self.stop) <= STOP_STRINGS_MAX, "stop", f"at most {STOP_STRINGS_MAX} strings")
        _require(self.seed is None or 0 <= self.seed < 2**64, "seed", "in 0…2⁶⁴ - 1")
        _require(
            0 <= self.top_logprobs <= TOP_LOGPROBS_MAX, "top_logprobs", f"in 0…{TOP_LOGPROBS_MAX}"
        )
        _require(self.logprobs or not self.top_logprobs, "top_logprobs", "0 unless logprobs is set")


@dataclass(frozen=True)
class Request:
    """A prompt accepted by the engine. Every choice is made: nothing here is left to a default.

    id          counts up in order of arrival
    seed        of the noise; token i of the answer depends on (seed, i) alone
    max_tokens  prompt and answer together fit the context
    stop_ids    the ids that end the answer, the model's own included where they apply
    priority    the lower, the earlier it runs
    deadline_s  by the engine's clock; once it has passed the answer ends with "timeout"
    key         the account that fair shares are kept for
    adapter     the LoRA adapter it runs with
    leader      the id of the sibling (same prompt and adapter) whose prompt pages it shares
    """

    id: int
    prompt_ids: tuple[int, ...]
    params: SamplingParams
    seed: int
    max_tokens: int
    stop_ids: frozenset[int] = frozenset()
    priority: int = 0
    deadline_s: float | None = None
    key: str = ""
    adapter: str | None = None
    leader: int | None = None

    @property
    def length_max(self) -> int:
        """The most positions that prompt and answer may take."""
        return len(self.prompt_ids) + self.max_tokens


def _require(condition: bool, field: str, rule: str) -> None:
    if not condition:
        raise RequestError(f"{field} must be {rule}")
