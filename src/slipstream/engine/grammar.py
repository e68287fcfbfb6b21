"""What an answer must look like: the source of a grammar, as a client gives it.

Only data, checked when built; `grammar_compile.py` makes matchers of it when a request is made.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from slipstream.errors import RequestError

GrammarKind = Literal["json_schema", "json_object", "regex", "choice", "ebnf"]

SOURCE_CHARACTERS_MAX = 256 * 1024


@dataclass(frozen=True)
class Grammar:
    """The answer matches this grammar from its first character to its last.

    kind    json_schema  source is a JSON schema, as JSON text
            json_object  any JSON object; source is empty
            regex        source is a regular expression, which the whole answer matches
            choice       source is a JSON list of strings: the answer is one of them
            ebnf         source is a grammar in Lark's or GBNF's notation
    RequestError for a kind that is not known and for a source that is too long or missing.
    """

    kind: GrammarKind
    source: str = ""

    def __post_init__(self) -> None:
        if self.kind not in get_args(GrammarKind):
            known = ", ".join(get_args(GrammarKind))
            raise RequestError(f"grammar must be one of {known}, not {self.kind!r}")
        if not isinstance(self.source, str):
            raise RequestError(f"grammar: the source of a {self.kind} must be text")
        if len(self.source) > SOURCE_CHARACTERS_MAX:
            raise RequestError(
                f"grammar: the {self.kind} has {len(self.source)} characters; "
                f"at most {SOURCE_CHARACTERS_MAX} are taken"
            )
        if not self.source and self.kind != "json_object":
            raise RequestError(f"grammar: the {self.kind} is empty")
