"""The whole engine over a fake program: same tokens alone or in any company, whatever happens."""

import numpy as np
import pytest
from fakes import ByteTokenizer, FakeProgram, fake_engine, parrot
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.engine.request import SamplingParams
from slipstream.errors import NumericError, PromptTooLongError, RequestError, UnsupportedError


def words(text, **more):
    """An engine whose model always says `text`."""
    return fake_engine(FakeProgram(257, parrot(text)), **more)


def test_a_prompt_is_answered_until_the_model_ends_its_turn():
    engine = words("Hello, wörld.")
    (completion,) = engine.generate("Hi>")
    assert completion.text == "Hello, wörld." and completion.finish == "stop"
    assert completion.stopped_by == 256 and completion.ids[-1] == 256
    assert completion.prompt_ids == tuple(b"Hi>")
    assert engine.idle and engine.snapshot().pages_used == 0
    engine.check()


def test_max_tokens_ends_it_earlier():
    (completion,) = words("Hello").generate("Hi>", SamplingParams(max_tokens=3))
    assert (completion.text, completion.finish) == ("Hel", "length")


def test_the_context_ends_it_at_the_latest():
    (completion,) = words("Hello, you", context=8).generate("Hi>")
    assert (completion.text, completion.finish) == ("Hello", "length")


def test_a_stop_string_is_not_part_of_the_answer():
    (completion,) = words("one two three").generate("Hi>", SamplingParams(stop=("wo ", "x")))
    assert (completion.text, completion.finish, completion.stopped_by) == ("one t", "stop", "wo ")


def test_a_stop_id_is_not_part_of_the_text():
    (completion,) = words("abc").generate("Hi>", SamplingParams(stop_ids=[ord("b")]))
    assert completion.text == "a" and completion.stopped_by == ord("b")


def test_what_looked_like_a_stop_string_comes_with_the_end():
    (completion,) = words("see EN").generate("Hi>", SamplingParams(stop="END"))
    assert completion.text == "see EN"


def test_ignore_eos_goes_on():
    params = SamplingParams(ignore_eos=True, max_tokens=9)
    assert len(words("abc").generate("Hi>", params)[0].ids) == 9


def test_half_a_character_at_the_end_is_marked():
    (completion,) = words("né").generate("Hi>", SamplingParams(max_tokens=2))
    assert completion.text == "n\ufffd"


def test_the_stream_adds_up_to_the_completion():
    engine = words("Hello, wörld.")
    deltas = list(engine.stream("Hi>"))
    assert "".join(d.text for d in deltas) == "Hello, wörld."
    assert [d.finish for d in deltas] == [None] * (len(deltas) - 1) + ["stop"]
    assert deltas[-1].timings.answer_tokens == len(deltas)


def test_a_stream_closed_early_leaves_nothing_behind():
    engine = words("Hello")
    with engine.stream("Hi>") as stream:
        next(stream)
    assert engine.idle and engine.snapshot().pages_used == 0
    assert list(stream) == []


def test_two_streams_may_be_read_in_turn():
    engine = words("abcdef")
    pairs = list(zip(engine.stream("1>"), engine.stream("2>"), strict=True))
    assert "".join(a.text for a, _ in pairs) == "".join(b.text for _, b in pairs) == "abcdef"


def test_chat_goes_through_the_template():
    engine = words("Hello")
    completion = engine.chat([{"role": "user", "content": "Hi"}])
    assert bytes(completion.prompt_ids) == b"<user>Hi\n<assistant>" and completion.text == "Hello"


def test_a_model_without_a_template_does_not_chat():
    engine = fake_engine(tokenizer=ByteTokenizer(chat=None))
    with pytest.raises(UnsupportedError, match="no chat template"):
        engine.chat([{"role": "user", "content": "Hi"}])


def test_prompts_that_cannot_be_answered_are_refused_in_words():
    engine = fake_engine(context=64)
    with pytest.raises(PromptTooLongError, match=r"70 tokens .* 71 of at most 64"):
        engine.generate([[1] * 70])
    with pytest.raises(PromptTooLongError, match="65 of at most 64"):
        engine.generate([[1] * 60], SamplingParams(max_tokens=5))
    with pytest.raises(RequestError, match="no tokens"):
        engine.generate([[]])
    with pytest.raises(RequestError, match="0…15"):
        engine.generate([[16]])
    assert engine.idle


