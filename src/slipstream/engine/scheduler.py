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
from collections.abc import Sequence as Pages
from heapq import heappop, heappush

from slipstream.backends.batch import PAGE_SIZE
from slipstream.engine.pages import GONE, PagePool, pages_for
from slipstream.engine.prefix import WORTH_COPYING, Digest, Name, extend_chain, root_of
from slipstream.engine.request import Request
from slipstream.engine.scheduler_plan import State, plan
from slipstream.engine.scheduler_queue import ANSWER_TOKEN, PROMPT_TOKEN
from slipstream.engine.scheduler_state import (
    Admission,
    Batching,
    Limits,
    Piece,
    Plan,
    Sequence,
    Sight,
)

__all__ = [
    "Admission",
    "Batching",
    "Limits",
    "Piece",
    "Plan",
    "Scheduler",
    "Sequence",
    "Sight",
    "State",
    "plan",
]


class Scheduler:
    """Owns the sequences and their pages, and applies what `plan` decided."""

    def __init__(
        self, limits: Limits, page_counts: Pages[int], *, prefix_cache: bool = True
    ) -> None:
        assert len(page_counts) == len(limits.windows), "pages for each kind of attention"
        self.limits = limits
        self.state = State(tuple(PagePool(count, keep=prefix_cache) for count in page_counts))
        self.sequences: dict[int, Sequence] = {}
        self._bounded = [(k, s) for k, s in enumerate(limits.sights) if s.window is not None]
        self._deadlines: list[tuple[float, int]] = []  # a heap; may name requests that have ended

    def add(self, request: Request, now_s: float = 0.0) -> None:
        """Queues a request. It must fit the pool alone: the engine refuses what does not."""
        for pool, sight in zip(self.state.pools, self.limits.sights, strict=True):
            assert sight.pages_most(request.length_max) <= pool.page_count, "can never be run"
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

    def begin(self, plan: Plan, now_s: float = 0.0) -> list[tuple[int, int, int]]:
        """Sets back, admits, and takes the pages that the plan counted on.

        Returns the pages to copy before the step runs: (kind, from, to), in this order.
        """
        pools = self.state.pools
        for admission in plan.admitted:  # first: what was found is not to be dropped meanwhile
            for pool, pages in zip(pools, admission.pages, strict=True):
                pool.share(pages)
        for request_id in plan.preempted:
            self._set_back(self.sequences[request_id], now_s)
        for admission in plan.admitted:
            self._admit(admission, now_s)
        copies = []
        for piece in plan.pieces:
            sequence = self.sequences[piece.request_id]
            if piece.pages_new:
                for pool, table, count in zip(pools, sequence.pages, piece.pages_new, strict=True):
                    table.extend(pool.take(count))
            for kind in piece.copies:
                table, index = sequence.pages[kind], piece.start // PAGE_SIZE
                source, own = table[index], pools[kind].take(1)[0]
                copies.append((kind, source, own))
                table[index] = own
                pools[kind].release([source])
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
            if self._bounded:
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

    def forget_prefixes(self) -> None:
        """Nothing computed until now will be found again."""
        for pool in self.state.pools:
            pool.forget()

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
            self._check_pages(sequence)
        ranks = [s.rank for s in state.running]
        assert ranks == sorted(ranks), "out of order"
        for kind, pool in enumerate(state.pools):
            pool.check(sequence.pages[kind] for sequence in state.running)

    def _check_pages(self, sequence: Sequence) -> None:
        for sight, pages in zip(self.limits.sights, sequence.pages, strict=True):
            assert pages_for(sequence.cached) <= len(pages), "cached without a page"
            first = sight.first_seen(sequence.cached) // PAGE_SIZE
            assert GONE not in pages[first:], "a page in sight is gone"

    def _admit(self, admission: Admission, now_s: float) -> None:
        """It runs from now on, on pages that `begin` has shared for it."""
        sequence = self.sequences[admission.request_id]
        self.state.waiting.admit(sequence, now_s)
        sequence.level = admission.level
        sequence.cached = admission.cached
        sequence.pages = [list(pages) for pages in admission.pages]
        sequence.named = admission.cached // PAGE_SIZE
        sequence.gone = [0 for _ in admission.pages]
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
            for pool, table in zip(self.state.pools, sequence.pages, strict=True):
                table[page] = pool.name(table[page], name)
        sequence.named = sequence.cached // PAGE_SIZE

    def _leave_pages(self, sequence: Sequence) -> None:
        """Gives up its pages; the last one may be found by a prompt that goes on from there."""
        last, filled = divmod(sequence.cached, PAGE_SIZE)
        name = None
        if filled >= WORTH_COPYING:
            tokens = tuple(sequence.ids[last * PAGE_SIZE : sequence.cached])
            name = Name(_before(sequence, last), tokens)
        for pool, table in zip(self.state.pools, sequence.pages, strict=False):  # none: it waited
            if name is not None:
                pool.name_last(table[last], name)
            pool.release(table)

    def _let_go(self, sequence: Sequence) -> None:
        """Gives up the pages that no token to come will see."""
        for kind, sight in self._bounded:
            first = sight.first_seen(sequence.cached) // PAGE_SIZE
            gone, table = sequence.gone[kind], sequence.pages[kind]
            if first > gone:
                self.state.pools[kind].release(table[gone:first])
                table[gone:first] = [GONE] * (first - gone)
                sequence.gone[kind] = first

    def _set_back(self, sequence: Sequence, now_s: float) -> None:
        self.state.running.remove(sequence)
        self._leave_pages(sequence)
        extend_chain(sequence.chain, sequence.ids, root_of(sequence.request.adapter))
        sequence.pages, sequence.cached, sequence.named, sequence.gone = [], 0, 0, []
        sequence.rejoins = True
        self.state.waiting.add(sequence, now_s)


def _before(sequence: Sequence, page: int) -> Digest:
    """What stands for all tokens before a page."""
    return sequence.chain[page - 1] if page else root_of(sequence.request.adapter)
