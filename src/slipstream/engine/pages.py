"""Who owns which KV page: accounting only; the numbers themselves are the backend's.

The scheduler takes pages for sequences and gives them back. A page may have several owners
(a shared prefix). When the last one lets go, it is free again, or rests in the prefix index until
its tokens are wanted or its room is.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from slipstream.backends.batch import PAGE_SIZE
from slipstream.engine.prefix import Name, PrefixIndex

GONE = -1  # in a list of pages: nobody will look at these positions again


def pages_for(positions: int) -> int:
    """How many pages hold that many positions."""
    return -(-positions // PAGE_SIZE)


class PagePool:
    """Reference counts of pages 0 … page_count - 1.

    owned    │ 0:1 1:2 …    at least one owner; may be named in the index
    resting  │ 5 8 …        no owner, named: found again by its tokens, or evicted, oldest first
    free     │ 7 4 9 …      no owner, no name
    """

    def __init__(self, page_count: int, *, keep: bool = True) -> None:
        self.page_count = page_count
        self.index = PrefixIndex()
        self._keep = keep
        self._owners = [0] * page_count
        self._free = list(range(page_count - 1, -1, -1))

    @property
    def free_count(self) -> int:
        """Pages that can be taken: without an owner, resting ones included."""
        return len(self._free) + self.index.idle_count

    @property
    def used_count(self) -> int:
        """Pages with at least one owner."""
        return self.page_count - self.free_count

    @property
    def resting_count(self) -> int:
        """Pages without an owner whose tokens may be found again."""
        return self.index.idle_count

    def owners(self, page: int) -> int:
        """How many own the page."""
        return self._owners[page]

    def shared(self, page: int, more: int = 0) -> bool:
        """Whether a page that has `more` owners than the pool knows must be copied to be written:
        others own it, or may find it.
        """
        return self._owners[page] + more > 1 or self.index.named(page)

    def take(self, count: int) -> list[int]:
        """Gives `count` pages one owner each; the caller knows that there are enough."""
        assert 0 <= count <= self.free_count, f"{count} pages wanted, {self.free_count} free"
        free = self._free
        pages = [free.pop() if free else self.index.evict() for _ in range(count)]
        for page in pages:
            self._owners[page] = 1
        return pages

    def share(self, pages: Sequence[int]) -> None:
        """Adds an owner to pages that have one or rest; passes over those that are GONE."""
        for page in pages:
            if page == GONE:
                continue
            if self._owners[page] == 0:
                assert self.index.named(page), f"page {page} is shared but free"
                self.index.wake(page)
            self._owners[page] += 1

    def release(self, pages: Sequence[int]) -> None:
        """Takes one owner away from each page; those left with none rest or are free.

        The last page first: what is further from the beginning of a prompt is evicted earlier.
        """
        for page in reversed(pages):
            if page == GONE:
                continue
            assert self._owners[page] > 0, f"page {page} is released but free"
            self._owners[page] -= 1
            if self._owners[page] == 0:
                if self.index.named(page):
                    self.index.rest(page)
                else:
                    self._free.append(page)

    def name(self, page: int, name: Name) -> int:
        """Names a page that its owner has filled; returns the page that the owner now holds.

        Where the tokens had a page already, that one is shared and `page` is given up: the bits
        are the same.
        """
        if not self._keep:
            return page
        assert name.digest is not None, "only a whole page is named while it is in use"
        known = self.index.find(name.digest)
        if known is None:
            if not self.index.named(page):
                self._add(page, name)
            return page
        if known != page:
            self.share([known])
            self.release([page])
        return known

    def name_last(self, page: int, name: Name) -> None:
        """Names the page that its owner leaves half filled, unless another one holds the same."""
        if not self._keep or self.index.named(page):
            return
        if self.index.match_within(name.before, name.tokens)[0] < len(name.tokens):
            self._add(page, name)

    def _add(self, page: int, name: Name) -> None:
        for outdated in self.index.outdated_by(name):
            self.index.drop(outdated)
            self._free.append(outdated)
        self.index.add(page, name)

    def forget(self) -> None:
        """Empties the index: nothing computed until now will be found again."""
        self._free += self.index.clear()

    def check(self, holders: Iterable[Sequence[int]]) -> None:
        """Asserts that the books balance; `holders`: the page lists of everyone who holds any."""
        held = Counter(page for pages in holders for page in pages if page != GONE)
        for page, owners in enumerate(self._owners):
            assert owners == held[page], f"page {page} has {owners} owners, {held[page]} hold it"
        self.index.check()
        free = self._free + self.index.idle_pages
        assert len(set(free)) == len(free), "a page is free twice"
        assert all(self._owners[page] == 0 for page in free), "a free page has an owner"
        assert not any(self.index.named(page) for page in self._free), "a free page has a name"
        owned = sum(owners > 0 for owners in self._owners)
        assert len(free) + owned == self.page_count, "a page leaked"
