"""One kind's pages as they will be once a plan has begun: what is free, who owns how much.

`scheduler_plan` keeps one ledger for each kind of attention while it makes a plan. It reads the
pool and changes nothing there.
"""

from collections.abc import Sequence as Pages

from slipstream.backends.batch import PAGE_SIZE
from slipstream.engine.pages import GONE, PagePool, pages_for
from slipstream.engine.scheduler_state import Sequence, Sight

Saved = tuple[int, dict[int, int], dict[int, int]]


class Ledger:
    """A pool of pages, and what a plan under way changes in it."""

    def __init__(self, kind: int, pool: PagePool, sight: Sight) -> None:
        self.kind = kind
        self.pool = pool
        self.sight = sight
        self.free = pool.free_count
        self._bounded = sight.window is not None
        self._reserved: dict[int, int] = {}  # pages kept back for those that run
        self._owners: dict[int, int] = {}  # more, or fewer if negative, than in the pool

    # What a sequence needs.

    def lacking(self, sequence: Sequence) -> int:
        """Pages that a running one needs for the step and does not hold; a copy of a shared one
        included.
        """
        cached, pages = sequence.cached, sequence.pages[self.kind]
        held, reach = len(pages), len(sequence.ids)
        if self._bounded:
            reach = self.sight.reach(reach, cached)
        lacking = pages_for(reach) - held if reach > held * PAGE_SIZE else 0
        index = cached // PAGE_SIZE
        return lacking + (index < held and self._is_shared(pages[index]))

    def wanted(self, length: int, cached: int, pages: Pages[int]) -> int:
        """Free pages that a sequence takes when it joins with `cached` tokens on `pages`."""
        waking = sum(page != GONE and self._owners_of(page) == 0 for page in pages)
        copies = cached // PAGE_SIZE < len(pages)
        return pages_for(self.sight.reach(length, cached)) - len(pages) + waking + copies

    def new(self, length: int, end: int, held: int) -> int:
        """Pages that a piece takes which ends before position `end`: all that the sequence needs
        at once, or only its own where those behind a window become free on the way.
        """
        reach = end if self._bounded else length
        return pages_for(reach) - held if reach > held * PAGE_SIZE else 0

    # What the plan does.

    def reserve(self, sequence: Sequence, count: int) -> None:
        """Keeps free pages back for one that runs."""
        self.free -= count
        self._reserved[sequence.request.id] = count

    def set_back(self, sequence: Sequence) -> None:
        """It gives up what it holds and what was reserved for it."""
        self.free += self._reserved.pop(sequence.request.id, 0)
        for page in sequence.pages[self.kind]:
            if page != GONE:
                self._owners[page] = self._owners.get(page, 0) - 1
                self.free += self._owners_of(page) == 0

    def join(self, pages: Pages[int], wanted: int) -> None:
        """One that joins owns `pages` too, and takes `wanted` free ones."""
        self.free -= wanted
        for page in pages:
            if page != GONE:
                self._owners[page] = self._owners.get(page, 0) + 1

    def copies(self, index: int, pages: Pages[int]) -> bool:
        """Whether page `index` must be copied before it is written; if so, one owner fewer."""
        if index >= len(pages) or not self._is_shared(pages[index]):
            return False
        self._owners[pages[index]] = self._owners.get(pages[index], 0) - 1
        return True

    def save(self) -> Saved:
        """The state, for `restore`."""
        return self.free, dict(self._reserved), dict(self._owners)

    def restore(self, saved: Saved) -> None:
        """As it was when saved."""
        self.free, self._reserved, self._owners = saved

    def _is_shared(self, page: int) -> bool:
        if page == GONE:
            return False
        return self.pool.shared(page, self._owners.get(page, 0))

    def _owners_of(self, page: int) -> int:
        return self.pool.owners(page) + self._owners.get(page, 0)
