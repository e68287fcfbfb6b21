"""Tools and reasoning, with the unmodified `openai` client."""

import json
from contextlib import contextmanager

import openai as library
import pytest
from live_server import live
from openai import OpenAI
from pydantic import BaseModel
from speakers import HERMES, LLAMA3, MISTRAL, OPENED, PLAIN, QWEN3, Tokenizer, says, speaker

from slipstream.serve.app import make_app

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
ASKED = {"model": "fake", "messages": [{"role": "user", "content": "Rain?"}]}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'


@contextmanager
def served(engine):
    with (
        live(make_app(engine, name="fake")) as url,
        OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


def client_of(script, template=HERMES, **more):
    return served(speaker(script, template, **more))


def gathered(stream):
    """(content, reasoning, [(id, name, arguments)], finish_reason) of a stream."""
    said, thought, calls, finish = "", "", {}, None
    for chunk in stream:
        (choice,) = chunk.choices
        said += choice.delta.content or ""
        thought += getattr(choice.delta, "reasoning_content", None) or ""
        for call in choice.delta.tool_calls or ():
            entry = calls.setdefault(call.index, [call.id, call.function.name, ""])
            entry[2] += call.function.arguments or ""
        finish = choice.finish_reason or finish
    return said, thought, [tuple(calls[i]) for i in sorted(calls)], finish


def test_a_call_is_answered_and_its_result_sent_back():
    with client_of(f"Let me see.\n{CALL}") as client:
        reply = client.chat.completions.create(**ASKED, tools=[WEATHER])
        (choice,) = reply.choices
        (call,) = choice.message.tool_calls
        assert choice.finish_reason == "tool_calls" and choice.message.content == "Let me see."
        assert call.id.startswith("call_") and call.type == "function"
        assert (call.function.name, call.function.arguments) == ("weather", '{"city": "Oslo"}')
        turns = [
            *ASKED["messages"],
            choice.message,
            {"role": "tool", "tool_call_id": call.id, "content": "It pours."},
        ]
        again = client.chat.completions.create(model="fake", messages=turns, tools=[WEATHER])
        assert again.usage.prompt_tokens > reply.usage.prompt_tokens


def test_calls_stream_name_first_with_index_and_id():
    with client_of(f"See:\n{CALL}\n{CALL.replace('Oslo', 'Rome')}") as client:
        stream = list(client.chat.completions.create(**ASKED, tools=[WEATHER], stream=True))
    said, _, calls, finish = gathered(stream)
    assert (said, finish) == ("See:", "tool_calls")
    assert [call[1:] for call in calls] == [
        ("weather", '{"city": "Oslo"}'),
        ("weather", '{"city": "Rome"}'),
    ]
    assert len({call[0] for call in calls}) == 2
    deltas = [call for c in stream for call in c.choices[0].delta.tool_calls or ()]
    assert deltas[0].function.name == "weather" and deltas[0].function.arguments == ""
    assert len(deltas) > 10, "arguments come in pieces"


def test_the_client_s_own_stream_helper_gathers_calls():
    with (
        client_of(CALL) as client,
        client.chat.completions.stream(
            model="fake",
            messages=ASKED["messages"],
            tools=[library.pydantic_function_tool(Weather)],
        ) as stream,
    ):
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert "tool_calls.function.arguments.delta" not in kinds  # another tool: it is no call
    assert final.choices[0].message.content == CALL


class Weather(BaseModel):
    """Named `Weather`, not `weather`."""

    city: str


@pytest.mark.parametrize(
    ("template", "script", "length"),
    [
        (LLAMA3, '{"name": "weather", "parameters": {"city": "Oslo"}}', 29),
        (MISTRAL, '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Oslo"}}]', 9),
        (PLAIN, CALL, 29),
    ],
)
def test_every_family_calls(template, script, length):
    with client_of(script, template) as client:
        whole = client.chat.completions.create(**ASKED, tools=[WEATHER])
        streamed = gathered(client.chat.completions.create(**ASKED, tools=[WEATHER], stream=True))
    (call,) = whole.choices[0].message.tool_calls
    assert len(call.id) == length and json.loads(call.function.arguments) == {"city": "Oslo"}
    assert whole.choices[0].message.content is None
    assert streamed[2][0][1:] == (call.function.name, call.function.arguments)


def test_without_tools_or_with_choice_none_markers_are_text():
    with client_of(CALL) as client:
        plain = client.chat.completions.create(**ASKED)
        none = client.chat.completions.create(**ASKED, tools=[WEATHER], tool_choice="none")
    assert plain.choices[0].message.content == none.choices[0].message.content == CALL
    assert plain.choices[0].finish_reason == "stop"


def test_one_call_where_parallel_ones_are_not_wanted():
    with client_of(CALL + CALL) as client:
        asked = {**ASKED, "tools": [WEATHER], "parallel_tool_calls": False}
        assert len(client.chat.completions.create(**asked).choices[0].message.tool_calls) == 1


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "weather"}}]
)
def test_a_call_is_enforced_whatever_the_model_would_say(choice):
    with client_of("I would rather not say.") as client:
        asked = {**ASKED, "tools": [WEATHER], "tool_choice": choice, "max_tokens": 400}
        reply = client.chat.completions.create(
            **asked, temperature=0, logit_bias={str(ord('"')): 30}
        )
    (call,) = reply.choices[0].message.tool_calls or [None]
    assert call is not None and call.function.name == "weather"


