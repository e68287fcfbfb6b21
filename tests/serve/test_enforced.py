"""Grammars of whole answers: calls that must be made, reasoning that may come first."""

import json
import re

import pytest
from fakes import ByteTokenizer
from llguidance import LLMatcher
from speakers import HERMES, LLAMA3, MISTRAL, OPENED, QWEN3

from slipstream.engine.grammar import Grammar
from slipstream.engine.grammar_llguidance import matcher_of, tokens_of
from slipstream.errors import UnsupportedError
from slipstream.models.chat import ChatTemplate
from slipstream.serve.conversation import Conversation
from slipstream.serve.dialect import dialect_of
from slipstream.serve.enforced import enforced
from slipstream.serve.splitter import Splitter
from slipstream.serve.tools.formats import FORMATS, Tool

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = (Tool("weather", CITY, {}), Tool("now", {}, {}))
SCHEMA = Grammar("json_schema", json.dumps(CITY))


class Marked(ByteTokenizer):
    """Tokens from 257 on are markers."""

    def __init__(self, template, *markers):
        size = 257 + len(markers)
        super().__init__(
            chat=ChatTemplate(template),
            vocabulary_size=size,
            special_ids=frozenset(range(256, size)),
        )
        self.markers = markers

    def encode(self, text, special=True):
        pieces = re.split("(" + "|".join(map(re.escape, self.markers)) + ")", text)
        found = [text] if not self.markers else pieces
        return [
            token
            for piece in found
            for token in (
                [257 + self.markers.index(piece)] if piece in self.markers else piece.encode()
            )
        ]

    def token_bytes(self, token_id):
        if token_id > 256:
            return self.markers[token_id - 257].encode()
        return super().token_bytes(token_id)


def takes(template, text, *, marker="", choice="required", grammar=None, **more):
    """Whether the enforced grammar takes `text` as a whole answer."""
    markers = (marker,) if isinstance(marker, str) else marker
    codec = Marked(template, *filter(None, markers))
    dialect = dialect_of(codec, more.pop("form", None))
    thinks = more.pop("thinks", False)
    inside = more.pop("inside", False)
    asked = Conversation([], more.pop("tools", TOOLS), choice, grammar=grammar, **more)
    made = enforced(asked, dialect, thinks=thinks, inside=inside)
    matcher: LLMatcher = matcher_of(made, tokens_of(codec, codec.vocabulary_size))
    ids = codec.encode(text)
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


OSLO = '{"name": "weather", "arguments": {"city": "Oslo"}}'
NOW = '{"name": "now", "arguments": {}}'


@pytest.mark.parametrize("marker", ["", "<tool_call>"])
def test_a_hermes_call_is_made_and_nothing_else(marker):
    one, two = f"<tool_call>\n{OSLO}\n</tool_call>", f"<tool_call>\n{NOW}\n</tool_call>"
    assert takes(HERMES, one, marker=marker)
    assert takes(HERMES, f"{one}\n{two}", marker=marker)
    assert not takes(HERMES, f"{one}\n{two}", marker=marker, parallel=False)
    assert not takes(HERMES, "It rains.", marker=marker)
    assert not takes(HERMES, one.replace("Oslo", '"'), marker=marker)
    assert not takes(HERMES, one.replace("city", "town"), marker=marker)
    assert not takes(HERMES, two, marker=marker, tools=TOOLS[:1])


def test_the_other_families_calls_are_made_too():
    assert takes(LLAMA3, '{"name": "weather", "parameters": {"city": "Oslo"}}')
    assert takes(LLAMA3, '{"name": "now", "parameters": {}}; {"name": "now", "parameters": {}}')
    assert takes(MISTRAL, f"[TOOL_CALLS][{OSLO}, {NOW}]", marker="[TOOL_CALLS]")
    arguments = MISTRAL + "[ARGS]"
    assert takes(arguments, '[TOOL_CALLS]weather[ARGS]{"city": "Oslo"}', marker="[TOOL_CALLS]")
    assert takes(arguments, "[TOOL_CALLS]now[ARGS]{}[TOOL_CALLS]now[ARGS]{}")


def test_a_schema_leaves_room_for_calls_and_for_reasoning():
    free = {"choice": "auto", "grammar": SCHEMA}
    answer = '{"city": "Oslo"}'
    assert takes(HERMES, answer, **free)
    assert takes(HERMES, f"<tool_call>\n{NOW}\n</tool_call>", **free)
    assert not takes(HERMES, "Oslo", **free)
    for marker in ("", "</think>"):
        thinks = {**free, "thinks": True, "tools": (), "marker": marker}
        assert takes(QWEN3, f"<think>\nhm <b>\n</think>\n\n{answer}", **thinks)
        assert takes(QWEN3, answer, **thinks)
        assert not takes(QWEN3, f"<think>\nhm\n</think>\n\nOslo {answer}", **thinks)
        assert takes(OPENED, f"hm\n</think>\n{answer}", inside=True, **thinks)
        assert not takes(OPENED, answer, inside=True, **thinks)


def test_choices_and_regexes_follow_reasoning_too():
    thinks = {"choice": "auto", "thinks": True, "tools": ()}
    choice = Grammar("choice", '["yes", "no/never"]')
    assert takes(QWEN3, "<think>x</think>no/never", grammar=choice, **thinks)
    assert not takes(QWEN3, "<think>x</think>maybe", grammar=choice, **thinks)
    assert takes(QWEN3, "<think>x</think>a/1", grammar=Grammar("regex", r"a/\d\/?"), **thinks)
    with pytest.raises(UnsupportedError, match="enable_thinking"):
        takes(QWEN3, "x", grammar=Grammar("ebnf", 'start: "x"'), **thinks)


