"""Calls written as tags, and harmony's channels: any cut of a text gives the same events."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_tool_parsers import events, pieces

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
from slipstream.serve.tools.formats import GLM, HARMONY, QWEN_CODER, Tool

SCHEMA = {"properties": {"text": {"type": "string"}, "n": {"type": "integer"}, "any": {}}}
TOOLS = (Tool("f", SCHEMA, {}), Tool("get_weather", {}, {}))
FORMATS = (QWEN_CODER, GLM, HARMONY)


def message(form, text, **more):
    return Splitter(parser=form.parser(TOOLS), **more).whole(text)


def qwen(name, arguments):
    inner = "".join(f"<parameter={k}>\n{v}\n</parameter>\n" for k, v in arguments.items())
    return f"<tool_call>\n<function={name}>\n{inner}</function>\n</tool_call>"


def glm(name, arguments):
    inner = "".join(
        f"<arg_key>{k}</arg_key>\n<arg_value>{v}</arg_value>\n" for k, v in arguments.items()
    )
    return f"<tool_call>{name}\n{inner}</tool_call>"


def harmony(name, arguments):
    head = f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>"
    return head + json.dumps(arguments) + "<|call|>"


WRITTEN = pytest.mark.parametrize(("form", "write"), [(QWEN_CODER, qwen), (GLM, glm)])


@WRITTEN
def test_values_are_what_the_schema_says(form, write):
    arguments = {"text": '1 < 2, "é"\n', "n": 7, "any": '{"a": [1]}', "other": "True", "x": "well"}
    (call,) = message(form, write("f", arguments)).calls
    assert call.name == "f" and json.loads(call.arguments) == {
        "text": '1 < 2, "é"\n',
        "n": 7,
        "any": {"a": [1]},
        "other": True,
        "x": "well",
    }
    (call,) = message(form, write("f", {"text": "7", "any": "NaN"})).calls
    assert json.loads(call.arguments) == {"text": "7", "any": "NaN"}


@WRITTEN
def test_several_calls_and_words_around_them(form, write):
    text = f"Let me.\n{write('f', {})}\n{write('get_weather', {'city': 'Oslo'})}\n"
    found = message(form, text)
    assert found.content == "Let me."
    assert found.calls == [Call("f", "{}"), Call("get_weather", '{"city": "Oslo"}')]
    assert len(message(form, text, one_call=True).calls) == 1
    assert message(form, write("f", {}) + " Done.").content == " Done."


@WRITTEN
@pytest.mark.parametrize(
    "text",
    [
        "It rains in <Oslo>. 1 < 2 <tool",
        "<tool_call>\n<function=unknown>\n</function></tool_call>",
        "<tool_call>unknown</tool_call>",
        '<tool_call>{"name": "f"}</tool_call>',
        " <tool_call>",
        "<tool_call><function=f",
    ],
)
def test_what_is_no_call_comes_out_as_text_whole(form, write, text):
    assert message(form, text) == Message(content=text)


def test_texts_stream_and_other_values_come_whole():
    parser = QWEN_CODER.parser(TOOLS)
    parts = ["<tool_call>\n<function=f>\n<parameter=text>\nOs", "lo\n</para", "meter>\n",
             "<parameter=n>\n1", "2\n</parameter></function>"]  # fmt: skip
    told = [parser.push(part) for part in parts]
    spelled = ["".join(e.text for e in one if isinstance(e, CallArguments)) for one in told]
    assert told[0][0] == CallBegun(0, "f")
    assert spelled == ['{"text": "Os', "lo", '"', ', "n": ', "12}"]


@WRITTEN
def test_a_call_cut_short_keeps_what_it_has(form, write):
    text = write("f", {"text": "Oslo, Norway"})
    found = message(form, text[: text.index(" Norway")])
    assert found.calls == [Call("f", '{"text": "Oslo,')] and not found.content


def test_a_broken_call_ends_there():
    found = message(QWEN_CODER, "<tool_call><function=f>oh no</function>")
    assert found.calls == [Call("f", "{}")] and found.content == "oh no</function>"
    long = "x" * 600
    found = message(GLM, f"<tool_call>f<arg_key>{long}</arg_key>")
    assert found.calls == [Call("f", "{}")] and long in found.content


def test_channels_say_what_a_message_is():
    text = (
        "<|channel|>analysis<|message|>Hm.<|end|>"
        "<|start|>assistant<|channel|>commentary<|message|>Let me see.<|end|>"
        '<|start|>assistant to=functions.f<|channel|>commentary json<|message|>{"n": 1}<|call|>'
    )
    assert message(HARMONY, text) == Message("Let me see.", "Hm.", [Call("f", '{"n": 1}')])
    text = (
        "<|channel|>analysis<|message|>One<|end|><|start|>assistant<|channel|>analysis<|message|>"
        "two<|end|><|start|>assistant<|channel|>final<|message|>Yes."
    )
    assert message(HARMONY, text) == Message("Yes.", "One\ntwo")
    assert message(HARMONY, "No channels.") == Message("No channels.")
    unknown = '<|channel|>commentary to=functions.g<|message|>{"n": 1}<|call|>'
    assert message(HARMONY, unknown) == Message('{"n": 1}')
    assert message(HARMONY, "<|channel|>analysis<|message|>cut sh") == Message("", "cut sh")


def test_channels_stream_and_never_show_a_marker():
    parser = HARMONY.parser(TOOLS)
    parts = ["<|chan", "nel|>analysis<|mess", "age|>Hm", ".<|e", "nd|><|start|>assistant",
             "<|channel|>final<|message|>Y", "es"]  # fmt: skip
    told = [parser.push(part) for part in parts]
    assert told == [[], [], [Thought("Hm")], [Thought(".")], [], [Said("Y")], [Said("es")]]


FRAGMENTS = """<tool_call> </tool_call> <function=f> <function=g> </function> <parameter=text>
<parameter=n> </parameter> <arg_key> </arg_key> <arg_value> </arg_value> text f well 1 < > " é { }
<function= <parameter= <think> </think> <|channel|> <|message|> <|end|> <|call|> <|start|> analysis
final commentary to=functions.f assistant <tool_call>f<arg_key>text</arg_key><arg_value>
<tool_call><function=f><parameter=text>"""
fragments = st.sampled_from([" ", "\n", "x" * 300, *FRAGMENTS.split()])


@settings(max_examples=150)
@given(
    form=st.sampled_from(FORMATS),
    parts=st.lists(fragments, max_size=14),
    cuts=st.lists(st.integers(0, 300), max_size=20),
    inside=st.none() | st.booleans(),
)
def test_any_cut_of_any_text_gives_the_same_events(form, parts, cuts, inside):
    def fresh():
        reasoning = None if inside is None else ReasoningSplitter(inside=inside)
        return Splitter(reasoning, form.parser(TOOLS))

    text = "".join(parts)
    whole = events(fresh(), [text])
    assert events(fresh(), pieces(text, cuts)) == whole
    assert events(fresh(), list(text)) == whole
    if form is not HARMONY and inside is None and not any(isinstance(e, CallBegun) for e in whole):
        assert whole == ([Said(text)] if text else [])


values = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@settings(max_examples=50)
@given(
    calls=st.lists(st.dictionaries(st.sampled_from(["text"]), values), min_size=1, max_size=3),
    way=st.sampled_from([(QWEN_CODER, qwen), (GLM, glm), (HARMONY, harmony)]),
)
def test_calls_are_read_back(calls, way):
    form, write = way
    between = "<|start|>assistant" if form is HARMONY else "\n"
    found = message(form, between.join(write("f", arguments) for arguments in calls))
    assert [json.loads(call.arguments) for call in found.calls] == calls
    assert found.content == "" and found.reasoning == ""
