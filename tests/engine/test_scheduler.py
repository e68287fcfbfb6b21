"""The scheduler: its decisions on small worlds, and its promises on random ones."""

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.engine.pages import pages_for
from slipstream.engine.request import Request, SamplingParams
from slipstream.engine.scheduler import Limits, Piece, Plan, Scheduler, plan


def request(number, prompt_tokens, max_tokens=4):
    ids = tuple(1000 * number + i for i in range(prompt_tokens))  # unlike any other's
    return Request(number, ids, SamplingParams(), 0, max_tokens)


def scheduler(*requests, max_batch=4, token_budget=100, page_count=16, prefix_cache=True, **more):
    limits = Limits(max_batch, token_budget, **more)
    made = Scheduler(limits, page_count, prefix_cache=prefix_cache)
    for entry in requests:
        made.add(entry)
    return made


def run(made: Scheduler) -> Plan:
    """One step with a model that always says 7; ends what has its answer."""
    decided = made.plan()
    made.begin(decided)
    made.check()
    made.commit(decided, {p.request_id: 7 for p in decided.pieces if p.samples})
    for sequence in list(made.sequences.values()):
        if sequence.answer_length == sequence.request.max_tokens:
            made.remove(sequence.request.id)
    made.check()
    return decided


def admitted(decided: Plan) -> list[int]:
    return [admission.request_id for admission in decided.admitted]


def test_an_idle_scheduler_plans_nothing():
    assert scheduler().plan() == Plan(())


def test_a_prompt_is_cut_into_chunks_of_the_budget():
    made = scheduler(request(1, 25), token_budget=10)
    first, second, third = (run(made).pieces[0] for _ in range(3))
    assert first == Piece(1, start=0, count=10, pages_new=1, samples=False)
    assert second == Piece(1, start=10, count=10, pages_new=0, samples=False)
    assert third == Piece(1, start=20, count=5, pages_new=0, samples=True)


def test_decodes_go_before_the_prompt_of_an_earlier_request():
    made = scheduler(request(1, 30), request(2, 2), token_budget=32)
    run(made)  # all of 1, all of 2
    made.add(request(3, 100))
    pieces = run(made).pieces
    assert [(p.request_id, p.count) for p in pieces] == [(1, 1), (2, 1), (3, 30)]


def test_a_long_prompt_does_not_stall_running_decodes():
    made = scheduler(request(1, 2, max_tokens=9), token_budget=8)
    run(made)
    made.add(request(2, 64))
    for _ in range(8):
        assert 1 in [p.request_id for p in run(made).pieces if p.samples]


def test_no_more_run_than_the_batch_holds():
    made = scheduler(*(request(n, 4) for n in range(1, 7)), max_batch=2)
    assert admitted(run(made)) == [1, 2]
    assert run(made).admitted == ()


def test_nobody_overtakes_the_first_in_line():
    made = scheduler(request(1, 100, 20), request(2, 200, 4), request(3, 4), page_count=4)
    assert admitted(run(made)) == [1]  # 2 needs four pages, two are free; 3 would fit
    assert made.plan().admitted == ()


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
    assert again.request_id == 2 and again.count > 63 and again.samples


def test_plan_changes_nothing():
    made = scheduler(request(1, 30), request(2, 40), request(3, 64, 64), page_count=3)
    for _ in range(6):
        before = copy.deepcopy(made.state)
        assert plan(made.state, made.limits) == plan(made.state, made.limits)
        assert [vars(s) for s in made.state.running] == [vars(s) for s in before.running]
        assert [vars(s) for s in made.state.waiting] == [vars(s) for s in before.waiting]
        made.state.pool.check(s.pages for s in made.state.running)
        run(made)


def test_a_request_that_can_never_fit_is_our_own_mistake():
    with pytest.raises(AssertionError, match="never"):
        scheduler(request(1, 200), page_count=1)


def test_limits_give_every_decode_a_row():
    with pytest.raises(AssertionError):
        Limits(max_batch=8, token_budget=4)


arrivals = st.lists(
    st.tuples(st.integers(1, 200), st.integers(1, 90), st.integers(0, 12)), min_size=1, max_size=14
)


@settings(max_examples=300, deadline=None)
@given(arrivals, st.integers(1, 6), st.integers(0, 60), st.integers(0, 8), st.randoms())
def test_every_workload_ends_with_its_books_balanced(work, max_batch, more, spare, random):
    """Budget kept, no page leaked or owned twice, all that are not cancelled end."""
    largest = max(pages_for(prompt + answer) for prompt, answer, _ in work)
    made = scheduler(max_batch=max_batch, token_budget=max_batch + more, page_count=largest + spare)
    due = sorted((at, n, prompt, answer) for n, (prompt, answer, at) in enumerate(work, 1))
    bound = sum(10 + 3 * (prompt + answer) * (1 + answer) for prompt, answer, _ in work)
    step = 0
    while due or made.sequences:
        while due and due[0][0] <= step:
            _, number, prompt, answer = due.pop(0)
            made.add(request(number, prompt, answer))
        decided = run(made)
        assert decided.rows <= made.limits.token_budget
        assert len(made.state.running) <= max_batch
        assert decided.pieces or not made.sequences or due, "stuck"
        if made.sequences and random.random() < 0.05:
            made.remove(random.choice(list(made.sequences)))
            made.check()
        step += 1
        assert step < bound, "no progress"
    assert made.state.pool.free_count == made.state.pool.page_count


@settings(max_examples=100, deadline=None)
@given(arrivals, st.integers(1, 6), st.integers(0, 8))
def test_the_earliest_running_is_never_set_back(work, max_batch, spare):
    largest = max(pages_for(prompt + answer) for prompt, answer, _ in work)
    made = scheduler(max_batch=max_batch, token_budget=64, page_count=largest + spare)
    for number, (prompt, answer, _) in enumerate(work, 1):
        made.add(request(number, prompt, answer))
    while made.sequences:
        earliest = made.state.running[0].request.id if made.state.running else None
        assert earliest not in run(made).preempted


def test_a_request_cancelled_during_the_step_is_passed_over():
    made = scheduler(request(1, 4), request(2, 4))
    decided = made.plan()
    made.begin(decided)
    made.remove(1)
    made.commit(decided, {1: 7, 2: 7})
    made.check()
    assert made.sequences[2].ids[-1] == 7
