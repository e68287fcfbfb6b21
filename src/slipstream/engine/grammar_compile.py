"""Compiles grammars for one tokenizer, once per source, on threads of their own.

Called when a request is made, by its caller's thread, never by the engine's. Hostile sources meet
limits of size, fuel and time; whatever is wrong with a grammar becomes a RequestError in words.
"""

import threading
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from slipstream.engine.codec import TextCodec
from slipstream.engine.grammar import Grammar
from slipstream.errors import RequestError, UnsupportedError

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

COMPILE_TIMEOUT_S = 5.0
COMPILED_MAX = 64  # kept for the next request with the same grammar


class CompiledGrammar:
    """A grammar made ready for one tokenizer; `matcher` begins an answer."""

    def __init__(self, start: "LLMatcher", vocabulary: int) -> None:
        self._start = start
        self._lock = threading.Lock()
        self.vocabulary = vocabulary

    def matcher(self) -> "LLMatcher":
        """A matcher of its own for one answer, with nothing consumed yet."""
        with self._lock:
            return self._start.deep_copy()

    def after(self, token: int) -> "CompiledGrammar":
        """The same grammar behind one more token, for beams. RequestError if it is not allowed."""
        matcher = self.matcher()
        if not matcher.consume_token(token) or matcher.is_error():
            told = " ".join(matcher.get_error().split())[:300]
            raise RequestError(f"grammar: the answer cannot go on: {told}")
        return CompiledGrammar(matcher, self.vocabulary)


class GrammarCompiler:
    """Compiles the grammars of one engine. Safe to share between threads."""

    def __init__(self, codec: TextCodec, vocabulary: int) -> None:
        self._codec = codec
        self._vocabulary = vocabulary
        self._compiled: OrderedDict[Grammar, Future[CompiledGrammar]] = OrderedDict()
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._tokens: LLTokenizer | None = None
        self._tokens_lock = threading.Lock()

    def compile(self, grammar: Grammar) -> CompiledGrammar:
        """The grammar, ready. RequestError if it is none, or too large a one."""
        try:
            return self._future(grammar).result(COMPILE_TIMEOUT_S)
        except TimeoutError:
            raise RequestError(
                f"grammar: compiling the {grammar.kind} takes more than {COMPILE_TIMEOUT_S:.0f} s;"
                " make it simpler"
            ) from None

    def _future(self, grammar: Grammar) -> "Future[CompiledGrammar]":
        """Equal grammars are compiled once, also while the first is still being compiled."""
        with self._lock:
            future = self._compiled.get(grammar)
            if future is None or (future.done() and future.exception() is not None):
                self._pool = self._pool or ThreadPoolExecutor(2, "grammar")
                future = self._compiled[grammar] = self._pool.submit(self._build, grammar)
            self._compiled.move_to_end(grammar)
            while len(self._compiled) > COMPILED_MAX:
                self._compiled.popitem(last=False)
            return future

    def _build(self, grammar: Grammar) -> CompiledGrammar:
        try:
            from slipstream.engine import grammar_llguidance as backend  # noqa: PLC0415
        except ImportError as error:
            raise UnsupportedError(
                f"grammars need llguidance, which cannot be imported ({error}): install it with"
                " `pip install llguidance`"
            ) from error
        with self._tokens_lock:
            if self._tokens is None:
                self._tokens = backend.tokens_of(self._codec, self._vocabulary)
        return CompiledGrammar(backend.matcher_of(grammar, self._tokens), self._vocabulary)
