"""The grammar of a whole answer: calls that must be made, reasoning that may come first.

A client's grammar speaks of the answer alone. A model that thinks writes its reasoning before it,
and a model that may call tools writes calls instead; `enforced` allows for both.
"""

import json
import re
from typing import Any

from slipstream.engine.grammar import Grammar
from slipstream.errors import RequestError, UnsupportedError
from slipstream.serve.conversation import Conversation
from slipstream.serve.dialect import Dialect
from slipstream.serve.reasoning import CLOSE, OPEN
from slipstream.serve.tools.harmony_rules import channel_rules
from slipstream.serve.tools.rules import Spelling, lark_json

ESCAPE_OR_SLASH = re.compile(r"\\.|/|\n")
SPACE = "space: /[ \\n]{0,4}/"


def enforced(
    asked: Conversation, dialect: Dialect, *, thinks: bool, inside: bool
) -> Grammar | None:
    """What the answer must match; None: anything goes.

    `thinks`: the model may reason first; `inside`: its prompt has opened the reasoning already.
    """
    tools = asked.callable_tools
    must_call = asked.choice == "required" and bool(tools)
    if asked.grammar is None and not must_call:
        return None
    channels = dialect.speaks_in_channels
    if not thinks and not tools and not channels:
        return asked.grammar
    rules: list[str] = []
    bodies = []
    if tools:
        bodies.append("calls")
        rules.append(dialect.tool_format().rules(tools, dialect.token_ids, asked.parallel))
    if asked.grammar is not None and not must_call:
        bodies.append("final answer" if channels else "answer")
        rules.append(_answer(asked.grammar))
    body = " | ".join(bodies)
    if channels:
        rules.append(channel_rules(Spelling(dialect.token_ids)))
        return Grammar("ebnf", "\n".join(["start: thoughts body", f"body: {body}", *rules]))
    start = f"start: {_reasoning(dialect, inside)}body" if thinks else "start: body"
    if thinks:
        rules += _reasoning_rules(dialect)
    return Grammar("ebnf", "\n".join([start, f"body: {body}", *rules]))


def _answer(grammar: Grammar) -> str:
    """The rule ``answer`` for a client's grammar."""
    if grammar.kind == "json_schema":
        return f"answer: %json {lark_json(_schema(grammar.source))}"
    if grammar.kind == "json_object":
        return f"answer: %json {lark_json({'type': 'object'})}"
    if grammar.kind == "choice":
        return "answer: " + " | ".join(json.dumps(text) for text in json.loads(grammar.source))
    if grammar.kind == "regex":
        return f"answer: /{ESCAPE_OR_SLASH.sub(_escaped, grammar.source)}/"
    raise UnsupportedError(
        "a grammar cannot be joined with tools or with reasoning; use a JSON schema, a regex or a "
        'choice, or switch reasoning off (chat_template_kwargs={"enable_thinking": false})'
    )


def _schema(source: str) -> dict[str, Any]:
    try:
        schema = json.loads(source)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"grammar: the schema is not valid JSON: {error}") from error
    if not isinstance(schema, dict):
        raise RequestError("grammar: the schema must be a JSON object")
    return schema


def _escaped(found: re.Match[str]) -> str:
    return {"/": "\\/", "\n": "\\n"}.get(found[0], found[0])


def _reasoning(dialect: Dialect, inside: bool) -> str:
    return "thought " if inside else f"({_marker(dialect, OPEN)} thought)? "


def _reasoning_rules(dialect: Dialect) -> list[str]:
    if CLOSE in dialect.token_ids:
        return [f"thought: /(.|\\n)*/ {_marker(dialect, CLOSE)} space", SPACE]
    return ["thought: reasoned space", "reasoned[lazy]: /(.|\\n)*<\\/think>/", SPACE]


def _marker(dialect: Dialect, marker: str) -> str:
    token = dialect.token_ids.get(marker)
    return json.dumps(marker) if token is None else f"<[{token}]>"
