"""The texts of one compression: to calibrate on, to measure on, and to train on.

From the user's file, or written by the model. What is measured on is never calibrated or trained
on: a text is split in two, and only its first half is learned from.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slipstream.backends.native import compile_native
from slipstream.cli.search_show import Bars
from slipstream.compress.calibration_text import documents_of
from slipstream.compress.chain import Chain
from slipstream.compress.corpus import I32, Corpus, pack
from slipstream.evaluate.texts import (
    Texts,
    halves,
    opening_id,
    sample_texts,
    split_text,
    start_id,
)
from slipstream.models.model import Model
from slipstream.models.tokenizer import Tokenizer

_CHARACTERS_PER_TOKEN = 12  # more than any text has on average


@dataclass(frozen=True)
class Reading:
    """`corpus` is None where no pass trains."""

    texts: Texts
    corpus: Corpus | None


def read_texts(chain: Chain, model: Model, text: Path | None, tokens: int, bars: Bars) -> Reading:
    """From `text`, else that of the recipe, else sampled from the model as it is served.

    tokens  to measure on
    """
    plan = chain.calibration
    path = text or (None if plan.text is None else Path(plan.text))
    length = min(plan.length, model.graph.context)
    if path is None:
        return _sampled(chain, model, tokens, length, bars)
    documents = documents_of(path, model.tokenizer.chat)
    whole = "\n\n".join(documents)
    texts = split_text(model.tokenizer, whole, tokens, plan.tokens, source=path.name, length=length)
    first = _within(documents, len(halves(whole)[0]))
    return Reading(texts, _corpus(chain, model, first) if chain.trained else None)


def _sampled(chain: Chain, model: Model, tokens: int, length: int, bars: Bars) -> Reading:
    """The model writes all three, unless there is a file to train on."""
    write = chain.trained and chain.training.text is None
    extra = chain.training.tokens if write else 0
    calibration = chain.calibration.tokens if chain.calibrated else length
    program = compile_native(model.graph, model.weights, settings=model.activations)
    advance = bars.begin("the model writes text", tokens + calibration + extra)
    begin = start_id(model.tokenizer)
    found = sample_texts(
        program, begin, tokens, calibration + extra, length=length, on_tokens=advance
    )
    if not chain.trained:
        return Reading(found, None)
    if not write:
        return Reading(found, _corpus(chain, model, []))
    kept = max(1, calibration // length)
    texts = Texts(found.evaluation, found.calibration[:kept], found.source)
    rows = found.calibration[kept:] if len(found.calibration) > kept else found.calibration
    return Reading(texts, pack(list(rows), length))


def _corpus(chain: Chain, model: Model, documents: Sequence[str]) -> Corpus:
    """The recipe's own text to train on, else these documents."""
    plan = chain.training
    if plan.text is not None:
        documents = documents_of(Path(plan.text), model.tokenizer.chat)
    length = min(plan.length, model.graph.context)
    return pack(_tokens(model.tokenizer, documents, plan.tokens, length), length)


def _tokens(tokenizer: Tokenizer, documents: Sequence[str], most: int, length: int) -> list[I32]:
    """Pieces of `length` tokens at most; each begins as the tokenizer begins a text."""
    opening = opening_id(tokenizer)
    found: list[I32] = []
    left = most
    for document in documents:
        if left < 2:
            break
        ids = tokenizer.encode(document[: left * _CHARACTERS_PER_TOKEN], special=False)[:left]
        left -= len(ids)
        found.extend(_pieces(ids, opening, length))
    return found


def _pieces(ids: Sequence[int], opening: int | None, length: int) -> list[I32]:
    first = [] if opening is None else [opening]
    step = length - len(first)
    return [
        np.array([*first, *ids[start : start + step]], np.int32)
        for start in range(0, len(ids), step)
    ]


def _within(documents: Sequence[str], characters: int) -> list[str]:
    """The documents up to a place in their joined text; the one it cuts ends there."""
    found: list[str] = []
    left = characters
    for document in documents:
        if left <= 0:
            break
        found.append(document[:left])
        left -= len(document) + 2
    return found
