"""The `openai` client, unmodified, against a live server."""

import asyncio
import time

import openai as library
import pytest
from live_server import live, run_async
from speakers import speaker

from slipstream.serve.app import make_app
from slipstream.serve.openai_logprobs import shown

ASKED = {"model": "fake", "messages": [{"role": "user", "content": "Hi"}]}


def test_a_chat_is_answered(openai):
    reply = openai.chat.completions.create(**ASKED)
    (choice,) = reply.choices
    assert choice.message.content == "Hello, wörld!" and choice.message.role == "assistant"
    assert choice.finish_reason == "stop" and reply.model == "fake"
    assert reply.usage.prompt_tokens == len("<user>Hi\n<assistant>")
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens


def test_a_chat_is_streamed(openai):
    chunks = list(openai.chat.completions.create(**ASKED, stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == "Hello, wörld!"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks][-2:] == [None, "stop"]
    assert len({c.id for c in chunks}) == 1


def test_a_stream_ends_with_its_usage_when_asked_for(openai):
    options = {"include_usage": True}
    *chunks, last = openai.chat.completions.create(**ASKED, stream=True, stream_options=options)
    assert last.choices == [] and last.usage.completion_tokens == 15
    assert all(c.usage is None for c in chunks)


def test_an_answer_may_be_sent_back_as_it_came(openai):
    answer = openai.chat.completions.create(**ASKED).choices[0].message
    turns = [*ASKED["messages"], answer, {"role": "user", "content": "More"}]
    reply = openai.chat.completions.create(model="fake", messages=turns)
    assert reply.choices[0].message.content == "Hello, wörld!"


def test_what_changes_nothing_is_accepted(openai):
    reply = openai.chat.completions.create(
        **ASKED,
        n=1,
        frequency_penalty=0,
        presence_penalty=0.0,
        logit_bias={},
        user="somebody",
        response_format={"type": "text"},
        tools=[],
        tool_choice="none",
        temperature=0.5,
        top_p=0.9,
        seed=-3,
        max_completion_tokens=20,
        extra_body={"top_k": 40, "min_p": 0.1, "ignore_eos": False},
    )
    assert reply.choices[0].message.content == "Hello, wörld!"


def test_stop_and_max_tokens(openai):
    stopped = openai.chat.completions.create(**ASKED, stop=["wör", "x"]).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == ("Hello, ", "stop")
    short = openai.chat.completions.create(**ASKED, max_tokens=4).choices[0]
    assert (short.message.content, short.finish_reason) == ("Hell", "length")


def test_chat_logprobs(openai):
    reply = openai.chat.completions.create(**ASKED, logprobs=True, top_logprobs=2, max_tokens=2)
    entries = reply.choices[0].logprobs.content
    assert [e.token for e in entries] == ["H", "e"] and entries[0].bytes == [ord("H")]
    assert len(entries[0].top_logprobs) == 2 and entries[0].top_logprobs[0].token == "H"
    streamed = list(
        openai.chat.completions.create(**ASKED, logprobs=True, max_tokens=2, stream=True)
    )
    assert [c.choices[0].logprobs.content[0].token for c in streamed] == ["H", "e"]


def test_a_completion_is_answered_and_streamed(openai):
    whole = openai.completions.create(model="fake", prompt="Say it>")
    assert whole.choices[0].text == "Hello, wörld!" and whole.object == "text_completion"
    chunks = list(openai.completions.create(model="fake", prompt="Say it>", stream=True))
    assert "".join(c.choices[0].text for c in chunks) == "Hello, wörld!"


def test_a_completion_of_sixteen_tokens_unless_said(openai):
    reply = openai.completions.create(model="fake", prompt="x>", extra_body={"ignore_eos": True})
    assert reply.usage.completion_tokens == 16 and reply.choices[0].finish_reason == "length"


def test_several_prompts_make_several_choices(openai):
    prompts = ["a>", "bb>", "ccc>"]
    whole = openai.completions.create(model="fake", prompt=prompts, max_tokens=5)
    assert [c.text for c in whole.choices] == ["Hello"] * 3
    assert [c.index for c in whole.choices] == [0, 1, 2] and whole.usage.prompt_tokens == 9
    texts = ["", "", ""]
    stream = openai.completions.create(model="fake", prompt=prompts, max_tokens=5, stream=True)
    for chunk in stream:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == ["Hello"] * 3


def test_token_ids_are_a_prompt(openai):
    for prompt in (list(b"Hi>"), [list(b"Hi>")]):
        reply = openai.completions.create(model="fake", prompt=prompt, max_tokens=5)
        assert reply.choices[0].text == "Hello" and reply.usage.prompt_tokens == 3


def test_completion_logprobs(openai):
    reply = openai.completions.create(model="fake", prompt="x>", max_tokens=3, logprobs=1)
    found = reply.choices[0].logprobs
    assert found.tokens == ["H", "e", "l"] and found.text_offset == [0, 1, 2]
    assert [list(top) for top in found.top_logprobs] == [["H"], ["e"], ["l"]]


def test_impossible_tokens_have_openai_s_number_for_that():
    assert [shown(value) for value in (-0.5, float("-inf"))] == [-0.5, -9999.0]


def test_models_are_listed(openai):
    assert [m.id for m in openai.models.list()] == ["fake"]
    assert openai.models.retrieve("fake").id == "fake"


def test_an_unknown_model_is_not_found(openai):
    with pytest.raises(library.NotFoundError, match="'gpt-9' does not exist") as caught:
        openai.chat.completions.create(**{**ASKED, "model": "gpt-9"})
    assert caught.value.code == "model_not_found" and caught.value.param == "model"
    with pytest.raises(library.NotFoundError):
        openai.models.retrieve("gpt-9")


def test_a_prompt_too_long_is_refused_with_counts(openai):
    turns = [{"role": "user", "content": "x" * 400}]
    with pytest.raises(
        library.BadRequestError, match=r"418 tokens .* 419 of at most 256"
    ) as caught:
        openai.chat.completions.create(model="fake", messages=turns)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(library.BadRequestError, match="of at most 256"):
        openai.chat.completions.create(model="fake", messages=turns, stream=True)


@run_async
async def test_many_at_once(url):
    async with library.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
        jobs = [client.chat.completions.create(**ASKED, max_tokens=1 + n % 9) for n in range(24)]
        replies = await asyncio.gather(*jobs)
    for n, reply in enumerate(replies):
        said = "Hello, wörld!".encode()[: 1 + n % 9].decode(errors="replace")
        assert reply.choices[0].message.content == said


def test_a_timeout_is_an_error_in_words():
    """Before the first event it has a status, within a stream an event."""
    engine = speaker("x" * 4000, context=8192)
    first = engine.program.step

    def slowly(batch, kv):
        time.sleep(0.02)
        return first(batch, kv)

    engine.program.step = slowly
    asked = {**ASKED, "extra_body": {"timeout": 0.3}}
    with (
        live(make_app(engine, name="fake")) as url,
        library.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        with pytest.raises(library.InternalServerError, match="longer than") as caught:
            client.chat.completions.create(**asked)
        assert caught.value.status_code == 504 and caught.value.code == "timeout"
        with pytest.raises(library.APIError, match="longer than"):
            said = list(client.chat.completions.create(**asked, stream=True))
            assert said
