"""The scheduler's decisions on small worlds, each one worked by hand."""

import copy

import pytest
from scheduler_worlds import World, admitted, request, run, scheduler

from slipstream.engine.request import SamplingParams
from slipstream.engine.scheduler import Limits, Piece, Plan, plan


def test_an_idle_scheduler_plans_nothing():
    assert scheduler().plan() == Plan(())


def test_a_prompt_is_cut_into_chunks_of_the_budget():
    made = scheduler(request(1, 25), token_budget=10)
    first, second, third = (run(made).pieces[0] for _ in range(3))
    assert first == Piece(1, start=0, rows=10, pages_new=(1,), samples=False)
    assert second == Piece(1, start=10, rows=10, pages_new=(), samples=False)
    assert third == Piece(1, start=20, rows=5, pages_new=(), samples=True)


def test_decodes_go_before_the_prompt_of_an_earlier_request():
    made = scheduler(request(1, 30), request(2, 2), token_budget=32)
    run(made)  # all of 1, all of 2
    made.add(request(3, 100))
    pieces = run(made).pieces
    assert [(p.request_id, p.rows) for p in pieces] == [(1, 1), (2, 1), (3, 30)]


def test_a_long_prompt_does_not_stall_running_decodes():
    made = scheduler(request(1, 2, max_tokens=9), token_budget=8)
    run(made)
    made.add(request(2, 64))
    for _ in range(8):
        assert 1 in [p.request_id for p in run(made).pieces if p.samples]


def test_no_more_run_than_the_batch_holds():
    made = scheduler(*(request(n, 4) for n in range(1, 7)), max_batch=2)
    assert admitted(run(made)) == [1, 2]
    assert admitted(run(made)) == []


def test_nobody_overtakes_the_first_in_line():
    made = scheduler(request(1, 100, 20), request(2, 200, 4), request(3, 4), page_count=4)
    assert admitted(run(made)) == [1]  # 2 needs four pages, two are free; 3 would fit
    assert admitted(made.plan()) == []


def test_when_pages_run_out_the_last_to_arrive_is_set_back():
    made = scheduler(request(1, 63, 9), request(2, 63, 9), token_budget=200, page_count=3)
    run(made)
    run(made)  # both grow to 65 tokens next: one page is free, two are wanted
    decided = run(made)
    assert decided.preempted == (2,)
    assert [s.request.id for s in made.state.waiting] == [2]
    assert made.sequences[2].cached == 0 and made.sequences[2].answer_length == 2


def test_one_set_back_is_computed_again_from_all_its_tokens():
    made = scheduler(request(1, 63, 4), request(2, 63, 4), page_count=3, prefix_cache=False)
    plans = []
    while made.sequences:
        plans.append(run(made))
    again = next(p for decided in plans[3:] for p in decided.pieces if p.start == 0)
    assert again.request_id == 2 and again.rows > 63 and again.samples


def test_one_set_back_finds_its_pages_again():
    made = scheduler(request(1, 63, 4), request(2, 63, 4), page_count=3)
    plans = []
    while made.sequences:
        plans.append(run(made))
    again = [p for decided in plans[3:] for p in decided.pieces if p.request_id == 2]
    assert again[0].start == 64


def test_plan_changes_nothing():
    made = scheduler(request(1, 30), request(2, 40), request(3, 64, 64), page_count=3)
    for _ in range(6):
        before = copy.deepcopy(made.state)
        assert plan(made.state, made.limits) == plan(made.state, made.limits)
        assert [vars(s) for s in made.state.running] == [vars(s) for s in before.running]
        assert [vars(s) for s in made.state.waiting] == [vars(s) for s in before.waiting]
        made.check()
        run(made)


def test_a_request_that_can_never_fit_is_our_own_mistake():
    with pytest.raises(AssertionError, match="never"):
        scheduler(request(1, 200), page_count=1)


def test_limits_give_every_decode_a_row():
    with pytest.raises(AssertionError):
        Limits(max_batch=8, token_budget=4)


def test_a_request_cancelled_during_the_step_is_passed_over():
    made = scheduler(request(1, 4), request(2, 4))
    decided = made.plan()
    made.begin(decided)
    made.remove(1)
    made.commit(decided, {1: 7, 2: 7})
    made.check()
    assert made.sequences[2].ids[-1] == 7


# Shared prompts.


def test_a_prompt_seen_before_is_found_up_to_where_it_differs():
    prompts = range(200), [*range(150), 7, 8, 9]
    made = scheduler(*(request(n, p, 1) for n, p in enumerate(prompts, 1)), token_budget=200)
    run(made)
    decided = run(made)
    assert decided.admitted[0].request_id == 2 and decided.admitted[0].cached == 150
    assert decided.pieces[0].copies  # the page where they part


def test_what_few_tokens_have_in_common_is_not_worth_a_copy():
    made = scheduler(request(1, range(80), 1), request(2, [*range(69), 7, 8], 1), token_budget=80)
    run(made)
    assert made.plan().admitted[0].cached == 64


def test_a_copy_is_not_waited_for():
    """All pages are found but there is none to copy the last one to: it is computed again."""
    made = scheduler(request(1, range(100), 28), page_count=2)
    while made.sequences:
        run(made)
    made.add(request(2, range(100), 28))
    assert made.plan().admitted[0].cached == 64


def test_the_last_token_of_a_prompt_is_always_computed():
    made = scheduler(request(1, range(128), 1), request(2, range(128), 1), token_budget=128)
    run(made)
    decided = run(made)
    assert decided.admitted[0].cached == 127 and decided.pieces[0].rows == 1


