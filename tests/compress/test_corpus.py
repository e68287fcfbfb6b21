"""Text packed into portions, and the order in which they are read."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.compress.corpus import pack
from slipstream.errors import RequestError


def documents(lengths: list[int]) -> list[np.ndarray]:
    """Numbers that name their document and place: 1000 d + i."""
    return [np.arange(n, dtype=np.int32) + 1000 * d for d, n in enumerate(lengths)]


@given(st.lists(st.integers(0, 40), min_size=1, max_size=8), st.integers(2, 16))
def test_every_token_is_packed_once_but_for_lone_ones(lengths: list[int], length: int) -> None:
    given_documents = documents(lengths)
    if not any(n > 1 for n in lengths):
        with pytest.raises(RequestError, match="empty"):
            pack(given_documents, length)
        return
    corpus = pack(given_documents, length)
    packed = np.concatenate([portion.ids for portion in corpus.portions])
    assert len(set(packed.tolist())) == len(packed)
    missing = set(np.concatenate(given_documents).tolist()) - set(packed.tolist())
    ends = {int(document[-1]) for document in given_documents if len(document)}
    assert missing <= ends  # a piece of one token is the last of its document
    for portion in corpus.portions:
        assert len(portion.ids) <= length and portion.starts[-1] == len(portion.ids)
        for start, end in zip(portion.starts[:-1], portion.starts[1:], strict=True):
            assert (np.diff(portion.ids[start:end]) == 1).all()  # of one document, in order


def test_rows_are_scored_by_what_comes_next_in_their_own_document() -> None:
    portion = pack(documents([3, 2]), 8).portions[0]
    assert portion.scored.tolist() == [0, 1, 3]
    assert portion.next_ids.tolist() == [1, 2, 1001]


def test_an_epoch_reads_every_portion_once_and_the_next_in_another_order() -> None:
    corpus = pack(documents([200]), 10)
    epochs = [[corpus.at(e * 20 + i, seed=3) for i in range(20)] for e in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(20))
    assert epochs[0] != epochs[1]
    assert [corpus.at(i, seed=4) for i in range(20)] != epochs[0]


def test_what_is_measured_on_is_not_trained_on() -> None:
    corpus = pack(documents([100]), 10)
    train, held_out = corpus.split(2)
    assert (len(train.portions), len(held_out.portions)) == (8, 2)
    with pytest.raises(RequestError, match="cannot spare"):
        corpus.split(10)
    assert train.digest != corpus.digest
