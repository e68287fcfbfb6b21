"""What of a request's parameters needs the tokenizer: bad words as ids, a grammar compiled.

Made by `constrain.py` when the request is made; part of the `Request`, empty for most.
"""

from dataclasses import dataclass, field

from slipstream.engine.grammar_compile import CompiledGrammar
from slipstream.engine.words import TokenWord


@dataclass(frozen=True)
class Constraints:
    """bad_words  token sequences that the answer must not have; grammar  what it must match."""

    bad_words: tuple[TokenWord, ...] = ()
    grammar: CompiledGrammar | None = field(default=None, compare=False)


PLAIN = Constraints()  # of requests that need neither
