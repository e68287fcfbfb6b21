"""Grammars of whole answers: calls that must be made, reasoning that may come first."""

import json

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
from slipstream.serve.tools.formats import Tool

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = (Tool("weather", CITY, {}), Tool("now", {}, {}))
SCHEMA = Grammar("json_schema", json.dumps(CITY))


class Marked(ByteTokenizer):
    """Token 257 is one marker."""

    def __init__(self, template, marker):
        super().__init__(
            chat=ChatTemplate(template), vocabulary_size=258, special_ids=frozenset({256, 257})
        )
        self.marker = marker

    def encode(self, text, special=True):
        parts = text.split(self.marker) if self.marker else [text]
        ids = list(parts[0].encode())
        for part in parts[1:]:
            ids += [257, *part.encode()]
        return ids

    def token_bytes(self, token_id):
        return self.marker.encode() if token_id == 257 else super().token_bytes(token_id)


def takes(template, text, *, marker="", choice="required", grammar=None, **more):
    """Whether the enforced grammar takes `text` as a whole answer."""
    codec = Marked(template, marker)
    dialect = dialect_of(codec)
    thinks = more.pop("thinks", False)
    inside = more.pop("inside", False)
    asked = Conversation([], more.pop("tools", TOOLS), choice, grammar=grammar, **more)
    made = enforced(asked, dialect, thinks=thinks, inside=inside)
    matcher: LLMatcher = matcher_of(made, tokens_of(codec, 258))
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
    dialect = dialect_of(Marked(HERMES, ""))
    asked = Conversation([], grammar=SCHEMA)
    assert enforced(asked, dialect, thinks=False, inside=False) is SCHEMA
    plain = Conversation([], TOOLS)
    assert enforced(plain, dialect, thinks=True, inside=False) is None
