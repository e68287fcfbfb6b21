"""Decides what each step runs, then keeps the books.

    plan = scheduler.plan(now_s)           what to run, who joins, who is set back; changes nothing
    copies = scheduler.begin(plan, now_s)  takes the pages that the plan needs
    ... the engine copies pages, runs the step and samples ...
    scheduler.commit(plan, tokens)         positions are cached, tokens are known

When pages run out, the sequence last in rank is set back: it gives up its pages, waits, and is
computed again from its tokens, or finds its pages again where nobody took them. The first in rank
is never set back for want of pages, and fits alone, so all end.
"""

from bisect import insort
from collections.abc import Mapping
from heapq import heappop, heappush

from slipstream.backends.batch import PAGE_SIZE
from slipstream.engine.pages import GONE, PagePool, pages_for
from slipstream.engine.prefix import WORTH_COPYING, Digest, Name, extend_chain, root_of
from slipstream.engine.request import Request
from slipstream.engine.scheduler_plan import State, plan
from slipstream.engine.scheduler_queue import ANSWER_TOKEN, PROMPT_TOKEN
from slipstream.engine.scheduler_state import Admission, Batching, Limits, Piece, Plan, Sequence

__all__ = [
    "Admission",
    "Batching",
    "Limits",
    "Piece",
    "Plan",
    "Scheduler",
    "Sequence",
    "State",
    "plan",
]


