"""The scheduler's promises on thousands of random workloads.

Every step of `World` asserts: the budget is kept, decodes are not left out, nobody writes to a page
that others own, every key that is read is of the right token, no page leaks, the first in rank is
not set back. Here: everything ends, whatever comes in, and whoever is cancelled.
"""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scheduler_worlds import World, request, scheduler

from slipstream.engine.request import SamplingParams

WINDOWS = [
    *[(None,)] * 4,
    *((window,) for window in (1, 30, 64, 129)),
    *((window, None) for window in (1, 30, 64, 129)),
    (None, 64, 40),
    (64, 1),
]


def random_world(chance: random.Random) -> World:
    max_batch = chance.randint(1, 6)
    windows = chance.choice(WINDOWS)
    return World(
        scheduler(
            max_batch=max_batch,
            token_budget=max_batch + chance.choice([0, 1, 20, 60, 200]),
            page_count=[6 + chance.choice([0, 0, 1, 3, 8]) for _ in windows],
            prefix_cache=chance.random() < 0.8,
            windows=windows,
            batching=chance.choice(["continuous", "continuous", "static", "dynamic"]),
            max_wait_s=3.0,
        )
    )


def arrive(world: World, chance: random.Random, number: int) -> int:
    """A request, or several siblings, often with a beginning seen before; the next free number."""
    prompt = [*range(chance.choice([0, 60, 64, 130])), *(chance.randrange(3) for _ in range(40))]
    prompt = prompt[: chance.randint(1, len(prompt))]
    if world.prompts and chance.random() < 0.5:  # goes on from within an earlier one
        earlier = chance.choice(world.prompts)
        more = [chance.randrange(3) for _ in range(chance.choice([0, 1, 12]))]
        prompt = [*earlier[: chance.randint(len(earlier) // 2, len(earlier))], *more] or prompt
    world.prompts.append(prompt)
    how = {
        "priority": chance.choice([0, 0, 0, 1, -1]),
        "key": chance.choice("abc"),
        "deadline_s": world.now + 20 if chance.random() < 0.1 else None,
        "params": SamplingParams(prompt_logprobs=chance.choice([None] * 9 + [0])),
    }
    answer = chance.randint(1, 100)
    for sibling in range(chance.choice([1, 1, 1, 4])):
        leader = number if sibling else None
        world.made.add(request(number + sibling, prompt, answer, leader=leader, **how), world.now)
    return number + sibling + 1


def run_to_the_end(seed: int) -> World:
    chance = random.Random(seed)
    world = random_world(chance)
    arrivals, number = chance.randint(1, 7), 1
    while arrivals or world.made.sequences:
        if arrivals and chance.random() < 0.4:
            number = arrive(world, chance, number)
            arrivals -= 1
        if world.made.sequences and chance.random() < 0.02:
            world.end(chance.choice(list(world.made.sequences)))
        world.step()
        world.now += chance.random()
        assert world.steps < 5000, "no progress"
    assert sorted(world.ended) == list(range(1, number))
    assert all(pool.used_count == 0 for pool in world.made.state.pools)
    return world


@pytest.mark.parametrize("part", range(4))
def test_every_workload_ends_with_its_books_balanced(part):
    for seed in range(30 * part, 30 * (part + 1)):
        run_to_the_end(seed)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_thousands_of_workloads_end_with_their_books_balanced(part):
    for seed in range(1000 + 250 * part, 1000 + 250 * (part + 1)):
        run_to_the_end(seed)


def test_the_random_workloads_reach_every_path():
    worlds = [run_to_the_end(seed) for seed in range(20)]
    assert any(world.copies for world in worlds)


sizes = st.tuples(st.integers(1, 200), st.integers(1, 90), st.integers(0, 12))


@settings(max_examples=30, deadline=None)
@given(st.lists(sizes, min_size=1, max_size=10), st.integers(1, 6), st.integers(0, 60))
def test_arrival_decides_among_equals(work, max_batch, more):
    """Without priorities the one that arrived first is never set back, so it ends first or runs."""
    made = scheduler(max_batch=max_batch, token_budget=max_batch + more, page_count=5)
    world = World(made)
    due = sorted((at, n, prompt, answer) for n, (prompt, answer, at) in enumerate(work, 1))
    while due or made.sequences:
        while due and due[0][0] <= world.steps:
            _, number, prompt, answer = due.pop(0)
            made.add(request(number, prompt, answer))
        earliest = min((s.request.id for s in made.state.running), default=None)
        assert earliest not in world.step().preempted
