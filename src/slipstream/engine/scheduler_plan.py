"""The decision: what the next step runs, who joins, who is set back. Pure: no clock, no model.

`plan` works in four turns: who keeps running (those last in rank give way when pages run out), who
joins, how the token budget is divided (running decodes first, one row each, then chunks of
prompts in order of rank), and which shared pages must be copied before they are written.
"""

from collections.abc import Iterator
from collections.abc import Sequence as Pages
from dataclasses import dataclass, field

from slipstream.backends.batch import PAGE_SIZE
from slipstream.engine.pages import GONE, PagePool, pages_for
from slipstream.engine.prefix import match, match_within, root_of
from slipstream.engine.scheduler_ledger import Ledger
from slipstream.engine.scheduler_queue import Waiting
from slipstream.engine.scheduler_state import Admission, Limits, Piece, Plan, Sequence

Tables = Pages[Pages[int]]  # pages of each kind of attention
Found = tuple[int, list[list[int]]]  # tokens that are in the cache, and the pages of each kind


@dataclass
class State:
    """Everything that `plan` looks at. `running` is in order of rank."""

    pools: tuple[PagePool, ...]  # of each kind of attention
    waiting: Waiting = field(default_factory=Waiting)
    running: list[Sequence] = field(default_factory=list)


def plan(state: State, limits: Limits, now_s: float = 0.0) -> Plan:
    """Chooses the next step. Reads `state`, changes nothing, and depends on nothing else."""
    wait_s = _seconds_to_fill(state, limits, now_s)
    if wait_s > 0:
        return Plan(wait_s=wait_s)
    draft = _Draft(state, limits)
    draft.secure_pages()
    if len(state.waiting) and not draft.preempted:
        draft.admit(now_s)
    return Plan(draft.pieces(), tuple(draft.admitted), tuple(draft.preempted))


def _seconds_to_fill(state: State, limits: Limits, now_s: float) -> float:
    """How long a dynamic batch still waits for more to come."""
    waiting = state.waiting
    if limits.batching != "dynamic" or state.running or not len(waiting):
        return 0.0
    full = len(waiting) >= limits.max_batch or any(sequence.rejoins for sequence in waiting)
    return 0.0 if full else waiting.oldest_s + limits.max_wait_s - now_s


