"""What the scheduler deals with: the limits of a step, sequences, and plans. Data only.

`scheduler_plan.plan` reads sequences and makes plans, `scheduler.Scheduler` applies them.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

from slipstream.engine.pages import pages_for
from slipstream.engine.prefix import Digest
from slipstream.engine.request import Request

Batching = Literal["continuous", "static", "dynamic"]


@dataclass(frozen=True)
class Sight:
    """How far the tokens of one kind of attention see, and which pages they need for it.

    window        positions that a token sees, itself included; None: all before it
    token_budget  rows of one step
    """

    window: int | None
    token_budget: int

    def first_seen(self, position: int) -> int:
        """The first position that the token at `position` sees."""
        return 0 if self.window is None else max(0, position - self.window + 1)

    def reach(self, length: int, cached: int) -> int:
        """The position before which a sequence of `length` tokens needs pages in a step: all of
        it, or what a step can hold where pages behind a window become free on the way.
        """
        return length if self.window is None else min(length, cached + self.token_budget)

    def pages_most(self, length: int) -> int:
        """The most pages that a sequence of `length` tokens ever holds."""
        if self.window is None:
            return pages_for(length)
        return min(pages_for(length), pages_for(self.window + self.token_budget) + 1)


@dataclass(frozen=True)
class Limits:
    """What one step may hold, and when requests may join.

    max_batch     sequences running at once
    token_budget  rows (tokens) of one step
    batching      continuous: requests join as soon as there is room; static: all that wait join
                  together and nobody else until the last of them has ended; dynamic: as static,
                  but a batch begins only when it is full or its first has waited `max_wait_s`
    windows       of each kind of attention (`Graph.windows`), which has pages of its own
    """

    max_batch: int
    token_budget: int
    batching: Batching = "continuous"
    max_wait_s: float = 0.0
    windows: tuple[int | None, ...] = (None,)

    def __post_init__(self) -> None:
        assert 1 <= self.max_batch <= self.token_budget, "every running decode needs a row"

    @cached_property
    def sights(self) -> tuple[Sight, ...]:
        """What each kind of attention sees."""
        return tuple(Sight(window, self.token_budget) for window in self.windows)


@dataclass(eq=False)
class Sequence:
    """A request under way: its tokens so far, and how many of them are in the cache.

    arrived_s  by the engine's clock
    level      its priority; lowered when it has waited too long behind better ones
    pages      for each kind of attention, of its positions in order; GONE where nothing sees them
               any more; empty while it waits
    chain      the digests of the whole pages of `ids`
    named      how many pages of each kind, from the first, the prefix index has seen
    gone       how many pages, from the first, are GONE, for each kind
    found      prompt tokens that were in the cache when it first ran; None: it has not run
    scored     prompt tokens after the first whose log-probability is known, if it is wanted
    rejoins    was set back: it belongs to the batch that runs
    """

    request: Request
    ids: list[int]
    arrived_s: float = 0.0
    level: int = 0
    cached: int = 0
    pages: list[list[int]] = field(default_factory=list)
    chain: list[Digest] = field(default_factory=list)
    named: int = 0
    gone: list[int] = field(default_factory=list)
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

    pages_new: how many it takes of each kind of attention; empty: none
    samples: the last of them is the last known token, so the step yields the next one
    copies: the kinds in which the page of `start` has other owners, so that it writes to a copy
    """

    request_id: int
    start: int
    rows: int
    pages_new: tuple[int, ...]
    samples: bool
    copies: tuple[int, ...] = ()


@dataclass(frozen=True)
class Admission:
    """A waiting sequence that joins, with `pages` of each kind of attention that hold its first
    `cached` tokens already.
    """

    request_id: int
    level: int
    cached: int
    pages: tuple[tuple[int, ...], ...]


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