def test_logprobs_are_reported_when_asked_for():
    params = SamplingParams(max_tokens=4, logprobs=True, top_logprobs=2)
    (completion,) = fake_engine().generate([[1, 2]], params)
    assert [entry.id for entry in completion.logprobs] == list(completion.ids)
    for entry in completion.logprobs:
        assert entry.top[0] == (entry.id, entry.logprob) and entry.top[1][1] <= entry.logprob
    assert fake_engine().generate([[1, 2]], SamplingParams(max_tokens=4))[0].logprobs == ()


def test_padding_ids_of_a_wide_head_are_never_sampled():
    program = FakeProgram(300, lambda ids: np.arange(300, dtype=np.float32))
    (completion,) = fake_engine(program).generate("x")
    assert completion.ids == (256,)


def test_timings_follow_the_clock():
    ticks = iter(range(100))
    engine = words("abc", clock=lambda: float(next(ticks)))
    timings = engine.generate("Hi>")[0].timings
    assert timings.arrived_s < timings.started_s < timings.first_token_s < timings.finished_s
    assert timings.decode_tokens_per_s == 3 / (timings.finished_s - timings.first_token_s)


def test_an_unseeded_draw_takes_a_fresh_seed():
    params = SamplingParams(temperature=1, max_tokens=20)
    seeds = iter([5, 5, 6])
    engine = fake_engine(fresh_seed=lambda: next(seeds))
    first, second, third = (engine.generate([[1]], params)[0].ids for _ in range(3))
    assert first == second != third


def test_a_failed_step_leaves_balanced_books():
    program = FakeProgram(answer=lambda ids: np.full(16, np.nan, np.float32))
    engine = fake_engine(program)
    with pytest.raises(NumericError):
        engine.generate([[1], [2]])
    engine.check()
    assert engine.idle and engine.snapshot().pages_used == 0


def test_statistics_count_what_happened():
    engine = fake_engine(page_count=4, context=256)
    engine.generate([[1] * 100, [2] * 100], SamplingParams(max_tokens=60, ignore_eos=True))
    seen = engine.snapshot()
    assert seen.prompt_tokens_total == 200 and seen.answer_tokens_total == 120
    assert seen.finished_total == 2 and seen.preemptions_total >= 1 and seen.kv_use == 0


job = st.tuples(
    st.lists(st.integers(0, 15), min_size=1, max_size=150),
    st.integers(1, 50),
    st.sampled_from([0.0, 0.7, 1.5]),
)


@settings(max_examples=15, deadline=None)
@given(
    jobs=st.lists(job, min_size=1, max_size=8),
    max_batch=st.integers(1, 6),
    more_budget=st.integers(0, 70),
    spare_pages=st.integers(0, 6),
    random=st.randoms(),
)
def test_tokens_are_those_of_the_request_alone(jobs, max_batch, more_budget, spare_pages, random):
    """In any batch, cut in any chunks, set back or not, with others cancelled around it."""
    engine = fake_engine(
        max_batch=max_batch,
        token_budget=max_batch + more_budget,
        context=256,
        page_count=4 + spare_pages,
    )
    expected, got, cancelled = {}, {}, set()
    for number, (prompt, max_tokens, temperature) in enumerate(jobs):
        params = SamplingParams(temperature=temperature, max_tokens=max_tokens, seed=number)
        alone = fake_engine(token_budget=256, context=256)
        request = engine.request(prompt, params)
        expected[request.id] = alone.generate([prompt], params)[0].ids
        got[request.id] = []
        engine.submit(request)
        for _ in range(random.randrange(3)):
            collect(engine, got)
        if random.random() < 0.2:
            victim = random.choice(list(got))
            engine.cancel(victim)
            cancelled.add(victim)
            engine.check()
    while not engine.idle:
        collect(engine, got)
    for number, ids in got.items():
        full = list(expected[number])
        assert ids == full[: len(ids)] if number in cancelled else ids == full
    assert engine.snapshot().pages_used == 0


def collect(engine, got):
    for delta in engine.step():
        got[delta.request_id] += delta.ids
    engine.check()
