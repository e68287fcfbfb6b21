"""Text to train on, as tokens: documents, and how they are packed into equal portions.

The command line makes one from a file, from chats or from what the model writes; trained passes
take their portions from it. Which portion is read when depends on the seed and a counter alone, so
that a position in the data is one number.

    documents  | a a a a a a a | b b | c c c c c |
    portions     a a a a | a a a b | b c c c | c c      each document in a portion is a sequence
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slipstream.errors import RequestError

I32 = NDArray[np.int32]


@dataclass(frozen=True)
class Portion:
    """Sequences one after another: ids int32 [R]; sequence s owns rows starts[s] … starts[s+1]."""

    ids: I32
    starts: I32

    @property
    def scored(self) -> I32:
        """int32 [L]: rows after which the text says what comes next."""
        last = self.starts[1:] - 1
        return np.setdiff1d(np.arange(len(self.ids), dtype=np.int32), last).astype(np.int32)

    @property
    def next_ids(self) -> I32:
        """int32 [L]: what comes after each scored row."""
        return np.asarray(self.ids[self.scored + 1], np.int32)


@dataclass(frozen=True)
class Corpus:
    """Documents as token ids, and the portions of `length` tokens that they are packed into."""

    portions: tuple[Portion, ...]
    length: int

    @property
    def tokens(self) -> int:
        """In all portions."""
        return sum(len(portion.ids) for portion in self.portions)

    @property
    def digest(self) -> str:
        """Of every token and every border between documents."""
        found = hashlib.sha256(f"{self.length}".encode())
        for portion in self.portions:
            found.update(portion.ids.astype("<i4").tobytes())
            found.update(portion.starts.astype("<i4").tobytes())
        return found.hexdigest()

    def split(self, held_out: int) -> tuple["Corpus", "Corpus"]:
        """What is trained on, and the last `held_out` portions, which are only measured on.

        RequestError where nothing is left to train on.
        """
        if held_out >= len(self.portions):
            raise RequestError(
                f"a text of {len(self.portions)} portions cannot spare {held_out} to measure on; "
                "train on more text, or shorten its portions (length)"
            )
        cut = len(self.portions) - held_out
        return Corpus(self.portions[:cut], self.length), Corpus(self.portions[cut:], self.length)

    def at(self, position: int, seed: int) -> int:
        """The number of the portion that is read at `position`: each once an epoch, shuffled."""
        epoch, place = divmod(position, len(self.portions))
        order = np.random.default_rng((seed, epoch)).permutation(len(self.portions))
        return int(order[place])


def pack(documents: Sequence[I32], length: int) -> Corpus:
    """Documents (int32 [N] each) in portions of `length` tokens, the last one shorter.

    A document that reaches over a border goes on in the next portion as a new sequence; pieces of
    one token teach nothing and are left out. RequestError if nothing is left.
    """
    if length < 2:
        raise RequestError(f"a portion has 2 tokens or more, not {length}")
    portions: list[Portion] = []
    pieces: list[I32] = []
    room = length
    for document in documents:
        start = 0
        while len(document) - start > 1:
            if room < 2:
                portions.append(_portion(pieces))
                pieces, room = [], length
            piece = np.asarray(document[start : start + room], np.int32)
            pieces.append(piece)
            start, room = start + len(piece), room - len(piece)
    if pieces:
        portions.append(_portion(pieces))
    if not portions:
        raise RequestError("the text to train on is empty; give a longer one")
    return Corpus(tuple(portions), length)


def _portion(pieces: Sequence[I32]) -> Portion:
    starts = np.cumsum([0, *(len(piece) for piece in pieces)])
    return Portion(np.concatenate(pieces), starts.astype(np.int32))
