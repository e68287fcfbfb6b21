"""Which page holds the keys and values of which tokens: pages found again by what was before them.

    tokens   | page 0            | page 1            | page 2 …
    digest   h0 = H(root, ids 0)   h1 = H(h0, ids 1)   …       so a digest stands for all tokens
                                                               up to the end of its page

`PagePool` keeps the index and asks it which page may go first. Digests are BLAKE2b of 256 bits:
nobody can make two prompts meet. Keys and values depend on the tokens alone (promise 1), so a page
found here holds exactly the bits that computing it again would give.
"""

from array import array
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

from slipstream.backends.batch import PAGE_SIZE

Digest = bytes

DIGEST_BYTES = 32


def root_of(adapter: str | None) -> Digest:
    """Where a chain begins: another adapter computes other keys and values."""
    name = b"none" if adapter is None else b"adapter " + adapter.encode()
    return blake2b(name, digest_size=DIGEST_BYTES).digest()


def extend_chain(chain: list[Digest], ids: Sequence[int], root: Digest) -> None:
    """Adds to `chain` the digests of the whole pages of `ids` that it lacks."""
    for page in range(len(chain), len(ids) // PAGE_SIZE):
        tokens = array("i", ids[page * PAGE_SIZE : (page + 1) * PAGE_SIZE])
        digest = blake2b(chain[-1] if chain else root, digest_size=DIGEST_BYTES)
        digest.update(tokens)
        chain.append(digest.digest())


class PrefixIndex:
    """Digests of pages, both ways, and the order in which pages that nobody owns may be reused."""

    def __init__(self) -> None:
        self._page_of: dict[Digest, int] = {}
        self._digest_of: dict[int, Digest] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()  # least recently used first

    def find(self, digest: Digest) -> int | None:
        """The page that holds these tokens."""
        return self._page_of.get(digest)

    def match(self, chain: Sequence[Digest], window: int | None = None) -> list[int]:
        """The pages of the longest known beginning of `chain`; empty if nothing helps.

        With a window only the pages that a following token sees must be there; those further
        back are -1.
        """
        pages: list[int] = []
        best = run = 0  # pages of the best answer; pages known in a row up to here
        for digest in chain:
            page = self._page_of.get(digest)
            if page is None and window is None:
                break
            pages.append(-1 if page is None else page)
            run = 0 if page is None else run + 1
            if run == len(pages) or (window is not None and run * PAGE_SIZE >= window - 1):
                best = len(pages)
        seen_from = 0 if window is None else max(0, best * PAGE_SIZE - window + 1) // PAGE_SIZE
        return [-1] * seen_from + pages[seen_from:best]

    def add(self, page: int, digest: Digest) -> None:
        """Names a page that an owner has filled."""
        assert digest not in self._page_of, "a digest has two pages"
        assert page not in self._digest_of, "a page has two digests"
        self._page_of[digest] = page
        self._digest_of[page] = digest

    def named(self, page: int) -> bool:
        """Whether the page can be found by what it holds."""
        return page in self._digest_of

    def rest(self, page: int) -> None:
        """Nobody owns the page any more; it may be reused after all that rested before."""
        self._idle[page] = None

    def wake(self, page: int) -> None:
        """Somebody owns the page again."""
        del self._idle[page]

    @property
    def idle_count(self) -> int:
        """Pages that rest."""
        return len(self._idle)

    def evict(self) -> int:
        """Forgets the page that has rested longest, and gives it up."""
        page, _ = self._idle.popitem(last=False)
        del self._page_of[self._digest_of.pop(page)]
        return page

    def clear(self) -> list[int]:
        """Forgets everything; returns the pages that rested."""
        pages = list(self._idle)
        self._idle.clear()
        self._page_of.clear()
        self._digest_of.clear()
        return pages

    def check(self) -> None:
        """Asserts that both directions agree and that only named pages rest."""
        assert {page: digest for digest, page in self._page_of.items()} == self._digest_of
        assert self._idle.keys() <= self._digest_of.keys(), "a page rests without a name"

    @property
    def idle_pages(self) -> list[int]:
        """The resting pages, the one that goes first first."""
        return list(self._idle)