class Scheduler:
    """Owns the sequences and their pages, and applies what `plan` decided."""

    def __init__(self, limits: Limits, page_count: int, *, prefix_cache: bool = True) -> None:
        self.limits = limits
        self.state = State(PagePool(page_count, keep=prefix_cache))
        self.sequences: dict[int, Sequence] = {}
        self._deadlines: list[tuple[float, int]] = []  # a heap; may name requests that have ended

    def add(self, request: Request, now_s: float = 0.0) -> None:
        """Queues a request. It must fit the pool alone: the engine refuses what does not."""
        most = self.limits.pages_most(request.length_max)
        assert most <= self.state.pool.page_count, "can never be run"
        sequence = Sequence(request, list(request.prompt_ids), now_s, request.priority)
        extend_chain(sequence.chain, sequence.ids, root_of(request.adapter))
        self.sequences[request.id] = sequence
        self.state.waiting.add(sequence, now_s)
        if request.deadline_s is not None:
            heappush(self._deadlines, (request.deadline_s, request.id))

    def overdue(self, now_s: float) -> list[int]:
        """Requests whose deadline has passed; each is named once, and the caller ends it."""
        late = []
        while self._deadlines and self._deadlines[0][0] <= now_s:
            request_id = heappop(self._deadlines)[1]
            if request_id in self.sequences:
                late.append(request_id)
        return late

    @property
    def next_deadline_s(self) -> float | None:
        """The earliest deadline that may still matter."""
        return self._deadlines[0][0] if self._deadlines else None

    def plan(self, now_s: float = 0.0) -> Plan:
        """The next step; empty when there is nothing to do."""
        return plan(self.state, self.limits, now_s)

    def begin(self, plan: Plan, now_s: float = 0.0) -> list[tuple[int, int]]:
        """Sets back, admits, and takes the pages that the plan counted on.

        Returns the pages to copy before the step runs: (from, to), in this order.
        """
        pool = self.state.pool
        for admission in plan.admitted:  # first: what was found is not to be dropped meanwhile
            pool.share(admission.pages)
        for request_id in plan.preempted:
            self._set_back(self.sequences[request_id], now_s)
        for admission in plan.admitted:
            self._admit(admission, now_s)
        copies = []
        for piece in plan.pieces:
            sequence = self.sequences[piece.request_id]
            if piece.pages_new:
                sequence.pages += pool.take(piece.pages_new)
            if piece.copies:
                index = piece.start // PAGE_SIZE
                source, own = sequence.pages[index], pool.take(1)[0]
                copies.append((source, own))
                sequence.pages[index] = own
                pool.release([source])
        return copies

    def commit(self, plan: Plan, tokens: Mapping[int, int]) -> None:
        """The step has run: its positions are cached, and each sampling piece has its token.

        A request removed since `begin` is passed over.
        """
        for piece in plan.pieces:
            sequence = self.sequences.get(piece.request_id)
            if sequence is None:
                continue
            sequence.cached += piece.rows
            if sequence.cached // PAGE_SIZE > sequence.named:
                self._name_pages(sequence)
            if self.limits.window is not None:
                self._let_go(sequence)
            if piece.samples:
                sequence.ids.append(tokens[piece.request_id])
                self.state.waiting.charge(sequence.request.key, ANSWER_TOKEN)

    def remove(self, request_id: int) -> None:
        """Forgets a request that has ended or was cancelled, and frees its pages."""
        sequence = self.sequences.pop(request_id)
        if sequence in self.state.running:
            self.state.running.remove(sequence)
        else:
            self.state.waiting.remove(sequence)
        self._leave_pages(sequence)

    def check(self) -> None:
        """Asserts that every sequence is in one place and every page in known hands."""
        state = self.state
        waiting = list(state.waiting)
        listed = [s.request.id for s in state.running + waiting]
        assert sorted(listed) == sorted(self.sequences), "a sequence is lost or listed twice"
        assert len(waiting) == len(state.waiting), "the queue has lost count"
        assert len(state.running) <= self.limits.max_batch
        assert not any(s.cached or s.pages for s in waiting), "a waiting one holds pages"
        for sequence in state.running:
            assert pages_for(sequence.cached) <= len(sequence.pages), "cached without a page"
            self._check_sight(sequence)
        ranks = [s.rank for s in state.running]
        assert ranks == sorted(ranks), "out of order"
        state.pool.check(sequence.pages for sequence in state.running)

    def _check_sight(self, sequence: Sequence) -> None:
        first = self.limits.first_seen(sequence.cached) // PAGE_SIZE
        assert GONE not in sequence.pages[first:], "a page in sight is gone"

    def _admit(self, admission: Admission, now_s: float) -> None:
        """It runs from now on, on pages that `begin` has shared for it."""
        sequence = self.sequences[admission.request_id]
        self.state.waiting.admit(sequence, now_s)
        sequence.level = admission.level
        sequence.cached = admission.cached
        sequence.pages = list(admission.pages)
        sequence.named = admission.cached // PAGE_SIZE
        sequence.gone = 0
        sequence.rejoins = False
        insort(self.state.running, sequence, key=lambda s: s.rank)
        if sequence.found is None:
            sequence.found = admission.cached
            cost = (len(sequence.ids) - admission.cached) * PROMPT_TOKEN
            self.state.waiting.charge(sequence.request.key, cost)

    def _name_pages(self, sequence: Sequence) -> None:
        """Tells the prefix index of the pages that have become full."""
        if len(sequence.chain) < sequence.cached // PAGE_SIZE:
            extend_chain(sequence.chain, sequence.ids, root_of(sequence.request.adapter))
        for page in range(sequence.named, sequence.cached // PAGE_SIZE):
            tokens = tuple(sequence.ids[page * PAGE_SIZE : (page + 1) * PAGE_SIZE])
            name = Name(_before(sequence, page), tokens, sequence.chain[page])
            sequence.pages[page] = self.state.pool.name(sequence.pages[page], name)
        sequence.named = sequence.cached // PAGE_SIZE

    def _leave_pages(self, sequence: Sequence) -> None:
        """Gives up its pages; the last one may be found by a prompt that goes on from there."""
        last, filled = divmod(sequence.cached, PAGE_SIZE)
        if filled >= WORTH_COPYING and self.limits.window is None:
            tokens = tuple(sequence.ids[last * PAGE_SIZE : sequence.cached])
            self.state.pool.name_last(sequence.pages[last], Name(_before(sequence, last), tokens))
        self.state.pool.release(sequence.pages)

    def _let_go(self, sequence: Sequence) -> None:
        """Gives up the pages that no token to come will see."""
        first = self.limits.first_seen(sequence.cached) // PAGE_SIZE
        if first > sequence.gone:
            self.state.pool.release(sequence.pages[sequence.gone : first])
            sequence.pages[sequence.gone : first] = [GONE] * (first - sequence.gone)
            sequence.gone = first

    def _set_back(self, sequence: Sequence, now_s: float) -> None:
        self.state.running.remove(sequence)
        self._leave_pages(sequence)
        extend_chain(sequence.chain, sequence.ids, root_of(sequence.request.adapter))
        sequence.pages, sequence.cached, sequence.named, sequence.gone = [], 0, 0, 0
        sequence.rejoins = True
        self.state.waiting.add(sequence, now_s)


def _before(sequence: Sequence, page: int) -> Digest:
    """What stands for all tokens before a page."""
    return sequence.chain[page - 1] if page else root_of(sequence.request.adapter)