class _Draft:
    """A plan under way, and the pools as they will be once the plan has begun."""

    def __init__(self, state: State, limits: Limits) -> None:
        self.state = state
        self.limits = limits
        self.kept = list(state.running)
        self.joined: dict[int, tuple[Sequence, Admission]] = {}
        self.preempted: list[int] = []
        self.ledgers = [
            Ledger(kind, pool, sight)
            for kind, (pool, sight) in enumerate(zip(state.pools, limits.sights, strict=True))
        ]
        self.only = self.ledgers[0] if len(self.ledgers) == 1 else None

    @property
    def admitted(self) -> list[Admission]:
        return [admission for _, admission in self.joined.values()]

    # Who keeps running.

    def secure_pages(self) -> None:
        """In order of rank each takes the pages it lacks; while there are none, the last goes."""
        index = 0
        while index < len(self.kept):
            sequence = self.kept[index]
            lacking = self._lacking(sequence)
            if not any(lacking):
                index += 1
                continue
            while not self._suffices(lacking) and self.kept[-1] is not sequence:
                self._set_back_last()
                lacking = self._lacking(sequence)  # those set back may have shared its page
            if self._suffices(lacking):
                for ledger, count in zip(self.ledgers, lacking, strict=True):
                    ledger.reserve(sequence, count)
            else:
                self._set_back_last()
            index += 1

    def _lacking(self, sequence: Sequence) -> Pages[int]:
        if self.only is not None:
            return (self.only.lacking(sequence),)
        return [ledger.lacking(sequence) for ledger in self.ledgers]

    def _suffices(self, counts: Pages[int]) -> bool:
        """Whether so many pages of each kind are free."""
        return all(count <= ledger.free for ledger, count in zip(self.ledgers, counts, strict=True))

    def _set_back_last(self) -> None:
        victim = self.kept.pop()
        self.preempted.insert(0, victim.request.id)
        for ledger in self.ledgers:
            ledger.set_back(victim)

    # Who joins.

    def admit(self, now_s: float) -> None:
        """Lets in whoever is next while there are places, rows and pages; nobody overtakes."""
        for sequence, level in self._candidates(now_s):
            if self._waits_for_leader(sequence):
                continue
            if not self._rows_for(sequence, level) or not self._make_room(sequence, level):
                break

    def _candidates(self, now_s: float) -> Iterator[tuple[Sequence, int]]:
        turns = self.state.waiting.in_turn(now_s)
        if self.limits.batching == "continuous" or not self.state.running:
            return turns
        running = {sequence.request.id for sequence in self.kept}
        return ((s, n) for s, n in turns if s.rejoins or s.request.leader in running)

    def _waits_for_leader(self, sequence: Sequence) -> bool:
        leader = self._running_leader(sequence)
        if leader is None or sequence.reads_all:
            return False
        return leader.cached < len(leader.request.prompt_ids)

    def _running_leader(self, sequence: Sequence) -> Sequence | None:
        wanted = sequence.request.leader
        if wanted is None:
            return None
        if wanted in self.joined:
            return self.joined[wanted][0]
        return next((s for s in self.kept if s.request.id == wanted), None)

    def _rows_for(self, sequence: Sequence, level: int) -> bool:
        """Whether the step has a row for it after those that are ahead of it."""
        if self.limits.batching != "continuous":
            return True  # a whole batch joins at once; its prompts take turns
        rank = level, sequence.request.id
        rows = self.limits.token_budget
        for other in self.kept:
            if other.pending == 1:
                rows -= other.level <= level
            elif other.rank < rank:
                rows -= other.pending
        for other, admission in self.joined.values():
            rows -= len(other.ids) - admission.cached
        return rows > 0

    def _make_room(self, sequence: Sequence, level: int) -> bool:
        """Admits it, if need be in place of those of worse levels; False: there is no room."""
        if self._try_admit(sequence, level):
            return True
        kept, preempted = list(self.kept), list(self.preempted)
        saved = [ledger.save() for ledger in self.ledgers]
        while self._may_displace(level):
            self._set_back_last()
            if self._try_admit(sequence, level):
                return True
        self.kept, self.preempted = kept, preempted
        for ledger, state in zip(self.ledgers, saved, strict=True):
            ledger.restore(state)
        return False

    def _may_displace(self, level: int) -> bool:
        continuous = self.limits.batching == "continuous"
        return continuous and bool(self.kept) and self.kept[-1].level > level

    def _try_admit(self, sequence: Sequence, level: int) -> bool:
        if len(self.kept) + len(self.joined) >= self.limits.max_batch:
            return False
        for cached, pages in self._found(sequence):
            length = len(sequence.ids)
            counts = [
                ledger.wanted(length, cached, held)
                for ledger, held in zip(self.ledgers, pages, strict=True)
            ]
            if self._suffices(counts):
                for ledger, held, count in zip(self.ledgers, pages, counts, strict=True):
                    ledger.join(held, count)
                given = tuple(tuple(held) for held in pages)
                admission = Admission(sequence.request.id, level, cached, given)
                self.joined[sequence.request.id] = sequence, admission
                return True
        return False

    def _found(self, sequence: Sequence) -> Iterator[Found]:
        """Tokens that are in the cache already, and their pages; the best first.

        A sibling's, or found by prefix: whole pages and a part of one more, which must be copied;
        or only the whole ones, for which there is always room. At least one token is left to
        compute: its row yields the next one.
        """
        if sequence.reads_all and not sequence.answer_length:
            yield 0, [[] for _ in self.ledgers]
            return
        known = len(sequence.ids) - 1
        indexes = [pool.index for pool in self.state.pools]
        pages = match(indexes, self.limits.windows, sequence.chain[: known // PAGE_SIZE])
        count = len(pages[0])
        cached = count * PAGE_SIZE
        shared = self._shared_with_leader(sequence, known)
        if shared is not None and shared[0] > cached:
            yield shared
        before = sequence.chain[count - 1] if count else root_of(sequence.request.adapter)
        tokens = sequence.ids[cached : min(known, cached + PAGE_SIZE)]
        more, last = match_within(indexes, before, tokens)
        if more:
            yield cached + more, [[*held, page] for held, page in zip(pages, last, strict=True)]
        yield cached, pages

    def _shared_with_leader(self, sequence: Sequence, known: int) -> Found | None:
        leader = self._running_leader(sequence)
        if leader is None or leader.request.id in self.joined:
            return None
        shared = min(len(leader.request.prompt_ids), known)
        if shared > leader.cached:
            return None
        pages = []
        for sight, table in zip(self.limits.sights, leader.pages, strict=True):
            first, held = sight.first_seen(shared) // PAGE_SIZE, table[: pages_for(shared)]
            if GONE in held[first:]:
                return None
            pages.append([GONE] * first + held[first:])
        return shared, pages

    # What each computes.

    def pieces(self) -> tuple[Piece, ...]:
        """Rows for all, decodes first; those for whom none are left are passed over."""
        rows = self.limits.token_budget
        pieces = []
        for sequence, cached, pages in self._in_order():
            pending = len(sequence.ids) - cached
            count = min(pending, rows)
            if count == 0:
                break
            rows -= count
            pieces.append(self._piece(sequence, cached, count, pages))
        return tuple(pieces)

    def _piece(self, sequence: Sequence, cached: int, count: int, pages: Tables) -> Piece:
        length, end, index = len(sequence.ids), cached + count, cached // PAGE_SIZE
        new: tuple[int, ...] = ()
        copies: tuple[int, ...] = ()
        for ledger in self.ledgers:
            held = pages[ledger.kind]
            new += (ledger.new(length, end, len(held)),)
            if ledger.copies(index, held):
                copies += (ledger.kind,)
        return Piece(
            sequence.request.id, cached, count, new if any(new) else (), end == length, copies
        )

    def _in_order(self) -> list[tuple[Sequence, int, Tables]]:
        """All that run in the step with what they have cached and where; decodes first."""
        running: list[tuple[Sequence, int, Tables]]
        running = [(s, s.cached, s.pages) for s in self.kept]
        if self.joined:
            level = {s.request.id: s.level for s in self.kept}
            for s, admission in self.joined.values():
                level[s.request.id] = admission.level
                running.append((s, admission.cached, admission.pages))
            running.sort(key=lambda entry: (level[entry[0].request.id], entry[0].request.id))
        decodes = [entry for entry in running if len(entry[0].ids) - entry[1] == 1]
        if len(decodes) == len(running):
            return running
        return decodes + [entry for entry in running if len(entry[0].ids) - entry[1] > 1]
