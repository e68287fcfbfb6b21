"""Pieces of the grammars that enforce calls, in Lark's notation as llguidance reads it.

`formats`, `tag_rules`, `harmony_rules` and `serve.enforced` build rules of them. A marker that is
a token of its own in the vocabulary is named by its id, since it cannot be spelled.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

NO_PARAMETERS: Json = {"type": "object", "properties": {}, "additionalProperties": False}
WHITE_SPACE = r"(\n[ ]{0,32}|[ ]?)"


def lark_json(schema: Json) -> str:
    """A schema within a grammar: white space as models write it, and never without end."""
    return json.dumps({**schema, "x-guidance": {"whitespace_pattern": WHITE_SPACE}})


@dataclass(frozen=True)
class Spelling:
    """How texts with markers are written. `token_ids`: of markers that are tokens of their own."""

    token_ids: Mapping[str, int] = field(default_factory=dict)

    def literal(self, text: str) -> str:
        """Terminals that match exactly `text`; "" for nothing."""
        if not self.token_ids or not text:
            return json.dumps(text) if text else ""
        pieces = re.split("(" + "|".join(map(re.escape, self.token_ids)) + ")", text)
        return " ".join(
            f"<[{self.token_ids[piece]}]>" if piece in self.token_ids else json.dumps(piece)
            for piece in pieces
            if piece
        )

    def text_rule(self, name: str, close: str, count: str = "*") -> str:
        """The rule `name`: any text of `count` characters (a quantifier), then `close`."""
        if close in self.token_ids:
            return f"{name}: /(.|\\n){count}/ {self.literal(close)}"
        escaped = re.escape(close).replace("/", "\\/").replace("\\\n", "\\n")
        return f"{name}[lazy]: /(.|\\n){count}{escaped}/"
