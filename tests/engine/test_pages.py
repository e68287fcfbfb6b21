"""Accounting of KV pages: who owns what always adds up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.engine.pages import PagePool, pages_for


def test_positions_round_up_to_pages():
    assert [pages_for(n) for n in (0, 1, 64, 65, 128)] == [0, 1, 1, 2, 2]


def test_a_page_taken_is_not_free_until_released():
    pool = PagePool(4)
    pages = pool.take(3)
    assert len(set(pages)) == 3 and pool.free_count == 1
    pool.check([pages])
    pool.release(pages)
    assert pool.free_count == 4
    pool.check([])


def test_a_shared_page_is_free_only_after_its_last_owner():
    pool = PagePool(2)
    pages = pool.take(1)
    pool.share(pages)
    assert pool.owners(pages[0]) == 2
    pool.release(pages)
    assert pool.used_count == 1 and pool.owners(pages[0]) == 1
    pool.release(pages)
    assert pool.used_count == 0


def test_misuse_is_caught():
    pool = PagePool(1)
    with pytest.raises(AssertionError, match="1 free"):
        pool.take(2)
    with pytest.raises(AssertionError, match="released but free"):
        pool.release([0])
    with pytest.raises(AssertionError, match="shared but free"):
        pool.share([0])
    pool.take(1)
    with pytest.raises(AssertionError, match="1 owners, 0 hold it"):
        pool.check([])


@given(st.lists(st.tuples(st.sampled_from(["take", "share", "release"]), st.integers(0, 99))))
def test_random_use_leaks_nothing(actions):
    pool, holders = PagePool(6), []
    for action, number in actions:
        if action == "take":
            holders.append(pool.take(number % (pool.free_count + 1)))
        elif holders and action == "share":
            pages = list(holders[number % len(holders)])
            pool.share(pages)
            holders.append(pages)
        elif holders:
            pool.release(holders.pop(number % len(holders)))
        pool.check(holders)
    for pages in holders:
        pool.release(pages)
    assert pool.free_count == 6
