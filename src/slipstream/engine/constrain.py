"""Makes a request's constraints, on the thread of whoever makes the request.

So the engine's thread never waits for a tokenizer or a compiler, and a client's mistake is refused
before anything is queued.
"""

from slipstream.engine.codec import TextCodec
from slipstream.engine.constraints import PLAIN, Constraints
from slipstream.engine.grammar_compile import GrammarCompiler
from slipstream.engine.request import SamplingParams
from slipstream.engine.words import token_words
from slipstream.errors import RequestError


class Constrainer:
    """Makes the constraints of one engine's requests. Safe to share between threads."""

    def __init__(self, codec: TextCodec, vocabulary: int) -> None:
        self._codec = codec
        self._vocabulary = vocabulary
        self._compiler = GrammarCompiler(codec, vocabulary)

    def constraints(self, params: SamplingParams) -> Constraints:
        """RequestError for ids outside the vocabulary and for a grammar that is none."""
        self._check_ids(params)
        if not params.bad_words and params.grammar is None:
            return PLAIN
        grammar = None if params.grammar is None else self._compiler.compile(params.grammar)
        return Constraints(token_words(self._codec, params.bad_words), grammar)

    def _check_ids(self, params: SamplingParams) -> None:
        named = {
            "logit_bias": [i for i, _ in params.logit_bias],
            "allowed_ids": params.allowed_ids or (),
        }
        for name, ids in named.items():
            if ids and max(ids) >= self._vocabulary:
                raise RequestError(
                    f"{name} has token id {max(ids)}; ids must be in 0…{self._vocabulary - 1}"
                )
