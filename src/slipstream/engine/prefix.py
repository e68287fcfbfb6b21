"""Which page holds the keys and values of which tokens: pages found again by what was before them.

    tokens   | page 0            | page 1            | page 2 …
    digest   h0 = H(root, ids 0)   h1 = H(h0, ids 1)   …       so a digest stands for all tokens
                                                               up to the end of its page

A prompt finds the whole pages of its beginning by their digests, and after them the page that goes
on like it for longest: that one is copied before it is written, so a prompt may leave another in
the middle of a page. `PagePool` keeps the index and asks it which page may go first.

Digests are BLAKE2b of 256 bits: nobody can make two prompts meet. Keys and values depend on the
tokens alone (promise 1), so what is found has exactly the bits that computing it again would give.
"""

from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice

from slipstream.backends.batch import PAGE_SIZE

Digest = bytes
Place = tuple[Digest, int]  # what is before a page, and its first token

DIGEST_BYTES = 32
WORTH_COPYING = 8  # tokens of a page; fewer are computed again, in a step that runs anyway
CANDIDATES = 64  # pages of one place that are compared, the newest first


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


@dataclass(frozen=True)
class Name:
    """What a page holds: `tokens` after what `before` stands for; `digest` if they fill it."""

    before: Digest
    tokens: tuple[int, ...]
    digest: Digest | None = None

    @property
    def place(self) -> Place:
        """Where pages that begin alike are found."""
        return self.before, self.tokens[0]

    def in_common(self, tokens: Sequence[int]) -> int:
        """How many tokens from the first are the same."""
        most = min(len(tokens), len(self.tokens))
        if self.tokens[:most] == tuple(tokens[:most]):
            return most
        return next(i for i in range(most) if tokens[i] != self.tokens[i])


class PrefixIndex:
    """Names of pages, and the order in which those that nobody owns may be reused."""

    def __init__(self) -> None:
        self._page_of: dict[Digest, int] = {}  # whole pages
        self._name_of: dict[int, Name] = {}
        self._beside: dict[Place, dict[int, None]] = {}  # pages by place, the newest last
        self._idle: OrderedDict[int, None] = OrderedDict()  # least recently used first

    def find(self, digest: Digest) -> int | None:
        """The page that these tokens fill."""
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
        return _in_sight([pages], [window], best)[0]

    def match_within(self, before: Digest, tokens: Sequence[int]) -> tuple[int, int]:
        """(how many of `tokens` a page holds after `before`, which page); (0, -1): too few."""
        best = WORTH_COPYING - 1, -1
        beside = self._beside.get((before, tokens[0])) if tokens else None
        for page in islice(reversed(beside or {}), CANDIDATES):
            best = max(best, (self._name_of[page].in_common(tokens), page))
            if best[0] == len(tokens):
                break
        return best if best[0] >= WORTH_COPYING else (0, -1)

    def add(self, page: int, name: Name) -> None:
        """Names a page that an owner has filled, or will write no more to."""
        assert page not in self._name_of, "a page has two names"
        if name.digest is not None:
            assert name.digest not in self._page_of, "a digest has two pages"
            self._page_of[name.digest] = page
        self._name_of[page] = name
        self._beside.setdefault(name.place, {})[page] = None

    def named(self, page: int) -> bool:
        """Whether the page can be found by what it holds."""
        return page in self._name_of

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

    @property
    def idle_pages(self) -> list[int]:
        """The resting pages, the one that goes first first."""
        return list(self._idle)

    def evict(self) -> int:
        """Forgets the page that has rested longest, and gives it up."""
        page = next(iter(self._idle))
        self.drop(page)
        return page

    def outdated_by(self, name: Name) -> list[int]:
        """Resting pages that hold a beginning of what a page of this name holds, and no more."""
        beside = self._beside.get(name.place, {})
        return [
            page
            for page in islice(reversed(beside), CANDIDATES)
            if page in self._idle
            and len(other := self._name_of[page].tokens) < len(name.tokens)
            and other == name.tokens[: len(other)]
        ]

    def drop(self, page: int) -> None:
        """Forgets a page that rests."""
        del self._idle[page]
        name = self._name_of.pop(page)
        if name.digest is not None:
            del self._page_of[name.digest]
        beside = self._beside[name.place]
        del beside[page]
        if not beside:
            del self._beside[name.place]

    def clear(self) -> list[int]:
        """Forgets everything; returns the pages that rested."""
        pages = self.idle_pages
        for table in (self._idle, self._page_of, self._name_of, self._beside):
            table.clear()
        return pages

    def check(self) -> None:
        """Asserts that all tables agree and that only named pages rest."""
        whole = {name.digest: page for page, name in self._name_of.items() if name.digest}
        assert whole == self._page_of, "a digest leads to a page of another name"
        beside = {page: place for place, pages in self._beside.items() for page in pages}
        assert beside == {page: name.place for page, name in self._name_of.items()}
        assert self._idle.keys() <= self._name_of.keys(), "a page rests without a name"


# A beginning helps as far as every kind of attention has the pages that it sees of it.


def match(
    indexes: Sequence[PrefixIndex], windows: Sequence[int | None], chain: Sequence[Digest]
) -> list[list[int]]:
    """Equally many pages of each kind, of the longest beginning of `chain` that all kinds know.

    -1 for pages that no following token sees, as in `PrefixIndex.match`.
    """
    if len(indexes) == 1:
        return [indexes[0].match(chain, windows[0])]
    tables: list[list[int]] = [[] for _ in indexes]
    runs = [0] * len(indexes)  # pages known in a row up to here
    best = 0
    for count, digest in enumerate(chain, 1):
        helps = True
        for kind, (index, window) in enumerate(zip(indexes, windows, strict=True)):
            page = index.find(digest)
            tables[kind].append(-1 if page is None else page)
            runs[kind] = 0 if page is None else runs[kind] + 1
            if runs[kind] < count:
                helps = helps and window is not None and runs[kind] * PAGE_SIZE >= window - 1
                if window is None:
                    return _in_sight(tables, windows, best)
        if helps:
            best = count
    return _in_sight(tables, windows, best)


def _in_sight(
    tables: Sequence[Sequence[int]], windows: Sequence[int | None], count: int
) -> list[list[int]]:
    """The first `count` pages of each kind, -1 before those that the next token sees."""
    firsts = [0 if w is None else max(0, count * PAGE_SIZE - w + 1) // PAGE_SIZE for w in windows]
    return [
        [-1] * first + list(table[first:count]) for table, first in zip(tables, firsts, strict=True)
    ]


def match_within(
    indexes: Sequence[PrefixIndex], before: Digest, tokens: Sequence[int]
) -> tuple[int, list[int]]:
    """(how many of `tokens` a page of each kind holds after `before`, which pages); (0, []): too
    few in some.
    """
    found = [index.match_within(before, tokens) for index in indexes]
    count = min(n for n, _ in found)
    return (count, [page for _, page in found]) if count else (0, [])
