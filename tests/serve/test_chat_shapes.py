"""Structured output, several choices, echo, logprobs and beams, with the `openai` client."""

from contextlib import contextmanager

import openai as library
import pytest
from live_server import live
from openai import OpenAI
from pydantic import BaseModel
from speakers import HERMES, PLAIN, speaker

from slipstream.serve.app import make_app

ASKED = {"model": "fake", "messages": [{"role": "user", "content": "Rain?"}]}


@contextmanager
def client_of(script, template=HERMES):
    with (
        live(make_app(speaker(script, template), name="fake")) as url,
        OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


class Answer(BaseModel):
    rain: bool


def test_a_schema_is_enforced_and_parsed_by_the_client():
    with client_of("Perhaps.", PLAIN) as client:
        reply = client.chat.completions.parse(
            **ASKED, response_format=Answer, temperature=0, max_tokens=300
        )
        assert isinstance(reply.choices[0].message.parsed, Answer)
        more = {"structured_outputs": {"choice": ["yes", "no"]}}
        chosen = client.chat.completions.create(**ASKED, extra_body=more)
        assert chosen.choices[0].message.content in ("yes", "no")
        more = {"structured_outputs": {"regex": "[0-9]{3}"}}
        plain = client.completions.create(model="fake", prompt="x\x01", extra_body=more)
        assert plain.choices[0].text.isdecimal() and len(plain.choices[0].text) == 3
        with pytest.raises(library.BadRequestError, match="grammar"):
            client.chat.completions.create(
                **ASKED, extra_body={"structured_outputs": {"grammar": "no grammar"}}
            )


def test_n_choices_share_a_prompt():
    with client_of("Hello") as client:
        whole = client.chat.completions.create(**ASKED, n=3, temperature=0)
        assert [c.index for c in whole.choices] == [0, 1, 2]
        assert [c.message.content for c in whole.choices] == ["Hello"] * 3
        one = client.chat.completions.create(**ASKED, temperature=0)
        assert whole.usage.prompt_tokens == one.usage.prompt_tokens
        assert whole.usage.completion_tokens == 3 * one.usage.completion_tokens
        texts = ["", ""]
        for chunk in client.completions.create(model="fake", prompt="x\x01", n=2, stream=True):
            texts[chunk.choices[0].index] += chunk.choices[0].text
        assert texts == ["Hello", "Hello"]


def test_echo_repeats_the_prompt_and_its_logprobs():
    with client_of("Hello") as client:
        reply = client.completions.create(
            model="fake", prompt="ab\x01", echo=True, logprobs=1, max_tokens=2
        )
        chunks = list(
            client.completions.create(
                model="fake", prompt=[97, 1], echo=True, max_tokens=2, stream=True
            )
        )
    (choice,) = reply.choices
    assert choice.text == "ab\x01He" and choice.logprobs.tokens == ["a", "b", "\x01", "H", "e"]
    assert choice.logprobs.token_logprobs[0] is None and choice.logprobs.token_logprobs[2] <= 0
    assert choice.logprobs.text_offset == [0, 1, 2, 3, 4]
    assert "".join(chunk.choices[0].text for chunk in chunks) == "a\x01He"


def test_logprobs_of_the_prompt_are_told():
    with client_of("Hello") as client:
        more = {"prompt_logprobs": 2}
        reply = client.chat.completions.create(**ASKED, max_tokens=2, extra_body=more)
    first, *rest = reply.choices[0].prompt_logprobs
    assert first is None and len(rest) == reply.usage.prompt_tokens - 1
    assert all(len(entry) in (2, 3) for entry in rest)


def test_beams_are_the_best_and_not_streamed():
    with client_of("Hello") as client:
        asked = {**ASKED, "extra_body": {"beam_width": 3}}
        reply = client.chat.completions.create(**asked, n=2, max_tokens=8)
        assert [c.index for c in reply.choices] == [0, 1]
        assert reply.choices[0].message.content == "Hello"
        assert reply.choices[1].message.content != "Hello"
        assert reply.usage.prompt_tokens == len("<user>Rain?\x01")
        plain = client.completions.create(
            model="fake", prompt=["a\x01", "b\x01"], extra_body={"beam_width": 2}
        )
        assert [c.text for c in plain.choices] == ["Hello", "Hello"]
        cut = client.chat.completions.create(**asked, stop="l", frequency_penalty=0.5)
        assert (cut.choices[0].message.content, cut.choices[0].finish_reason) == ("He", "stop")
        for more in ({"stream": True}, {"top_p": 0.5}, {"n": 4}):
            with pytest.raises(library.BadRequestError):
                client.chat.completions.create(**asked, **more)
