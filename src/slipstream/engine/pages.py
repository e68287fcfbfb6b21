"""Who owns which KV page: accounting only; the numbers themselves are the backend's.

The scheduler takes pages for sequences and gives them back. A page may have several owners
(a shared prefix); it is free again when the last one lets go.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from slipstream.backends.batch import PAGE_SIZE


def pages_for(positions: int) -> int:
    """How many pages hold that many positions."""
    return -(-positions // PAGE_SIZE)


class PagePool:
    """Reference counts of pages 0 … page_count - 1.

    free stack │ 7 4 9 …      every page is either on the stack with no owner,
    owners     │ 0:1 1:2 …    or off it with at least one
    """

    def __init__(self, page_count: int) -> None:
        self.page_count = page_count
        self._owners = [0] * page_count
        self._free = list(range(page_count - 1, -1, -1))

    @property
    def free_count(self) -> int:
        """Pages without an owner."""
        return len(self._free)

    @property
    def used_count(self) -> int:
        """Pages with at least one owner."""
        return self.page_count - len(self._free)

    def take(self, count: int) -> list[int]:
        """Gives `count` free pages one owner each; the caller knows that there are enough."""
        assert 0 <= count <= len(self._free), f"{count} pages wanted, {len(self._free)} free"
        pages = [self._free.pop() for _ in range(count)]
        for page in pages:
            self._owners[page] = 1
        return pages

    def share(self, pages: Sequence[int]) -> None:
        """Adds an owner to pages that already have one."""
        for page in pages:
            assert self._owners[page] > 0, f"page {page} is shared but free"
            self._owners[page] += 1

    def release(self, pages: Sequence[int]) -> None:
        """Takes one owner away from each page; those left with none are free."""
        for page in reversed(pages):
            assert self._owners[page] > 0, f"page {page} is released but free"
            self._owners[page] -= 1
            if self._owners[page] == 0:
                self._free.append(page)

    def releasable(self, pages: Sequence[int]) -> int:
        """How many of `pages` would become free if one owner let go of them."""
        return sum(self._owners[page] == 1 for page in pages)

    def check(self, holders: Iterable[Sequence[int]]) -> None:
        """Asserts that the books balance; `holders`: the page lists of everyone who holds any."""
        held = Counter(page for pages in holders for page in pages)
        for page, owners in enumerate(self._owners):
            assert owners == held[page], f"page {page} has {owners} owners, {held[page]} hold it"
        assert len(set(self._free)) == len(self._free), "a page is free twice"
        assert all(self._owners[page] == 0 for page in self._free), "a free page has an owner"
        owned = sum(owners > 0 for owners in self._owners)
        assert len(self._free) + owned == self.page_count, "a page leaked"