def test_a_template_with_tools_of_its_own_kind_refuses_them():
    template = "{{ tools }}{% for m in messages %}{{ m.content }}{% endfor %}<|tools|>\x01"
    with client_of("x", template) as client:
        with pytest.raises(library.BadRequestError, match="not known"):
            client.chat.completions.create(**ASKED, tools=[WEATHER])
        assert client.chat.completions.create(**ASKED).choices[0].message.content == "x"


def test_tools_in_the_text_of_templates_that_know_none():
    rendered = []

    class Spy(Tokenizer):
        def encode(self, text, special=True):
            rendered.append(text)
            return super().encode(text, special)

    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Rain?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "x", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
            ],
        },
        {"role": "tool", "tool_call_id": "x", "content": "pours"},
    ]
    with client_of("Yes.", tokenizer=Spy(PLAIN)) as client:
        client.chat.completions.create(model="fake", messages=turns, tools=[WEATHER])
    prompt = rendered[-1]
    assert prompt.startswith("<system>Be brief.\n\n# Tools") and '"name": "weather"' in prompt
    assert '<assistant><tool_call>\n{"name": "weather", "arguments": {}}\n</tool_call>' in prompt
    assert "<user><tool_response>\npours\n</tool_response>" in prompt


class Marked(Tokenizer):
    """Token 257 is a control token."""

    def __init__(self, template, marker):
        super().__init__(template, special_ids=frozenset({256, 257}))
        self.marker = marker

    def encode(self, text, special=True):
        return [257] if text == self.marker else super().encode(text, special)

    def decode(self, ids, skip_special=True):
        text = b"" if skip_special else self.marker.encode()
        parts = [text if i == 257 else bytes([i]) for i in ids if i != 256]
        return b"".join(parts).decode(errors="replace")


def marked_engine(template, marker, before, after):
    """Its model says `before`, the marker, and `after`."""
    engine = speaker(before, tokenizer=Marked(template, marker))
    first, then = engine.program.answer, says(after)

    def answer(ids):
        logits = (then if 257 in ids else first)(ids)
        if 257 not in ids and logits[256]:  # instead of the end
            logits[256], logits[257] = 0, 40
        return logits

    engine.program.answer = answer
    return engine


def test_markers_that_are_control_tokens_are_seen():
    arguments = '{"city": "Oslo"}'
    call = f'[{{"name": "weather", "arguments": {arguments}}}]'
    with served(marked_engine(MISTRAL, "[TOOL_CALLS]", "Well.", call)) as client:
        reply = client.chat.completions.create(**ASKED, tools=[WEATHER])
        plain = client.chat.completions.create(**ASKED)
    assert reply.choices[0].message.tool_calls[0].function.arguments == arguments
    assert reply.choices[0].message.content == "Well."
    assert plain.choices[0].message.content == f"Well.{call}"
    with served(marked_engine(QWEN3, "</think>", "<think>hm", "\n\nYes.")) as client:
        message = client.chat.completions.create(**ASKED).choices[0].message
    assert (message.content, message.reasoning_content) == ("Yes.", "hm")


def test_reasoning_is_split_out_whole_and_streamed():
    with client_of("<think>\nIt may.\n</think>\n\nYes.", QWEN3) as client:
        message = client.chat.completions.create(**ASKED).choices[0].message
        streamed = gathered(client.chat.completions.create(**ASKED, stream=True))
        turns = [*ASKED["messages"], message, {"role": "user", "content": "Sure?"}]
        client.chat.completions.create(model="fake", messages=turns)
    assert (message.content, message.reasoning_content) == ("Yes.", "It may.")
    assert streamed[:2] == ("Yes.", "It may.")


def test_reasoning_can_be_switched_off_and_begin_in_the_prompt():
    off = {"chat_template_kwargs": {"enable_thinking": False}}
    with client_of("Yes.", QWEN3) as client:
        message = client.chat.completions.create(**ASKED, extra_body=off).choices[0].message
        assert message.content == "Yes." and not hasattr(message, "reasoning_content")
    with client_of("<think>\nIt may.\n</think>\nYes.", OPENED) as client:
        message = client.chat.completions.create(**ASKED).choices[0].message
        assert (message.content, message.reasoning_content) == ("Yes.", "It may.")
