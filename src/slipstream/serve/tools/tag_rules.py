"""Calls written as tags, enforced: the grammar of what `TagParser` reads.

Arguments come in the order of the tool's schema, required ones always. A text is free up to its
closing tag; any other value is JSON of its schema. What cannot be enforced so is refused by name.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from slipstream.errors import UnsupportedError
from slipstream.serve.tools.rules import Json, Spelling, lark_json
from slipstream.serve.tools.tag_parser import NAME_LENGTH, TagSyntax, is_text
from slipstream.serve.tools.tool import Tool

TELLS = {"title", "description", "default", "examples", "$comment", "deprecated"}  # enforce nothing
OBJECT = {"type", "properties", "required", "additionalProperties", "$defs", "definitions"}
TEXT = {"type", "enum", "const", "minLength", "maxLength"}


def tag_rules(
    syntax: TagSyntax, tools: Sequence[Tool], spelling: Spelling, *, parallel: bool
) -> str:
    """Rules whose symbol ``calls`` is one call, or several if `parallel`."""
    more = " (gap call)*" if parallel else ""
    lines = [
        f"calls: call{more}",
        "call: " + " | ".join(f"call_{place}" for place in range(len(tools))),
        'gap: "\\n"?',  # some versions of a model write it between tags, some do not
    ]
    for place, tool in enumerate(tools):
        lines += _call(syntax, tool, spelling, f"call_{place}")
    return "\n".join(lines)


def _call(syntax: TagSyntax, tool: Tool, spelling: Spelling, name: str) -> Iterator[str]:
    _check(tool.parameters, OBJECT | TELLS | {"$schema"}, f"the parameters of '{tool.name}'")
    if tool.parameters.get("type", "object") != "object":
        raise UnsupportedError(f"tools: the parameters of '{tool.name}' must be an object")
    properties: Json = tool.parameters.get("properties") or {}
    required = tool.parameters.get("required") or []
    properties = {**properties, **{key: {} for key in required if key not in properties}}
    opener = [spelling.literal(syntax.opener), *(["gap"] if syntax.lead else [])]
    parts = [*opener, spelling.literal(f"{syntax.lead}{tool.name}{syntax.head}"), "gap"]
    rules: list[str] = []
    for place, (key, schema) in enumerate(properties.items()):
        rule = f"{name}_{place}"
        parts.append(rule if key in required else f"{rule}?")
        rules += _argument(syntax, key, _resolved(schema, tool.parameters), spelling, rule)
    ends = dict.fromkeys((syntax.call_close, syntax.closer))
    yield f"{name}: {' '.join(parts)} {' gap '.join(map(spelling.literal, ends))}"
    yield from rules


def _argument(
    syntax: TagSyntax, key: str, schema: Any, spelling: Spelling, name: str
) -> Iterator[str]:
    """One argument and its value; `name` is its rule."""
    if not key or key != key.strip() or "<" in key or ">" in key or len(key) > NAME_LENGTH:
        raise UnsupportedError(f"tools: a parameter named {key!r} cannot be written in this format")
    parts = [spelling.literal(f"{syntax.key_open}{key}{syntax.key_close}")]
    parts += ["gap", spelling.literal(syntax.value_open)] if syntax.value_open else []
    parts += ['"\\n"'] if syntax.newlines else []
    close = syntax.value_close
    if syntax.newlines and close not in spelling.token_ids:
        close = "\n" + close
    head, value = " ".join(parts), f"{name}_value"
    if is_text(schema):
        _check(schema, TEXT | TELLS, f"the text '{key}'")
        if "enum" not in schema and "const" not in schema:
            yield f"{name}: {head} {value} gap"
            yield spelling.text_rule(value, close, _count(schema))
            return
    yield f"{name}: {head} {value} {spelling.literal(close)} gap"
    if is_text(schema):
        choices = [schema["const"]] if "const" in schema else schema["enum"]
        yield f"{value}: " + " | ".join(json.dumps(str(choice)) for choice in choices)
    else:
        yield f"{value}: %json {lark_json(schema if isinstance(schema, dict) else {})}"


def _count(schema: Json) -> str:
    """How many characters a text may have."""
    if "minLength" not in schema and "maxLength" not in schema:
        return "*"
    return f"{{{schema.get('minLength', 0)},{schema.get('maxLength', '')}}}"


def _resolved(schema: Any, parameters: Json) -> Any:
    """A property's schema on its own, with the definitions that it may refer to."""
    if not isinstance(schema, dict) or is_text(schema):
        return schema
    named = {key: parameters[key] for key in ("$defs", "definitions") if key in parameters}
    return {**named, **schema}


def _check(schema: Json, known: set[str], what: str) -> None:
    strange = sorted(schema.keys() - known)
    if strange:
        raise UnsupportedError(
            f"tools: {', '.join(strange)} of {what} cannot be enforced in this model's format of "
            "calls; leave it out, or leave tool_choice at 'auto'"
        )
