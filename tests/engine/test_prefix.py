"""Pages found again by what was before them: the right ones, and nobody else's."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.backends.batch import PAGE_SIZE
from slipstream.engine.pages import PagePool
from slipstream.engine.prefix import WORTH_COPYING, Name, PrefixIndex, extend_chain, root_of


def chain_of(ids, adapter=None):
    chain = []
    extend_chain(chain, ids, root_of(adapter))
    return chain


def index_of(chain, known):
    """An index in which page i has the tokens of chain[i], for each i of `known`."""
    index = PrefixIndex()
    for i in known:
        before = chain[i - 1] if i else root_of(None)
        index.add(i, Name(before, (i, *range(PAGE_SIZE - 1)), chain[i]))
    index.check()
    return index


def test_a_chain_grows_as_tokens_come():
    ids = [random.Random(1).randrange(99) for _ in range(300)]
    chain = []
    for end in (1, 64, 100, 200, 300):
        extend_chain(chain, ids[:end], root_of(None))
        assert len(chain) == end // PAGE_SIZE
    assert chain == chain_of(ids)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=128, max_size=256), st.integers(0, 127))
def test_any_earlier_token_changes_every_later_digest(ids, at):
    other = list(ids)
    other[at] += 1
    same = [a == b for a, b in zip(chain_of(ids), chain_of(other), strict=True)]
    assert same == [page < at // PAGE_SIZE for page in range(len(same))]


def test_adapters_have_chains_of_their_own():
    ids = list(range(64))
    assert len({chain_of(ids, a)[0] for a in (None, "none", "a", "adapter none")}) == 4


def test_only_an_unbroken_beginning_helps():
    chain = chain_of(range(320))
    assert index_of(chain, [0, 1, 3, 4]).match(chain) == [0, 1]
    assert index_of(chain, [1, 2, 3]).match(chain) == []


def test_with_a_window_what_is_out_of_sight_may_be_missing():
    chain = chain_of(range(320))
    index = index_of(chain, [0, 3])
    assert index.match(chain, window=65) == [-1, -1, -1, 3]  # the next token sees 64 before it
    assert index.match(chain, window=66) == [0]


def test_a_window_of_one_sees_nothing_before():
    chain = chain_of(range(320))
    assert index_of(chain, [3]).match(chain, window=1) == [-1] * 5


def test_the_page_that_goes_on_alike_for_longest_is_found():
    index, before = PrefixIndex(), root_of(None)
    index.add(4, Name(before, tuple(range(20))))
    index.add(5, Name(before, tuple(range(30))))
    index.add(6, Name(before, (0, *range(50, 80))))
    assert index.match_within(before, list(range(25))) == (25, 5)
    assert index.match_within(before, [*range(15), 7, 7]) == (15, 5)
    assert index.match_within(before, list(range(WORTH_COPYING - 1))) == (0, -1)
    assert index.match_within(root_of("other"), list(range(25))) == (0, -1)


def test_a_page_that_says_less_makes_room_for_one_that_says_more():
    pool, before = PagePool(3), root_of(None)
    first, second, third = pool.take(3)
    pool.name_last(first, Name(before, tuple(range(20))))
    pool.release([first])
    pool.name_last(second, Name(before, tuple(range(30))))
    pool.release([second])
    assert pool.resting_count == 1, "the first is free: what it holds, the second holds too"
    pool.name_last(third, Name(before, tuple(range(10))))
    pool.release([third])
    assert pool.resting_count == 1, "not worth a name"
    pool.check([])


def test_equal_pages_become_one():
    pool, chain = PagePool(3), chain_of(range(64))
    first, second = pool.take(2)
    name = Name(root_of(None), tuple(range(64)), chain[0])
    assert pool.name(first, name) == first and pool.name(second, name) == first
    pool.check([[first], [first]])
    assert pool.free_count == 2


def test_the_end_of_a_prompt_is_evicted_before_its_beginning():
    pool, chain = PagePool(3), chain_of(range(192))
    pages = pool.take(3)
    for i, page in enumerate(pages):
        tokens = tuple(range(64 * i, 64 * i + 64))
        pool.name(page, Name(chain[i - 1] if i else root_of(None), tokens, chain[i]))
    pool.release(pages)
    assert pool.take(1) == [pages[2]]
    assert pool.index.match(chain) == pages[:2]


def test_a_forgotten_cache_is_empty_and_owners_keep_their_pages():
    pool, chain = PagePool(2), chain_of(range(64))
    (page,) = pool.take(1)
    pool.name(page, Name(root_of(None), tuple(range(64)), chain[0]))
    pool.share([page])
    pool.release([page])
    pool.forget()
    assert pool.index.match(chain) == []
    pool.check([[page]])
    pool.release([page])
    assert pool.free_count == 2
    pool.check([])
