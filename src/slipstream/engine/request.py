"""What a client asks of the engine: a prompt as token ids, and how its answer is to be drawn.

Built by the engine's public methods and by the server; frozen, and checked when built, so that
everything below may trust it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from slipstream.engine.constraints import PLAIN, Constraints
from slipstream.engine.grammar import Grammar
from slipstream.errors import RequestError

FinishReason = Literal["stop", "length", "cancelled", "timeout"]

STOP_STRINGS_MAX = 16
TOP_LOGPROBS_MAX = 20
CHOICES_MAX = 128
BIASES_MAX = 1024
BIAS_MAX = 100.0
BAD_WORDS_MAX = 256
BAD_WORD_CHARACTERS_MAX = 128
BEAM_WIDTH_MAX = 32


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are drawn, and when to stop. RequestError says which field is out of range.

    temperature   0: the most likely token, the lowest id among equals; above 0: a draw
    top_k         keep the k most likely (0: all)
    top_p         keep the fewest most likely tokens whose probabilities reach p (1: all)
    min_p         keep tokens at least min_p as likely as the most likely one (0: all)
    typical_p     keep the fewest tokens that reach p, those of typical surprise first (1: all)
    repetition_penalty  divides the positive logits of tokens in prompt or answer, multiplies
                        the negative ones (1: none)
    presence_penalty    subtracted once from the logit of each token of the answer
    frequency_penalty   subtracted for each time the token is in the answer
    logit_bias    (id, bias) pairs, or a mapping: added to the logits
    allowed_ids   no other token may be drawn (None: all may)
    bad_words     texts whose tokens never appear in a row in the answer
    grammar       what the whole answer must look like
    n             answers to the prompt, each with its own seed
    beam_width    above 1: the likeliest of this many beams instead of a draw
    max_tokens    most tokens of the answer (None: as many as the context holds)
    min_tokens    no end of turn and no stop id before the answer has this many tokens
    stop          strings that end the answer; they are not part of it
    stop_ids      token ids that end it, besides the model's own end of turn
    ignore_eos    do not stop at the model's own end of turn (for benchmarks)
    skip_special  leave control tokens out of the text (off: tool calls may be marked by them)
    seed          the same seed gives the same tokens, whoever else is served (None: a fresh one)
    logprobs      also report each token's log-probability under the unmodified distribution,
    top_logprobs  and those of this many most likely tokens
    prompt_logprobs  also report the prompt's, with this many most likely tokens (None: do not)
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    allowed_ids: frozenset[int] | None = None
    bad_words: tuple[str, ...] = ()
    grammar: Grammar | None = None
    n: int = 1
    beam_width: int = 1
    max_tokens: int | None = None
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    skip_special: bool = True
    seed: int | None = None
    logprobs: bool = False
    top_logprobs: int = 0
    prompt_logprobs: int | None = None

    def __post_init__(self) -> None:
        settle = object.__setattr__  # frozen: only here
        settle(self, "logit_bias", _bias_pairs(self.logit_bias))
        settle(self, "stop", (self.stop,) if isinstance(self.stop, str) else tuple(self.stop))
        words = (self.bad_words,) if isinstance(self.bad_words, str) else tuple(self.bad_words)
        settle(self, "bad_words", words)
        settle(self, "stop_ids", frozenset(self.stop_ids))
        if self.allowed_ids is not None:
            settle(self, "allowed_ids", frozenset(self.allowed_ids))
        self._check_shape()
        self._check_changes()
        self._check_end()

    def _check_shape(self) -> None:
        """What shapes the distribution, and how it is drawn from."""
        _require(math.isfinite(self.temperature) and self.temperature >= 0, "temperature", "≥ 0")
        _require(self.top_k >= 0, "top_k", "≥ 0 (0 keeps all)")
        _require(0 < self.top_p <= 1, "top_p", "in (0, 1]")
        _require(0 <= self.min_p <= 1, "min_p", "in [0, 1]")
        _require(0 < self.typical_p <= 1, "typical_p", "in (0, 1]")
        _require(1 <= self.n <= CHOICES_MAX, "n", f"in 1…{CHOICES_MAX}")
        _require(1 <= self.beam_width <= BEAM_WIDTH_MAX, "beam_width", f"in 1…{BEAM_WIDTH_MAX}")
        _require(self.seed is None or 0 <= self.seed < 2**64, "seed", "in 0…2⁶⁴ - 1")
        _require(
            0 <= self.top_logprobs <= TOP_LOGPROBS_MAX, "top_logprobs", f"in 0…{TOP_LOGPROBS_MAX}"
        )
        _require(self.logprobs or not self.top_logprobs, "top_logprobs", "0 unless logprobs is set")
        _require(
            self.prompt_logprobs is None or 0 <= self.prompt_logprobs <= TOP_LOGPROBS_MAX,
            "prompt_logprobs",
            f"in 0…{TOP_LOGPROBS_MAX}",
        )

    def _check_changes(self) -> None:
        """What changes the logits of single tokens, or forbids them."""
        _require(
            0.01 <= self.repetition_penalty <= 10, "repetition_penalty", "in [0.01, 10] (1: none)"
        )
        _require(-2 <= self.presence_penalty <= 2, "presence_penalty", "in [-2, 2]")
        _require(-2 <= self.frequency_penalty <= 2, "frequency_penalty", "in [-2, 2]")
        ids = [i for i, _ in self.logit_bias]
        _require(len(ids) <= BIASES_MAX, "logit_bias", f"at most {BIASES_MAX} entries")
        _require(len(set(ids)) == len(ids), "logit_bias", "one entry for each token id")
        _require(all(i >= 0 for i in ids), "logit_bias", "of token ids ≥ 0")
        _require(
            all(-BIAS_MAX <= b <= BIAS_MAX for _, b in self.logit_bias),
            "logit_bias",
            f"in [-{BIAS_MAX:.0f}, {BIAS_MAX:.0f}]",
        )
        allowed = self.allowed_ids
        _require(allowed is None or bool(allowed), "allowed_ids", "a set of at least one id")
        _require(all(i >= 0 for i in allowed or ()), "allowed_ids", "token ids ≥ 0")
        _require(all(self.bad_words), "bad_words", "made of strings that are not empty")
        _require(
            len(self.bad_words) <= BAD_WORDS_MAX, "bad_words", f"at most {BAD_WORDS_MAX} strings"
        )
        _require(
            all(len(word) <= BAD_WORD_CHARACTERS_MAX for word in self.bad_words),
            "bad_words",
            f"strings of at most {BAD_WORD_CHARACTERS_MAX} characters",
        )

    def _check_end(self) -> None:
        """When the answer may end, and when it must."""
        _require(self.max_tokens is None or self.max_tokens >= 1, "max_tokens", "≥ 1")
        _require(self.min_tokens >= 0, "min_tokens", "≥ 0")
        _require(
            self.max_tokens is None or self.min_tokens <= self.max_tokens,
            "min_tokens",
            "at most max_tokens",
        )
        _require(all(i >= 0 for i in self.stop_ids), "stop_ids", "token ids ≥ 0")
        _require(all(self.stop), "stop", "made of strings that are not empty")
        _require(len(self.stop) <= STOP_STRINGS_MAX, "stop", f"at most {STOP_STRINGS_MAX} strings")
        if self.grammar is not None:
            _require(not self.min_tokens, "min_tokens", "0 with a grammar, which says when to end")
            _require(not self.ignore_eos, "ignore_eos", "off with a grammar, which ends with it")


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
    answered    how many of the prompt's last ids a beam has answered already: for what counts them
    rivals      above 0: name so many tokens that may come next, see `beam_rivals.py`
    constraints  what of `params` needed the tokenizer
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
    answered: int = 0
    rivals: int = 0
    constraints: Constraints = PLAIN

    @property
    def length_max(self) -> int:
        """The most positions that prompt and answer may take."""
        return len(self.prompt_ids) + self.max_tokens


def _bias_pairs(
    bias: Mapping[int, float] | tuple[tuple[int, float], ...],
) -> tuple[tuple[int, float], ...]:
    pairs = bias.items() if isinstance(bias, Mapping) else bias
    try:
        return tuple(sorted((int(i), float(value)) for i, value in pairs))
    except (TypeError, ValueError) as error:
        raise RequestError("logit_bias must map token ids to numbers") from error


def _require(condition: bool, field: str, rule: str) -> None:
    if not condition:
        raise RequestError(f"{field} must be {rule}")
