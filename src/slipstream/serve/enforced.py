"""The grammar of a whole answer: calls that must be made, reasoning that may come first.

A client's grammar speaks of the answer alone. A model that thinks writes its reasoning before it,
and a model that may call tools writes calls instead; `enforced` allows for both.
"""

import json

from slipstream.engine.grammar import Grammar
from slipstream.errors import UnsupportedError
from slipstream.serve.conversation import Conversation
from slipstream.serve.dialect import Dialect
from slipstream.serve.reasoning import CLOSE, OPEN


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
    if not thinks and not tools:
        return asked.grammar
    rules: list[str] = []
    bodies = []
    if tools:
        bodies.append("calls")
        rules.append(dialect.tool_format().rules(tools, dialect.token_ids, asked.parallel))
    if asked.grammar is not None and not must_call:
        bodies.append("answer")
        rules.append(_answer(asked.grammar))
    body = " | ".join(bodies)
    start = f"start: {_reasoning(dialect, inside)}body" if thinks else "start: body"
    if thinks:
        rules += _reasoning_rules(dialect)
    return Grammar("ebnf", "\n".join([start, f"body: {body}", *rules]))


def _answer(grammar: Grammar) -> str:
    """The rule ``answer`` for a client's grammar."""
    if grammar.kind == "json_schema":
        return f"answer: %json {grammar.source}"
    if grammar.kind == "json_object":
        return 'answer: %json {"type": "object"}'
    if grammar.kind == "choice":
        return "answer: " + " | ".join(json.dumps(text) for text in json.loads(grammar.source))
    if grammar.kind == "regex":
        return f"answer: /{grammar.source.replace('/', chr(92) + '/')}/"
    raise UnsupportedError(
        "a grammar cannot be joined with tools or with reasoning; use a JSON schema, a regex or a "
        'choice, or switch reasoning off (chat_template_kwargs={"enable_thinking": false})'
    )


def _reasoning(dialect: Dialect, inside: bool) -> str:
    return "thought " if inside else f"({_marker(dialect, OPEN)} thought)? "


def _reasoning_rules(dialect: Dialect) -> list[str]:
    if CLOSE in dialect.token_ids:
        return [f"thought: /(.|\\n)*/ {_marker(dialect, CLOSE)} /\\s*/"]
    return ["thought: THOUGHT /\\s*/", "THOUGHT[lazy]: /(.|\\n)*<\\/think>/"]


def _marker(dialect: Dialect, marker: str) -> str:
    token = dialect.token_ids.get(marker)
    return json.dumps(marker) if token is None else f"<[{token}]>"
