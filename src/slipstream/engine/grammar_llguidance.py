"""The one place that knows llguidance: our grammars and our tokenizers in its terms.

Imported at the first grammar (`grammar_compile.py`), since most servers never meet one.
"""

import json
from typing import TYPE_CHECKING, Any

from llguidance import (
    LLMatcher,
    LLParserLimits,
    LLTokenizer,
    TokenizerWrapper,
    grammar_from,
    regex_to_lark,
)

from slipstream.engine.codec import TextCodec
from slipstream.engine.grammar import Grammar
from slipstream.errors import RequestError

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

# JSON as models write it: at most a space, or a line break and an indentation, between two marks.
# Unbounded white space is where a small model gets lost until max_tokens.
WHITE_SPACE = r"(\n[ ]{0,32}|[ ]?)"

MESSAGE_CHARACTERS_MAX = 600


def limits() -> LLParserLimits:
    """What a grammar may cost: about 20 ms to build, 15 ms a token, 40 MB."""
    return LLParserLimits(
        initial_lexer_fuel=1_000_000,
        step_lexer_fuel=200_000,
        step_max_items=50_000,
        max_lexer_states=20_000,
        max_grammar_size=200_000,
        verbose_errors=False,
    )


def matcher_of(grammar: Grammar, tokens: LLTokenizer) -> LLMatcher:
    """A matcher with nothing consumed yet. RequestError says what is wrong with the grammar."""
    try:
        matcher = LLMatcher(tokens, _source_of(grammar), log_level=0, limits=limits())
    except RequestError:
        raise
    except BaseException as error:  # a panic in Rust is no Exception
        raise _refused(grammar, str(error)) from error
    if matcher.is_error():
        raise _refused(grammar, matcher.get_error())
    return matcher


def tokens_of(codec: TextCodec, vocabulary: int) -> LLTokenizer:
    """The tokenizer's tokens as bytes; takes half a second for 50 thousand of them."""
    ends = sorted(i for i in codec.eos_ids if i < vocabulary)
    if not ends:
        raise RequestError("grammar: the model has no end of turn, which would end the answer")
    wrapper = TokenizerWrapper(_Spelling(codec, vocabulary, ends[0]))
    return LLTokenizer(wrapper, n_vocab=vocabulary, eos_token=ends)


class _Spelling:
    """What llguidance asks of a tokenizer."""

    def __init__(self, codec: TextCodec, vocabulary: int, eos_id: int) -> None:
        self.tokens = [codec.token_bytes(i) for i in range(vocabulary)]
        self.special_token_ids = sorted(codec.special_ids | codec.eos_ids)
        self.eos_token_id = eos_id
        self.bos_token_id = None
        self._codec = codec

    def __call__(self, text: str) -> list[int]:
        return self._codec.encode(text, special=False)


def _source_of(grammar: Grammar) -> str:
    """The grammar in llguidance's own notation."""
    match grammar.kind:
        case "json_schema":
            return _json(grammar.source)
        case "json_object":
            return _json('{"type": "object"}')
        case "regex":
            return f"start: /{regex_to_lark(grammar.source, 'dws')}/"  # \d is 0-9
        case "choice":
            return grammar_from("choice", json.dumps(_choices_of(grammar.source)))
        case "ebnf":
            return grammar_from("ebnf", grammar.source)


def _json(schema: str) -> str:
    options: JsonCompileOptions = {
        "whitespace_pattern": WHITE_SPACE,
        "json_allow_general_unicode_escapes": True,
    }
    if schema.lstrip()[:1] != "{":
        raise RequestError("grammar: a JSON schema must be a JSON object")
    return LLMatcher.grammar_from_json_schema(schema, overrides=options)


def _choices_of(source: str) -> list[str]:
    try:
        choices: Any = json.loads(source)
    except (ValueError, RecursionError):
        choices = None
    if not isinstance(choices, list) or not choices:
        raise RequestError("grammar: a choice must be a JSON list of at least one string")
    if not all(isinstance(choice, str) and choice for choice in choices):
        raise RequestError("grammar: every choice must be a string that is not empty")
    return choices


def _refused(grammar: Grammar, reason: str) -> RequestError:
    told = " ".join(reason.split())
    if len(told) > MESSAGE_CHARACTERS_MAX:
        told = told[:MESSAGE_CHARACTERS_MAX] + "…"
    return RequestError(f"grammar: this {grammar.kind} cannot be served: {told}")
