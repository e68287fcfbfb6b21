"""The vocabulary of a GGUF file, checked at the border: `tokenizer_gguf` builds on it.

Tokens, their kinds and scores, and merges come as parallel lists from a file that anybody may have
made. What is damaged is a GGUFError; past this file they agree.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, SupportsIndex, TypeVar

from slipstream.errors import GGUFError

Number = TypeVar("Number", int, float)
SPACE = "\u2581"  # SentencePiece writes a space as ▁
GEMMA_TURN = "<start_of_turn>"
MAX_TOKENS = 2_000_000
MAX_TOKEN_CHARACTERS = 4096


class Kind(IntEnum):
    """``tokenizer.ggml.token_type``."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Vocabulary:
    """The file's lists, checked: every list has one entry per token."""

    tokens: list[str]
    kinds: list[int]
    scores: list[float]
    merges: list[str]
    ids: dict[str, int]


def read_vocabulary(metadata: Mapping[str, Any]) -> Vocabulary:
    """The lists of ``tokenizer.ggml.*``; GGUFError where they are damaged or do not agree."""
    tokens = _strings(metadata, "tokens")
    count = len(tokens)
    if not 0 < count <= MAX_TOKENS:
        raise GGUFError(f"the tokenizer has {count} tokens; between 1 and {MAX_TOKENS} are read")
    kinds = _column(metadata, "token_type", count, int(Kind.NORMAL))
    scores = _column(metadata, "scores", count, 0.0)
    merges = _strings(metadata, "merges") if "merges" in metadata else []
    tokens = _distinct(tokens)
    ids = {token: index for index, token in enumerate(tokens)}
    vocabulary = Vocabulary(tokens, kinds, scores, merges, ids)
    return _gemma(vocabulary) if GEMMA_TURN in ids else vocabulary


def _gemma(vocabulary: Vocabulary) -> Vocabulary:
    """Gemma's merges follow the order of its tokens, not its scores; its spaces become ▁."""
    tokens = [
        SPACE * len(token) if token.isspace() and set(token) == {" "} else token
        for token in vocabulary.tokens
    ]
    ids = {token: index for index, token in enumerate(tokens)}
    return replace(
        vocabulary, tokens=tokens, ids=ids, scores=[-float(i) for i in range(len(tokens))]
    )


def _strings(metadata: Mapping[str, Any], key: str) -> list[str]:
    value = metadata.get(key)
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise GGUFError(f"the tokenizer lacks its list of {key}")
    if set(map(type, value)) - {str}:
        raise GGUFError(f"the tokenizer's {key} are not all text")
    if max(map(len, value), default=0) > MAX_TOKEN_CHARACTERS:
        raise GGUFError(f"the tokenizer's {key} hold one longer than {MAX_TOKEN_CHARACTERS}")
    return list(value)


def _column(metadata: Mapping[str, Any], key: str, count: int, default: Number) -> list[Number]:
    """One number per token, of the type of `default`."""
    value = metadata.get(key)
    if value is None:
        return [default] * count
    try:
        column = list(map(type(default), value))
    except (TypeError, ValueError, OverflowError) as error:
        raise GGUFError(f"the tokenizer's {key} are not all numbers") from error
    if len(column) != count:
        raise GGUFError(f"the tokenizer has {count} tokens but {len(column)} entries of {key}")
    return column


def _distinct(tokens: list[str]) -> list[str]:
    """Some files pad the vocabulary with equal strings; each id keeps a spelling of its own."""
    if len(set(tokens)) == len(tokens):
        return tokens
    seen: set[str] = set()
    result = []
    for index, token in enumerate(tokens):
        name = token
        while name in seen:
            name = f"[duplicate {index}]{name}"
        seen.add(name)
        result.append(name)
    return result


def token_id(metadata: Mapping[str, Any], key: str, count: int) -> int | None:
    """One of the file's special ids, or None; GGUFError if there is no such token."""
    value = metadata.get(key)
    if value is None:
        return None
    if not isinstance(value, SupportsIndex) or not 0 <= int(value) < count:
        raise GGUFError(f"the tokenizer's {key} is {value!r}, but it has {count} tokens")
    return int(value)
