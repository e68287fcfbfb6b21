"""Priorities and fair shares: who is next, and that everybody is, some time."""

import random

import pytest
from scheduler_worlds import World, admitted, request, scheduler

from slipstream.engine.scheduler_queue import ANSWER_TOKEN, COUNTERS_KEPT, PATIENCE_S, Waiting
from slipstream.engine.scheduler_state import Sequence


def test_better_levels_go_first_whenever_they_came():
    made = scheduler(request(1, 4, priority=1), request(2, 4), request(3, 4, priority=-1))
    assert admitted(made.plan()) == [3, 2, 1]


def test_a_better_one_takes_the_place_of_a_worse():
    made = scheduler(request(1, 4, 9, priority=1), request(2, 4, 9, priority=2), max_batch=2)
    world = World(made)
    world.step()
    made.add(request(3, 4))
    decided = world.step()
    assert decided.preempted == (2,) and admitted(decided) == [3]


def test_a_better_one_takes_pages_only_if_they_suffice():
    made = scheduler(request(1, 100), request(2, 100, priority=1), page_count=4, token_budget=500)
    world = World(made)
    world.step()
    made.add(request(3, 200))  # needs four pages; setting 2 back frees two
    assert world.step().preempted == ()
    made.add(request(4, 60, priority=-1))
    assert made.plan().preempted == (2,)


def test_equals_do_not_displace_each_other():
    made = scheduler(request(1, 4), max_batch=1)
    World(made).step()
    made.add(request(2, 4))
    assert made.plan().preempted == ()


def test_a_level_left_waiting_gets_one_in_and_keeps_it():
    made = scheduler(max_batch=1, page_count=64)
    world = World(made)
    made.add(request(1, 2, 8, priority=5), 0.0)
    made.add(request(2, 2, 8, priority=5), 0.0)
    number, ran = 10, []
    while world.now < 2.5 * PATIENCE_S:
        if len(made.state.waiting) < 4:
            made.add(request(number, 2, 2), world.now)
            number += 1
        ran += admitted(world.step())
        world.now += 0.25
    assert {1, 2} <= set(world.ended) and ran.index(2) - ran.index(1) > 10
    assert ran.count(1) == ran.count(2) == 1, "set back again by better ones"


def test_the_account_served_least_goes_first():
    flood = [request(n, 10, key="flood") for n in range(1, 9)]
    made = scheduler(*flood, max_batch=1)
    world = World(made)
    world.step()
    made.add(request(20, 10, key="quiet"))
    ran = []
    while made.sequences:
        ran += admitted(world.step())
    assert ran[0] == 20


def test_idling_saves_nothing_up():
    """An account that comes back after long gets its share from now on, not what it missed."""
    made = scheduler(max_batch=1)
    world = World(made)
    for number in range(1, 9):
        made.add(request(number, 10, key="steady"))
    for _ in range(20):
        world.step()
    for number in range(20, 28):
        made.add(request(number, 10, key="late"))
    ran = []
    while len(made.sequences) > 6:
        ran += admitted(world.step())
    assert 3 <= sum(number < 20 for number in ran) <= 5


@pytest.mark.parametrize("seed", range(20))
def test_two_busy_accounts_are_served_within_the_bound(seed):
    """VTC's theorem: while both wait, what they are served differs by at most twice the larger of
    a prompt's cost and a full batch's answers."""
    chance = random.Random(seed)
    made = scheduler(max_batch=4, page_count=64, token_budget=64)
    world, number = World(made), 1
    prompt_most, answer_most = 60, 40
    bound = 2 * max(prompt_most, 4 * answer_most * ANSWER_TOKEN)
    for _ in range(400):
        for key, size in (("small", 4), ("large", prompt_most)):
            while made.state.waiting._backlog.get(key, 0) < 3:
                answer = chance.randint(1, answer_most)
                made.add(request(number, chance.randint(1, size), answer, key=key))
                number += 1
        world.step()
        served = made.state.waiting.served
        assert abs(served("small") - served("large")) <= bound


def test_accounts_that_owe_nothing_are_forgotten():
    waiting = Waiting()
    for number in range(3 * COUNTERS_KEPT):
        sequence = Sequence(request(number, 2, key=str(number)), [1, 2])
        waiting.add(sequence, 0.0)
        waiting.remove(sequence)
    assert len(waiting._served) <= COUNTERS_KEPT + 1