def test_an_answer_is_found_by_the_next_turn():
    made = scheduler(request(1, range(60), 70))
    world = World(made)
    sequence = made.sequences[1]
    while made.sequences:
        world.step()
    made.add(request(2, [*sequence.ids[:-1], 5, 5, 5]))
    assert made.plan().admitted[0].cached == 128


def test_other_adapters_share_nothing():
    made = scheduler(request(1, range(100), 1, adapter="a"), request(2, range(100), 1))
    run(made)
    assert made.plan().admitted[0].cached == 0


def test_a_prompt_whose_logprobs_are_wanted_is_computed_whole():
    wanted = SamplingParams(prompt_logprobs=0)
    made = scheduler(request(1, range(100), 1), request(2, range(100), 1, params=wanted))
    run(made)
    assert made.plan().admitted[0].cached == 0


def test_pages_of_the_longest_ago_are_evicted_first():
    made = scheduler(page_count=4, token_budget=200)
    for number, prompt in enumerate([range(64), range(100, 164), range(64), range(300, 470)], 1):
        made.add(request(number, [*prompt, 7], 1))
        run(made)
    made.add(request(8, [*range(64), 9], 1))  # used again after the other one
    assert made.plan().admitted[0].cached == 64
    made.add(request(9, [*range(100, 164), 9], 1))
    assert [a.cached for a in made.plan().admitted] == [64, 0]


def test_siblings_wait_for_the_leader_and_copy_only_its_last_page():
    siblings = [request(n, range(100), 3, leader=1) for n in (2, 3)]
    made = scheduler(request(1, range(100), 3), *siblings, token_budget=64)
    assert admitted(run(made)) == [1] and admitted(run(made)) == []
    decided = run(made)  # the leader decodes; 99 tokens of each sibling are there
    assert [(a.request_id, a.cached) for a in decided.admitted] == [(2, 99), (3, 99)]
    assert [(p.request_id, p.rows, bool(p.copies)) for p in decided.pieces] == [
        (1, 1, True),
        (2, 1, True),
        (3, 1, False),
    ]
    assert made.state.pools[0].used_count == 4  # one of 64 shared, three last ones


def test_siblings_of_a_cancelled_leader_go_on():
    made = scheduler(request(1, range(100)), request(2, range(100), leader=1), token_budget=64)
    run(made)
    made.remove(1)
    decided = run(made)
    assert decided.admitted[0].cached == 64 and decided.admitted[0].pages == ((0,),)


def test_siblings_of_a_leader_that_has_ended_find_its_last_page():
    made = scheduler(request(1, range(100), 1), request(2, range(100), 1, leader=1))
    run(made)
    assert run(made).admitted[0].cached == 99


def test_a_waiting_sibling_does_not_hold_up_others():
    made = scheduler(
        request(1, range(100)), request(2, range(100), leader=1), request(3, 4), token_budget=104
    )
    assert admitted(run(made)) == [1, 3]


# Windows.


def test_pages_behind_the_window_become_free():
    made = scheduler(request(1, 300, 4), page_count=4, windows=(100,), token_budget=50)
    world = World(made)
    while made.sequences:
        world.step()
        assert made.state.pools[0].used_count <= made.limits.sights[0].pages_most(304) == 4
    assert world.steps == 6 + 3


# Modes.


def test_a_static_batch_admits_nobody_until_it_has_ended():
    made = scheduler(request(1, 4, 3), request(2, 4, 5), batching="static")
    run(made)
    made.add(request(3, 4))
    ran = [admitted(run(made)) for _ in range(4)]
    assert ran == [[]] * 4
    assert admitted(run(made)) == [3]


def test_a_static_batch_joins_whole_even_if_its_prompts_take_turns():
    made = scheduler(request(1, 40), request(2, 40), batching="static", token_budget=10)
    assert admitted(run(made)) == [1, 2]


def test_a_dynamic_batch_waits_until_it_is_full():
    made = scheduler(request(1, 4), batching="dynamic", max_wait_s=5.0, max_batch=2)
    assert made.plan(now_s=1.0) == Plan(wait_s=4.0)
    made.add(request(2, 4), now_s=1.0)
    assert admitted(made.plan(now_s=1.0)) == [1, 2]


def test_a_dynamic_batch_waits_no_longer_than_it_may():
    made = scheduler(request(1, 4), batching="dynamic", max_wait_s=5.0, max_batch=2)
    assert admitted(made.plan(now_s=5.0)) == [1]


# Deadlines.


def test_what_is_overdue_is_named_once():
    made = scheduler(request(1, 4, deadline_s=3.0), request(2, 4, deadline_s=9.0), request(3, 4))
    assert made.overdue(2.9) == [] and made.overdue(3.0) == [1] and made.overdue(3.0) == []
    made.remove(2)
    assert made.overdue(10.0) == []


def test_what_a_joining_request_found_is_there_when_another_one_makes_room():
    """The one set back names its last page, which holds more than the page that was found."""
    shared = tuple(range(74))
    made = scheduler(request(1, shared, 1), max_batch=1, page_count=8)
    run(made)  # it ends: its second page, ten tokens of it, rests
    made.add(request(2, (*shared, *range(500, 510)), 9, priority=1))
    run(made)
    made.add(request(3, (*shared, *range(600, 605)), 9))
    decided = run(made)
    assert (admitted(decided), decided.preempted) == ([3], (2,))
    assert decided.admitted[0].cached == len(shared)
    made.check()
