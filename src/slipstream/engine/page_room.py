"""How many KV pages of each kind of attention a memory holds, and how long a context.

`options.resolve` asks, once. The layers of a kind share their pages' numbers, so a page of a kind
costs the bytes of its layers.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from slipstream.backends.batch import PAGE_SIZE
from slipstream.engine.pages import pages_for
from slipstream.engine.scheduler_state import Sight


@dataclass(frozen=True)
class PageRoom:
    """Memory for the pages of kinds that see as `sights` say and take `page_bytes` a page."""

    sights: tuple[Sight, ...]
    page_bytes: tuple[int, ...]
    memory_bytes: int

    def bytes_for(self, context: int) -> int:
        """What the pages of one sequence of that many positions take at most."""
        return self._total([sight.pages_most(context) for sight in self.sights])

    def context(self, wanted: int) -> int:
        """`wanted` positions, or the most whole pages of them of which one sequence has room."""
        if self.bytes_for(wanted) <= self.memory_bytes:
            return wanted
        pages = range(pages_for(wanted))
        fitting = bisect_right(
            pages, self.memory_bytes, key=lambda n: self.bytes_for(n * PAGE_SIZE)
        )
        return (fitting - 1) * PAGE_SIZE

    def counts(self, context: int, *stages: Sequence[int]) -> tuple[int, ...]:
        """Pages of each kind: what one sequence of `context` needs, then what each stage wants, as
        long as memory lasts; of what is left for a stage every kind gets the same share.
        """
        counts = tuple(sight.pages_most(context) for sight in self.sights)
        for wanted in stages:
            more = [max(0, want - has) for want, has in zip(wanted, counts, strict=True)]
            spare = self.memory_bytes - self._total(counts)
            cost = self._total(more)
            if cost > spare:
                more = [each * spare // cost for each in more]
            counts = tuple(has + each for has, each in zip(counts, more, strict=True))
        return counts

    def _total(self, counts: Sequence[int]) -> int:
        return sum(n * size for n, size in zip(counts, self.page_bytes, strict=True))
