"""What the scheduler deals with: the limits of a step, sequences, and plans. Data only.

`scheduler_plan.plan` reads sequences and makes plans, `scheduler.Scheduler` applies them.
"""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from slipstream.engine.pages import pages_for
from slipstream.engine.prefix import Digest
from slipstream.engine.request import Request

Batching = Literal["continuous", "static", "dynamic"]


@dataclass(frozen=True)
class Limits:
    """What one step may hold, and when requests may join.

    max_batch     sequences running at once
    token_budget  rows (tokens) of one step
    batching      continuous: requests join as soon as there is room; static: all that wait join
                  together and nobody else until the last of them has ended; dynamic: as static,
                  but a batch begins only when it is full or its first has waited `max_wait_s`
    window        positions that a token sees in every attention layer; None: some see all
    """

    max_batch: int
    token_budget: int
    batching: Batching = "continuous"
    max_wait_s: float = 0.0
    window: int | None = None

    def __post_init__(self) -> None:
        assert 1 <= self.max_batch <= self.token_budget, "every running decode needs a row"

    def first_seen(self, position: int) -> int:
        """The first position that the token at `position` sees."""
        return 0 if self.window is None else max(0, position - self.window + 1)

    def reach(self, length: int, cached: int) -> int:
        """The position before which a sequence of `length` tokens needs pages in a step: all of
        it, or what a step can hold where pages behind a window become free on the way."""
        return length if self.window is None else min(length, cached + self.token_budget)

    def pages_most(self, length: int) -> int:
        """The most pages that a sequence of `length` tokens ever holds."""
        if self.window is None:
            return pages_for(length)
        return min(pages_for(length), pages_for(self.window + self.token_budget) + 1)


@dataclass(eq=False)
class Sequence:
    """A request under way: its tokens so far, and how many of them are in the cache.

    arrived_s  by the engine's clock
    level      its priority; lowered when it has waited too long behind better ones
    pages      of its positions in order; GONE where nothing sees them any more
    chain      the digests of the whole pages of `ids`
    named      how many of `pages`, from the first, the prefix index has seen
    gone       how many of `pages`, from the first, are GONE
    found      prompt tokens that were in the cache when it first ran; None: it has not run
    scored     prompt tokens after the first whose log-probability is known, if it is wanted
    rejoins    was set back: it belongs to the batch that runs
    """

    request: Request
    ids: list[int]
    arrived_s: float = 0.0
    level: int = 0
    cached: int = 0
    pages: list[int] = field(default_factory=list)
    chain: list[Digest] = field(default_factory=list)
    named: int = 0
    gone: int = 0
    found: int | None = None
    rejoins: bool = False
    scored: int = 0

    @property
    def rank(self) -> tuple[int, int]:
        """Who keeps its pages: the lower, the longer. Level decides, then arrival."""
        return self.level, self.request.id

    @property
    def pending(self) -> int:
        """Tokens known but not yet in the cache; at least 1. Exactly 1 means decoding."""
        return len(self.ids) - self.cached

    @property
    def answer_length(self) -> int:
        """Tokens of the answer so far: the index of the next one."""
        return len(self.ids) - len(self.request.prompt_ids)

    @property
    def reads_all(self) -> bool:
        """Whether every row of the prompt must be computed: its log-probabilities are wanted."""
        return self.request.params.prompt_logprobs is not None


class Piece(NamedTuple):
    """One sequence's share of a step: `rows` tokens from position `start`.

    samples: the last of them is the last known token, so the step yields the next one
    copies: the page of `start` has other owners, so it writes to a copy of its own
    """

    request_id: int
    start: int
    rows: int
    pages_new: int
    samples: bool
    copies: bool = False


@dataclass(frozen=True)
class Admission:
    """A waiting sequence that joins, with `pages` that hold its first `cached` tokens already."""

    request_id: int
    level: int
    cached: int = 0
    pages: tuple[int, ...] = ()


@dataclass(frozen=True)
class Plan:
    """One step. `wait_s`: nothing is to be done before that many seconds have passed."""

    pieces: tuple[Piece, ...] = ()
    admitted: tuple[Admission, ...] = ()
    preempted: tuple[int, ...] = ()
    wait_s: float | None = None

    @property
    def rows(self) -> int:
        """Tokens that the step computes."""
        return sum(piece.rows for piece in self.pieces)
