"""Compiles grammars for one tokenizer."""

from slipstream.engine.codec import TextCodec
from slipstream.engine.grammar import Grammar
from slipstream.errors import UnsupportedError


class CompiledGrammar:
    """A grammar made ready for one tokenizer."""


class GrammarCompiler:
    """Compiles grammars for one tokenizer."""

    def __init__(self, codec: TextCodec, vocabulary: int) -> None:
        self._codec = codec

    def compile(self, grammar: Grammar) -> CompiledGrammar:
        """Not yet."""
        raise UnsupportedError("grammars are not served yet")
