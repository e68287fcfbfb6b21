"""Parsers of tool calls and of reasoning: any cut of a text gives the same events."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.serve.reasoning import ReasoningSplitter
from slipstream.serve.splitter import Splitter
from slipstream.serve.tools.events import (
    Call,
    CallArguments,
    CallBegun,
    Message,
    Said,
    Thought,
)
from slipstream.serve.tools.formats import HERMES, LLAMA3, MISTRAL, MISTRAL_ARGS, Tool

TOOLS = (Tool("f", {}, {}), Tool("get_weather", {}, {}))


def pieces(text, cuts):
    places = sorted({min(cut, len(text)) for cut in cuts})
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


def events(splitter, parts):
    """All events, with neighbors of one kind joined."""
    joined = []
    for event in [e for part in parts for e in splitter.push(part)] + splitter.finish():
        last = joined[-1] if joined else None
        same = type(last) is type(event) and not isinstance(event, CallBegun)
        if same and getattr(last, "index", 0) == getattr(event, "index", 0):
            joined[-1] = type(event)(*(*vars(event).values(),)[:-1], last.text + event.text)
        else:
            joined.append(event)
    return joined


def splitter(form, **more):
    return Splitter(parser=form.parser(TOOLS), **more)


def message(form, text, **more):
    return splitter(form, **more).whole(text)


OSLO = '{"city": "Oslo", "days": [1, {"é": null}], "quote": "\\"</tool_call>"}'


@pytest.mark.parametrize(
    ("form", "text", "content", "calls"),
    [
        (HERMES, f'<tool_call>\n{{"name": "f", "arguments": {OSLO}}}\n</tool_call>', "", [OSLO]),
        (
            HERMES,
            f'Let me.\n<tool_call>{{"arguments": {OSLO}, "name": "f"}}</tool_call>\n'
            '<tool_call>{"name": "f"}</tool_call>\n',
            "Let me.",
            [OSLO, "{}"],
        ),
        (
            HERMES,
            '<tool_call>[{"name":"f","arguments":{"a":1}}, {"name":"f"}]</tool_call>',
            "",
            ['{"a":1}', "{}"],
        ),
        (
            HERMES,
            '<tool_call>{"name": "f", "arguments": "{\\"a\\": 2}"}</tool_call>',
            "",
            ['{"a": 2}'],
        ),
        (HERMES, '<tool_call>{"name": "f", "arguments": null, "id": 7}</tool_call>', "", ["{}"]),
        (LLAMA3, f'{{"name": "f", "parameters": {OSLO}}}', "", [OSLO]),
        (
            LLAMA3,
            '{"name":"f","parameters":{}}; {"name":"f","parameters":{"a":1}}',
            "",
            ["{}", '{"a":1}'],
        ),
        (LLAMA3, '<|python_tag|>{"name": "f", "parameters": {}}', "", ["{}"]),
        (MISTRAL, f'[TOOL_CALLS] [{{"name": "f", "arguments": {OSLO}, "id": "abc"}}]', "", [OSLO]),
        (
            MISTRAL_ARGS,
            f"Well.[TOOL_CALLS]f[ARGS]{OSLO}[TOOL_CALLS]f[CALL_ID]a1[ARGS]{{}}",
            "Well.",
            [OSLO, "{}"],
        ),
    ],
)
def test_calls_are_found(form, text, content, calls):
    found = message(form, text)
    assert found.content == content
    assert found.calls == [Call("f", arguments) for arguments in calls]


@pytest.mark.parametrize(
    ("form", "text"),
    [
        (HERMES, "It rains in <Oslo>. 1 < 2 <tool"),
        (HERMES, "  spaces stay \n"),
        (HERMES, '<tool_call>{"name": "unknown", "arguments": {}}</tool_call>'),
        (HERMES, "<tool_call>weather in Oslo</tool_call>"),
        (HERMES, "<tool_call></tool_call>"),
        (HERMES, '<tool_call>{"name": "f"'),
        (HERMES, '<tool_call>{"name": "f", "arguments": [1]}</tool_call>'),
        (LLAMA3, '{"answer": 42} and {"name": "f", "parameters": {}}'),
        (LLAMA3, '<|python_tag|>print("f")'),
        (MISTRAL, "[TOOL_CALLS] none"),
        (MISTRAL_ARGS, '[TOOL_CALLS]unknown[ARGS]{"a": 1}'),
    ],
)
def test_what_is_no_call_comes_out_as_text_whole(form, text):
    assert message(form, text) == Message(content=text)


def test_arguments_stream_as_soon_as_the_name_is_known():
    parser = HERMES.parser(TOOLS)
    parts = ['Hm <tool_call>{"name": "f", "argum', 'ents": {"a', '": 1}', "}</tool_call>"]
    told = [parser.push(part) for part in parts]
    assert told == [
        [Said("Hm")],
        [CallBegun(0, "f"), CallArguments(0, '{"a')],
        [CallArguments(0, '": 1}')],
        [],
    ]


def test_a_call_cut_short_keeps_what_it_has():
    found = message(HERMES, '<tool_call>{"name": "f", "arguments": {"city": "Os')
    assert found.calls == [Call("f", '{"city": "Os')] and not found.content


def test_broken_arguments_end_at_the_marker():
    found = message(HERMES, '<tool_call>{"name": "f", "arguments": {"a": 1</tool_call> Sorry.')
    assert found.calls == [Call("f", '{"a": 1')] and found.content == " Sorry."


def test_calls_after_the_first_are_left_out_where_one_is_wanted():
    two = '<tool_call>{"name": "f"}</tool_call><tool_call>{"name": "f"}</tool_call>'
    assert len(message(HERMES, two).calls) == 2
    assert len(message(HERMES, two, one_call=True).calls) == 1


FRAGMENTS = """<tool_call> </tool_call> [TOOL_CALLS] <|python_tag|> [ARGS] <think> </think> f well
get_weather [ ] { } " , ; : < é \\ 1 "name" {"name":"no","arguments":{}} {"name":"f","parameters":{}}
{"name":"f","arguments":{"a":[1,"x"]}}"""
fragments = st.sampled_from([" ", "\n", *FRAGMENTS.split()])


@given(
    form=st.sampled_from([HERMES, LLAMA3, MISTRAL, MISTRAL_ARGS]),
    parts=st.lists(fragments, max_size=12),
    cuts=st.lists(st.integers(0, 300), max_size=20),
    inside=st.none() | st.booleans(),
)
def test_any_cut_of_any_text_gives_the_same_events(form, parts, cuts, inside):
    def fresh():
        reasoning = None if inside is None else ReasoningSplitter(inside=inside)
        return splitter(form) if reasoning is None else Splitter(reasoning, form.parser(TOOLS))

    text = "".join(parts)
    whole = events(fresh(), [text])
    assert events(fresh(), pieces(text, cuts)) == whole
    assert events(fresh(), list(text)) == whole
    if inside is None and not any(isinstance(event, CallBegun) for event in whole):
        assert whole == ([Said(text)] if text else [])


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
objects = st.dictionaries(st.text(max_size=6), values, max_size=4)


@settings(max_examples=50)
@given(
    calls=st.lists(
        st.tuples(st.sampled_from(["f", "get_weather"]), objects), min_size=1, max_size=3
    ),
    form=st.sampled_from([HERMES, LLAMA3, MISTRAL, MISTRAL_ARGS]),
    ascii_only=st.booleans(),
)
def test_calls_written_in_any_format_are_read_back(calls, form, ascii_only):
    dump = lambda value: json.dumps(value, ensure_ascii=ascii_only)  # noqa: E731
    written = [
        form.call_head.replace("NAME", name) + dump(arguments) + form.call_tail
        for name, arguments in calls
    ]
    found = message(form, form.before + form.between.join(written) + form.after)
    assert [(call.name, json.loads(call.arguments)) for call in found.calls] == calls
    assert found.content == ""


def reasoned(text, inside=False):
    return Splitter(ReasoningSplitter(inside=inside)).whole(text)


def test_reasoning_is_split_off():
    assert reasoned("<think>\nhm\n</think>\n\nYes.") == Message("Yes.", "hm")
    assert reasoned("hm\n</think>\nYes.", inside=True) == Message("Yes.", "hm")
    assert reasoned("<think>\n\n</think>\n\nYes.") == Message("Yes.")
    assert reasoned("Yes, <think> is a tag.") == Message("Yes, <think> is a tag.")
    assert reasoned("<think>never done") == Message("", "never done")
    assert reasoned(" <thi") == Message(" <thi")


def test_reasoning_streams_and_never_shows_half_a_marker():
    split = ReasoningSplitter()
    told = [split.push(part) for part in ("<th", "ink>\nhm", ", so </th", "ink>", "\n", "Yes")]
    assert told == [[], [Thought("hm")], [Thought(", so")], [], [], [Said("Yes")]]
