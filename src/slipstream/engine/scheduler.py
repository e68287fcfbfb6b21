"""Decides what each step runs, then keeps the books. The decision is pure: no clock, no model.

    plan = scheduler.plan()          what to run, whom to admit, whom to set back; changes nothing
    scheduler.begin(plan)            takes the pages that the plan needs
    ... the engine runs the step and samples ...
    scheduler.commit(plan, tokens)   positions are cached, tokens are known

Running decodes go first, one row each; chunks of prompts fill the rest of the token budget. When
pages run out, the sequence that arrived last is set back: it gives up its pages, waits, and is
computed again from its tokens. The earliest one is never set back, and fits alone, so all end.
"""

from bisect import insort
from collections.abc import Mapping
from dataclasses import dataclass, field

from slipstream.engine.pages import PagePool, pages_for
from slipstream.engine.request import Request


@dataclass(frozen=True)
class Limits:
    """What one step may hold: sequences running at once, and rows (tokens) of one step."""

    max_batch: int
    token_budget: int

    def __post_init__(self) -> None:
        assert 1 <= self.max_batch <= self.token_budget, "every running decode needs a row"


@dataclass(eq=False)
class Sequence:
    """A request under way: its tokens so far, and how many of them are in the cache."""

    request: Request
    ids: list[int]
    cached: int = 0
    pages: list[int] = field(default_factory=list)

    @property
    def rank(self) -> int:
        """Who goes first: the lower, the earlier. Arrival decides."""
        return self.request.id

    @property
    def pending(self) -> int:
        """Tokens known but not yet in the cache; at least 1. Exactly 1 means decoding."""
        return len(self.ids) - self.cached

    @property
    def answer_length(self) -> int:
        """Tokens of the answer so far: the index of the next one."""
        return len(self.ids) - len(self.request.prompt_ids)


@dataclass
class State:
    """Everything that `plan` looks at. Both lists are in order of rank."""

    pool: PagePool
    waiting: list[Sequence] = field(default_factory=list)
    running: list[Sequence] = field(default_factory=list)


@dataclass(frozen=True)
class Piece:
    """One sequence's share of a step: `count` tokens from position `start`.

    `samples`: the last of them is the last known token, so the step yields the next one.
    """

    request_id: int
    start: int
    count: int
    pages_new: int
    samples: bool


@dataclass(frozen=True)
class Plan:
    """What one step does. Ids are of requests, each list in order of rank."""

    pieces: tuple[Piece, ...]
    admitted: tuple[int, ...] = ()
    preempted: tuple[int, ...] = ()

    @property
    def rows(self) -> int:
        """Tokens that the step computes."""
        return sum(piece.count for piece in self.pieces)


def plan(state: State, limits: Limits) -> Plan:
    """Chooses the next step. Reads `state`, changes nothing, and depends on nothing else."""
    kept, preempted, pages_free = _secure_pages(state)
    rows_free = limits.token_budget
    pieces = []
    for sequence in sorted(kept, key=lambda s: s.pending > 1):  # decodes first; stable
        count = min(sequence.pending, rows_free)
        if count:
            pieces.append(_piece(sequence, count))
            rows_free -= count
    admitted = []
    if not preempted:
        places = limits.max_batch - len(kept)
        for sequence in state.waiting[:places]:
            pages = pages_for(len(sequence.ids))
            if not rows_free or pages > pages_free:
                break  # nobody overtakes: the one in front is never starved
            admitted.append(sequence.request.id)
            pieces.append(_piece(sequence, min(sequence.pending, rows_free)))
            rows_free -= pieces[-1].count
            pages_free -= pages
    return Plan(tuple(pieces), tuple(admitted), tuple(s.request.id for s in preempted))


def _secure_pages(state: State) -> tuple[list[Sequence], list[Sequence], int]:
    """Who keeps running, who is set back, and how many pages are then free.

    In order of rank each takes the pages it lacks; while there are none, the last one goes.
    """
    kept = list(state.running)
    preempted: list[Sequence] = []
    free = state.pool.free_count
    index = 0
    while index < len(kept):
        lacking = pages_for(len(kept[index].ids)) - len(kept[index].pages)
        while lacking > free and index < len(kept):
            victim = kept.pop()
            preempted.insert(0, victim)
            free += state.pool.releasable(victim.pages)
        if index < len(kept):
            free -= lacking
        index += 1
    return kept, preempted, free


def _piece(sequence: Sequence, count: int) -> Piece:
    return Piece(
        request_id=sequence.request.id,
        start=sequence.cached,
        count=count,
        pages_new=pages_for(len(sequence.ids)) - len(sequence.pages),
        samples=count == sequence.pending,
    )


class Scheduler:
    """Owns the sequences and their pages, and applies what `plan` decided."""

    def __init__(self, limits: Limits, page_count: int) -> None:
        self.limits = limits
        self.state = State(PagePool(page_count))
        self.sequences: dict[int, Sequence] = {}

    def add(self, request: Request) -> None:
        """Queues a request. It must fit the pool alone: the engine refuses what does not."""
        assert pages_for(request.length_max) <= self.state.pool.page_count, "can never be run"
        sequence = Sequence(request, list(request.prompt_ids))
        self.sequences[request.id] = sequence
        insort(self.state.waiting, sequence, key=lambda s: s.rank)

    def plan(self) -> Plan:
        """The next step; empty when there is nothing to do."""
        return plan(self.state, self.limits)

    def begin(self, plan: Plan) -> None:
        """Sets back, admits, and takes the pages that the plan counted on."""
        for request_id in plan.preempted:
            self._set_back(self.sequences[request_id])
        for request_id in plan.admitted:
            sequence = self.sequences[request_id]
            self.state.waiting.remove(sequence)
            insort(self.state.running, sequence, key=lambda s: s.rank)
        for piece in plan.pieces:
            self.sequences[piece.request_id].pages += self.state.pool.take(piece.pages_new)

    def commit(self, plan: Plan, tokens: Mapping[int, int]) -> None:
        """The step has run: its positions are cached, and each sampling piece has its token.

        A request removed since `begin` is passed over.
        """
        for piece in plan.pieces:
            sequence = self.sequences.get(piece.request_id)
            if sequence is not None:
                sequence.cached += piece.count
                if piece.samples:
                    sequence.ids.append(tokens[piece.request_id])

    def remove(self, request_id: int) -> None:
        """Forgets a request that has ended or was cancelled, and frees its pages."""
        sequence = self.sequences.pop(request_id)
        if sequence in self.state.running:
            self.state.running.remove(sequence)
        else:
            self.state.waiting.remove(sequence)
        self.state.pool.release(sequence.pages)

    def check(self) -> None:
        """Asserts that every sequence is in one place and every page in known hands."""
        state = self.state
        listed = [s.request.id for s in state.running + state.waiting]
        assert sorted(listed) == sorted(self.sequences), "a sequence is lost or listed twice"
        assert len(state.running) <= self.limits.max_batch
        assert not any(s.cached or s.pages for s in state.waiting), "a waiting one holds pages"
        for sequence in state.running:
            assert pages_for(sequence.cached) <= len(sequence.pages), "cached without a page"
        for queue in (state.running, state.waiting):
            assert [s.rank for s in queue] == sorted(s.rank for s in queue), "out of order"
        state.pool.check(sequence.pages for sequence in state.running)

    def _set_back(self, sequence: Sequence) -> None:
        self.state.running.remove(sequence)
        self.state.pool.release(sequence.pages)
        sequence.pages, sequence.cached = [], 0
        insort(self.state.waiting, sequence, key=lambda s: s.rank)
