"""Bad words as token sequences: text that an answer may not spell in the usual way.

A word of several tokens is forbidden only at its last token: "New York" does not forbid "New".
`constraints.py` finds the sequences when a request is made; `shaping.py` asks at every token.
"""

from collections.abc import Sequence

from slipstream.engine.codec import TextCodec

TokenWord = tuple[int, ...]


def token_words(codec: TextCodec, words: Sequence[str]) -> tuple[TokenWord, ...]:
    """Each word's ids as it is written, and as it is within a text: after a space."""
    found: dict[TokenWord, None] = {}
    for word in words:
        for spelled in (word, " " + word.lstrip()):
            ids = tuple(codec.encode(spelled, special=False))
            if ids:
                found[ids] = None
    return tuple(found)


def completing_ids(words: Sequence[TokenWord], answer: Sequence[int]) -> list[int]:
    """The ids that would complete one of `words` at the end of `answer`."""
    length = len(answer)
    return [
        word[-1]
        for word in words
        if len(word) <= length + 1 and tuple(answer[length - len(word) + 1 :]) == word[:-1]
    ]


def tail_length(words: Sequence[TokenWord]) -> int:
    """How many tokens before the next one `completing_ids` looks at."""
    return max((len(word) for word in words), default=1) - 1
