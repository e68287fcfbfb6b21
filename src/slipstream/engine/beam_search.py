"""What beam search decides, without an engine: which answers go on, which have ended.

`beam.py` drives it. Scores are those of transformers' `generate` with `length_penalty=1.0,
early_stopping=False`: the sum over an answer's tokens, the end of turn included.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from heapq import nlargest

from slipstream.engine.beam_rivals import Rival
from slipstream.engine.detokenize import TextStream
from slipstream.engine.grammar_compile import CompiledGrammar


@dataclass(frozen=True)
class Beam:
    """An answer so far: its tokens, what their scores add up to, and what watches it.

    text     its text, where stop strings are looked for
    grammar  from where it has come
    """

    entries: tuple[Rival, ...] = ()
    score: float = 0.0
    text: TextStream | None = None
    grammar: CompiledGrammar | None = None

    @property
    def ids(self) -> tuple[int, ...]:
        """The tokens."""
        return tuple(entry.id for entry in self.entries)

    @property
    def mean(self) -> float:
        """The score for each token: what finished beams are ranked by."""
        return self.score / len(self.entries)

    def grown(self, rival: Rival) -> "Beam":
        """With one more token."""
        return replace(self, entries=(*self.entries, rival), score=self.score + rival.score)

    def going_on(self) -> "Beam":
        """With its grammar behind its last token."""
        if self.grammar is None:
            return self
        return replace(self, grammar=self.grammar.after(self.entries[-1].id))


class BeamSearch:
    """The beams of one prompt, from step to step. `start` has what watches all of them."""

    def __init__(
        self, width: int, max_tokens: int, stop_ids: frozenset[int], start: Beam | None = None
    ) -> None:
        self.width = width
        self.rivals = max(2, 1 + len(stop_ids)) * width  # so that enough of them do not end
        self.running: list[Beam] = [start or Beam()]
        self.finished: list[Beam] = []  # the best first, at most `width`
        self._max_tokens = max_tokens
        self._stop_ids = stop_ids
        self._tokens = 0

    @property
    def done(self) -> bool:
        """Whether no running beam can still come among the best, as the heuristic has it."""
        if not self.running:
            return True
        if len(self.finished) < self.width or not self._tokens:
            return False
        return self.running[0].score / self._tokens <= self.finished[-1].mean

    def grow(self, rivals: Sequence[Sequence[Rival]]) -> None:
        """The next step. rivals: each running beam's likeliest tokens; none where it is stuck."""
        pairs = [
            (beam, rival)
            for beam, likeliest in zip(self.running, rivals, strict=True)
            for rival in likeliest
        ]
        best = nlargest(self.rivals, pairs, key=lambda pair: pair[0].score + pair[1].score)
        grown = [beam.grown(rival) for beam, rival in best]
        self._tokens += 1
        read = [self._read(beam) for beam in grown]
        # Only the first `width` may finish: those behind them are there to go on.
        self.finished += [beam for beam, ended in read[: self.width] if ended]
        self.finished = sorted(self.finished, key=lambda beam: -beam.mean)[: self.width]
        going_on = [beam for beam, ended in read if not ended][: self.width]
        self.running = [beam.going_on() for beam in going_on]

    def _read(self, beam: Beam) -> tuple[Beam, bool]:
        """The beam with its last token read, and whether it has ended."""
        last = beam.entries[-1].id
        ended = last in self._stop_ids or self._tokens == self._max_tokens
        if ended or beam.text is None:
            return beam, ended
        text = beam.text.clone()
        return replace(beam, text=text), text.push(last)[1] is not None
