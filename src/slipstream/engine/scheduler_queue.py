"""Who waits, and who of them is next: priorities, and a fair share for each account.

Levels (priorities) are strict, the lowest number first, with one exception: a level from which
nobody was admitted for PATIENCE_S gets one request in, so that none starves. Within a level the
account that was served least goes first: a virtual token counter (Sheng et al., 2024, "Fairness in
Serving Large Language Models") counts prompt and answer tokens of each account; one that comes back
is lifted to the least of those that wait, so that idling saves nothing up. An account's own
requests are answered in order of arrival.
"""

from bisect import insort
from collections.abc import Iterator
from heapq import heapify, heappop, heappush

from slipstream.engine.scheduler_state import Sequence

PATIENCE_S = 10.0  # a level waits no longer for its next turn, whatever comes in above it
PROMPT_TOKEN, ANSWER_TOKEN = 1, 2  # what a token costs; an answer's takes a step of its own
COUNTERS_KEPT = 1024  # accounts remembered before those that owe nothing are forgotten

Line = list[Sequence]  # one account's requests of one level, in order of arrival


class Waiting:
    """Sequences that wait, by level and account, and what each account has been served."""

    def __init__(self) -> None:
        self._lines: dict[int, dict[str, Line]] = {}
        self._count = 0
        self._backlog: dict[str, int] = {}  # waiting sequences of each account
        self._served: dict[str, float] = {}  # virtual token counters
        self._left = 0.0  # the counter of the account that last ceased to wait
        self._turn_s: dict[int, float] = {}  # since when a level has waited for its turn

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Sequence]:
        for lines in self._lines.values():
            for line in lines.values():
                yield from line

    def add(self, sequence: Sequence, now_s: float) -> None:
        """Queues a sequence behind those of its account that arrived before it."""
        key, level = sequence.request.key, sequence.level
        if key not in self._backlog:
            self._lift(key)
        self._backlog[key] = self._backlog.get(key, 0) + 1
        if level not in self._lines:
            self._lines[level] = {}
            self._turn_s[level] = now_s
        insort(self._lines[level].setdefault(key, []), sequence, key=lambda s: s.request.id)
        self._count += 1

    def remove(self, sequence: Sequence) -> None:
        """Takes a sequence out. ValueError if it does not wait."""
        key, level = sequence.request.key, sequence.level
        line = self._lines[level][key]
        line.remove(sequence)
        self._count -= 1
        self._backlog[key] -= 1
        if not line:
            del self._lines[level][key]
            if not self._lines[level]:
                del self._lines[level], self._turn_s[level]
        if not self._backlog[key]:
            del self._backlog[key]
            self._left = self.served(key)

    def admit(self, sequence: Sequence, now_s: float) -> None:
        """Takes a sequence out because it begins to run: its level has had its turn."""
        level = sequence.level
        self.remove(sequence)
        if level in self._turn_s:
            self._turn_s[level] = now_s

    def charge(self, key: str, tokens: float) -> None:
        """Counts what an account was served."""
        self._served[key] = self._served.get(key, 0.0) + tokens

    def served(self, key: str) -> float:
        """The account's virtual token counter."""
        return self._served.get(key, 0.0)

    @property
    def oldest_s(self) -> float:
        """When the first of those that wait arrived."""
        return min(sequence.arrived_s for sequence in self)

    def in_turn(self, now_s: float) -> Iterator[tuple[Sequence, int]]:
        """Those that wait, the next one first, if each is admitted when it comes up.

        Each with the level that it will run at. Levels that were patient for too long come first,
        with one request each, which is then as good as the best.
        """
        levels = sorted(self._lines)
        early: set[int] = set()
        for level in levels[1:]:
            if now_s - self._turn_s[level] >= PATIENCE_S:
                sequence = next(self._in_level(level))
                early.add(sequence.request.id)
                yield sequence, levels[0]
        for level in levels:
            yield from ((s, level) for s in self._in_level(level) if s.request.id not in early)

    def _in_level(self, level: int) -> Iterator[Sequence]:
        lines = self._lines[level]
        heap = [(self.served(key), line[0].request.id, key, 0) for key, line in lines.items()]
        heapify(heap)
        while heap:
            served, _, key, index = heappop(heap)
            sequence = lines[key][index]
            yield sequence
            if index + 1 < len(lines[key]):
                served += sequence.pending * PROMPT_TOKEN
                heappush(heap, (served, lines[key][index + 1].request.id, key, index + 1))

    def _lift(self, key: str) -> None:
        least = min((self.served(other) for other in self._backlog), default=self._left)
        self._served[key] = max(self.served(key), least)
        if len(self._served) > COUNTERS_KEPT:
            self._served = {
                account: served
                for account, served in self._served.items()
                if served > least or account in self._backlog or account == key
            }