def test_without_tools_and_reasoning_the_client_s_grammar_stands():
    dialect = dialect_of(Marked(HERMES))
    asked = Conversation([], grammar=SCHEMA)
    assert enforced(asked, dialect, thinks=False, inside=False) is SCHEMA
    plain = Conversation([], TOOLS)
    assert enforced(plain, dialect, thinks=True, inside=False) is None


TYPED = {
    "type": "object",
    "properties": {
        "text": {"type": "string"},
        "unit": {"type": "string", "enum": ["C", "F"]},
        "short": {"type": "string", "minLength": 2, "maxLength": 4},
        "days": {"type": "integer"},
        "at": {"$ref": "#/$defs/at"},
    },
    "required": ["text", "days"],
    "additionalProperties": False,
    "$defs": {"at": {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]}},
}
TYPED_TOOLS = (Tool("typed", TYPED, {}), Tool("now", {}, {}))
GLM_TAGS = ("<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>")


def qwen(name, **arguments):
    inner = "".join(f"<parameter={k}>\n{v}\n</parameter>\n" for k, v in arguments.items())
    return f"<tool_call>\n<function={name}>\n{inner}</function>\n</tool_call>"


def glm(name, **arguments):
    inner = "".join(
        f"<arg_key>{k}</arg_key>\n<arg_value>{v}</arg_value>\n" for k, v in arguments.items()
    )
    return f"<tool_call>{name}\n{inner}</tool_call>"


@pytest.mark.parametrize(
    ("form", "write", "markers"),
    [
        ("qwen3-coder", qwen, ()),
        ("qwen3-coder", qwen, ("<tool_call>", "</tool_call>")),
        ("glm", glm, ()),
        ("glm", glm, GLM_TAGS),
    ],
)
def test_calls_in_tags_are_made_and_hold_to_their_schema(form, write, markers):
    def taken(text, **more):
        return takes("x", text, form=form, marker=markers, tools=TYPED_TOOLS, **more)

    good = {"text": 'a <b> {"\n', "days": 3}
    call = write("typed", **good)
    assert taken(call)
    (told,) = Splitter(parser=FORMATS[form].parser(TYPED_TOOLS)).whole(call).calls
    assert told.name == "typed" and json.loads(told.arguments) == good
    assert taken(write("typed", text="", unit="F", short="abc", days=-1, at='{"x": 1.5}'))
    assert taken(write("now")) and taken(f"{write('now')}\n{call}")
    assert not taken(f"{write('now')}\n{call}", parallel=False)
    for wrong in (
        "It rains.",
        f"So: {call}",
        f"{call} Done.",
        write("other"),
        write("typed", text="a"),  # days lack
        write("typed", days=3),
        write("typed", text="a", days="three"),
        write("typed", text="a", unit="K", days=3),
        write("typed", text="a", short="abcde", days=3),
        write("typed", text="a", short="a", days=3),
        write("typed", text="a", days=3, at='{"y": 1}'),
        write("typed", text="a", days=3, more="b"),
        write("now", city="Oslo"),
    ):
        assert not taken(wrong), wrong


def test_what_tags_cannot_enforce_is_refused_by_name():
    patterned = {"type": "object", "properties": {"a": {"type": "string", "pattern": "x+"}}}
    for parameters, told in (
        (patterned, "pattern of the text 'a'"),
        ({"anyOf": [{"type": "object"}]}, "anyOf of the parameters of 'f'"),
        ({"type": "array"}, "must be an object"),
        ({"properties": {"a>b": {}}}, "parameter named 'a>b'"),
    ):
        for form in ("qwen3-coder", "glm"):
            with pytest.raises(UnsupportedError, match=told):
                takes("x", "y", form=form, tools=(Tool("f", parameters, {}),))


CHANNELS = ("<|start|>", "<|end|>", "<|channel|>", "<|message|>", "<|constrain|>")


@pytest.mark.parametrize("markers", [(), CHANNELS])
def test_calls_and_answers_in_channels_are_made(markers):
    def taken(text, **more):
        return takes("x", text, form="harmony", marker=markers, **more)

    thought = "<|channel|>analysis<|message|>Hm, <b> it rains.<|end|><|start|>assistant"
    head = "<|channel|>commentary to=functions.weather <|constrain|>json<|message|>"
    call, final = head + '{"city": "Oslo"}', '<|channel|>final<|message|>{"city": "Oslo"}'
    assert taken(call) and taken(thought + call) and taken(thought + thought + call)
    assert not taken(final) and not taken(thought) and not taken('{"city": "Oslo"}')
    assert not taken(head + '{"town": "Oslo"}') and not taken(call.replace("weather", "news"))
    told = Splitter(parser=FORMATS["harmony"].parser(TOOLS)).whole(thought + call)
    assert [one.name for one in told.calls] == ["weather"] and told.reasoning
    free = {"choice": "auto", "grammar": SCHEMA}
    assert taken(final, tools=(), **free) and taken(thought + final, tools=(), **free)
    assert not taken(final.replace("city", "town"), tools=(), **free)
    assert taken(call, **free) and taken(final, **free)
    assert not taken(call, tools=(), **free)
