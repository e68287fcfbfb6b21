"""JSON schemas with texts that fit and texts that do not: what a grammar engine is judged by.

`accepted` and `refused` are texts in compact form. Used by test_grammar.py and by
benchmarks/grammar_engines.py.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Case:
    """One feature of JSON schema."""

    name: str
    schema: Any
    accepted: tuple[str, ...]
    refused: tuple[str, ...]


def record(properties, required=None, **more):
    needed = list(properties) if required is None else required
    return {
        "type": "object",
        "properties": properties,
        "required": needed,
        "additionalProperties": False,
        **more,
    }


NODE = record(
    {
        "value": {"type": "integer"},
        "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
    }
)

CASES = (
    Case("integer", {"type": "integer"}, ("0", "-17"), ("1.5", '"1"', "01")),
    Case("number", {"type": "number"}, ("1.5e-3", "-2"), (".5", "NaN")),
    Case("boolean", {"type": "boolean"}, ("true", "false"), ("null", "True")),
    Case("null", {"type": "null"}, ("null",), ("0",)),
    Case("string", {"type": "string"}, ('"a\\n\\u00e9"', '"é"'), ('"a', "'a'", '"\n"')),
    Case("several types", {"type": ["integer", "null"]}, ("3", "null"), ("true",)),
    Case("enum", {"enum": ["a", 1, None]}, ('"a"', "1", "null"), ('"b"', "2")),
    Case("const", {"const": {"a": [1, "x"]}}, ('{"a":[1,"x"]}',), ('{"a":[1]}',)),
    Case(
        "minimum, maximum",
        {"type": "integer", "minimum": -3, "maximum": 120},
        ("-3", "99"),
        ("121", "-4"),
    ),
    Case(
        "exclusive bounds",
        {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
        ("0.25", "1"),
        ("0", "1.5"),
    ),
    Case("multipleOf", {"type": "integer", "multipleOf": 5}, ("15",), ("7",)),
    Case(
        "string lengths",
        {"type": "string", "minLength": 2, "maxLength": 3},
        ('"ab"', '"éé"'),
        ('"a"', '"abcd"'),
    ),
    Case(
        "pattern",
        {"type": "string", "pattern": "^[A-Z]{2}-\\d{3}$"},
        ('"AB-123"',),
        ('"ab-123"', '"AB-1234"'),
    ),
    Case(
        "format date",
        {"type": "string", "format": "date"},
        ('"2026-11-21"',),
        ('"2026-13-01"', '"today"'),
    ),
    Case(
        "format date-time",
        {"type": "string", "format": "date-time"},
        ('"2026-11-21T03:04:05Z"',),
        ('"2026-11-21"',),
    ),
    Case("format email", {"type": "string", "format": "email"}, ('"a.b@c.de"',), ('"a.b"',)),
    Case(
        "format uuid",
        {"type": "string", "format": "uuid"},
        ('"123e4567-e89b-12d3-a456-426614174000"',),
        ('"123"',),
    ),
    Case("format ipv4", {"type": "string", "format": "ipv4"}, ('"127.0.0.1"',), ('"127.0.0"',)),
    Case(
        "array", {"type": "array", "items": {"type": "integer"}}, ("[]", "[1,2]"), ('["a"]', "[1,]")
    ),
    Case(
        "array lengths",
        {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 2},
        ("[1]", "[1,2]"),
        ("[]", "[1,2,3]"),
    ),
    Case(
        "tuple",
        {
            "type": "array",
            "prefixItems": [{"type": "integer"}, {"type": "string"}],
            "items": False,
            "minItems": 2,
        },
        ('[1,"a"]',),
        ('["a",1]', "[1]"),
    ),
    Case(
        "uniqueItems",
        {"type": "array", "items": {"enum": [1, 2]}, "uniqueItems": True},
        ("[1,2]",),
        ("[1,1]",),
    ),
    Case(
        "object",
        record({"a": {"type": "integer"}, "b": {"type": "string"}}),
        ('{"a":1,"b":"x"}',),
        ('{"a":1}', '{"b":"x","a":"1"}'),
    ),
    Case(
        "optional properties",
        record({"a": {"type": "integer"}, "b": {"type": "integer"}}, ["b"]),
        ('{"b":1}', '{"a":1,"b":2}'),
        ('{"a":1}', '{"b":1,"c":2}'),
    ),
    Case(
        "additionalProperties",
        {"type": "object", "additionalProperties": {"type": "integer"}},
        ('{"x":1,"y":2}', "{}"),
        ('{"x":"1"}',),
    ),
    Case(
        "patternProperties",
        {
            "type": "object",
            "patternProperties": {"^n_": {"type": "integer"}},
            "additionalProperties": False,
        },
        ('{"n_a":1}',),
        ('{"a":1}', '{"n_a":"1"}'),
    ),
    Case(
        "minProperties",
        {"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 1},
        ('{"x":1}',),
        ("{}",),
    ),
    Case(
        "nested",
        record({"p": record({"q": {"type": "array", "items": record({"r": {"type": "null"}})}})}),
        ('{"p":{"q":[{"r":null}]}}',),
        ('{"p":{"q":[null]}}',),
    ),
    Case(
        "$ref and recursion",
        {"$defs": {"node": NODE}, "$ref": "#/$defs/node"},
        ('{"value":1,"children":[{"value":2,"children":[]}]}',),
        ('{"value":1,"children":[3]}',),
    ),
    Case(
        "anyOf",
        {"anyOf": [{"type": "integer"}, record({"a": {"type": "null"}})]},
        ("1", '{"a":null}'),
        ('"1"', '{"a":1}'),
    ),
    Case(
        "oneOf, disjoint",
        {"oneOf": [{"type": "integer"}, {"type": "string"}]},
        ("1", '"a"'),
        ("null",),
    ),
    Case(
        "allOf", {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 5}]}, ("4",), ("2", "6")
    ),
    Case("not", {"type": "string", "not": {"const": "a"}}, ('"b"',), ('"a"',)),
    Case(
        "if, then, else",
        {
            "type": "object",
            "properties": {"k": {"type": "boolean"}},
            "required": ["k"],
            "if": {"properties": {"k": {"const": True}}},
            "then": {"required": ["v"]},
        },
        ('{"k":false}',),
        ('{"k":true}',),
    ),
    Case(
        "dependentRequired",
        {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "additionalProperties": False,
            "dependentRequired": {"a": ["b"]},
        },
        ('{"b":1}', '{"a":1,"b":1}'),
        ('{"a":1}',),
    ),
)

INVALID = (
    ("no JSON", '{"type":'),
    ("no schema", "[1, 2]"),
    ("unknown type", '{"type":"strin"}'),
    ("lost reference", '{"$ref":"#/$defs/none"}'),
    ("foreign reference", '{"$ref":"https://example.org/schema.json"}'),
    ("bad pattern", '{"type":"string","pattern":"a(b"}'),
    ("contradiction", '{"type":"integer","minimum":5,"maximum":3}'),
    ("length of a word", '{"type":"string","minLength":"two"}'),
    ("endless reference", '{"$ref":"#/a","a":{"$ref":"#/a"}}'),
    ("deep nesting", "[" * 5000),
)
