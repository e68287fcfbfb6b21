"""Which tokens each constrained answer may have next: one bit per token of the vocabulary.

The masks of the next step are made on a thread of their own as soon as the tokens of this one are
known, while the engine plans and runs: the rest of the batch does not wait for them. A state is a
function of the answer's tokens: it follows them, and begins again if they are others than it knew.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from slipstream.engine.grammar_compile import CompiledGrammar
from slipstream.errors import RequestError, SlipstreamError

Bits = NDArray[np.uint8]


class GrammarState:
    """Where one answer is in its grammar."""

    def __init__(self, grammar: CompiledGrammar) -> None:
        self._matcher = grammar.matcher()
        self._known: list[int] = []
        self._bits = np.zeros(-(-grammar.vocabulary // 32) * 4, np.uint8)
        self._fresh = False

    def bits(self, answer: Sequence[int]) -> Bits:
        """uint8 [V / 8], the lowest bit first: which tokens may follow `answer`.

        RequestError if the grammar grew beyond its limits, or does not allow `answer` itself.
        """
        known = len(self._known)
        if not self._fresh or len(answer) != known or list(answer) != self._known:
            if list(answer[:known]) != self._known:
                self._matcher.reset()
                self._known = []
            self._consume(answer[len(self._known) :])
            self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
            self._check()
            self._fresh = True
        return self._bits

    def _consume(self, tokens: Sequence[int]) -> None:
        self._fresh = False
        if tokens:
            self._matcher.consume_tokens(list(tokens))
            self._check()
            self._known += tokens

    def _check(self) -> None:
        if self._matcher.is_error():
            told = " ".join(self._matcher.get_error().split())[:300]
            raise RequestError(f"grammar: the answer cannot go on: {told}")


class GrammarMasks:
    """The grammar states of an engine's requests. Used by the engine's thread only."""

    def __init__(self) -> None:
        self._states: dict[int, GrammarState] = {}
        self._ahead: Future[None] | None = None
        self._thread: ThreadPoolExecutor | None = None

    def bits(self, request_id: int, grammar: CompiledGrammar, answer: Sequence[int]) -> Bits:
        """`GrammarState.bits` of a request, most often made already."""
        if self._ahead is not None:
            self._ahead.result()
            self._ahead = None
        state = self._states.get(request_id)
        if state is None:
            state = self._states[request_id] = GrammarState(grammar)
        return state.bits(answer)

    def prepare(self, answers: Mapping[int, Sequence[int]]) -> None:
        """Begins with the masks after these answers, by request id."""
        work = [(self._states[i], answer) for i, answer in answers.items() if i in self._states]
        if work:
            if self._thread is None:
                self._thread = ThreadPoolExecutor(1, "grammar-masks")
            self._ahead = self._thread.submit(_make, work)

    def forget(self, request_id: int) -> None:
        """The request has ended."""
        self._states.pop(request_id, None)


def _make(work: Sequence[tuple[GrammarState, Sequence[int]]]) -> None:
    for state, answer in work:
        with suppress(SlipstreamError):  # `bits` meets it again, where the client can be told
            state.bits(answer)
