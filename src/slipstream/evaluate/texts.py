"""The tokens to measure on: a user's text, or text that the model writes itself.

Where no text is given the model samples from its own distribution (temperature 1, fixed seeds), so
that what is measured is what it would say. Distances on such text are a little kinder than on
foreign text: reports name the source.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slipstream.backends.batch import PAGE_SIZE, Batch, Program
from slipstream.engine.request import SamplingParams
from slipstream.engine.sampler import sample
from slipstream.errors import RequestError
from slipstream.evaluate.perplexity import CHUNK_TOKENS, chunks_of
from slipstream.models.tokenizer import Tokenizer

_CHARACTERS_PER_TOKEN = 12  # more than any text has on average: what is tokenized of a long file
_FREELY = SamplingParams(temperature=1.0)

OnTokens = Callable[[int], None]


@dataclass(frozen=True)
class Texts:
    """Disjoint token chunks, int32 [C, T] each, and where they came from in words."""

    evaluation: NDArray[np.int32]
    calibration: NDArray[np.int32]
    source: str


def read_chunks(
    tokenizer: Tokenizer, text: str, tokens: int, length: int = CHUNK_TOKENS
) -> NDArray[np.int32]:
    """int32 [C, length]: the first `tokens` tokens of a text, in whole chunks (at least one)."""
    ids = tokenizer.encode(text[: tokens * _CHARACTERS_PER_TOKEN], special=False)
    chunks = chunks_of(np.array(ids, np.int32), length, opening_id(tokenizer))
    return chunks[: max(1, tokens // length)]


def split_text(
    tokenizer: Tokenizer,
    text: str,
    evaluation_tokens: int,
    calibration_tokens: int,
    *,
    source: str,
    length: int = CHUNK_TOKENS,
) -> Texts:
    """Calibration from the text's first half, evaluation from its second: never the same words."""
    first, second = halves(text)
    try:
        evaluation = read_chunks(tokenizer, second, evaluation_tokens, length)
        calibration = read_chunks(tokenizer, first, calibration_tokens, length)
    except RequestError as error:
        raise RequestError(f"{source} is too short to be split in two: {error}") from None
    return Texts(evaluation, calibration, source)


def halves(text: str) -> tuple[str, str]:
    """Cut at the first end of a line after the middle."""
    middle = text.find("\n", len(text) // 2) + 1 or len(text) // 2
    return text[:middle], text[middle:]


def sample_texts(
    program: Program,
    start_id: int,
    evaluation_tokens: int,
    calibration_tokens: int,
    *,
    length: int = CHUNK_TOKENS,
    on_tokens: OnTokens | None = None,
) -> Texts:
    """Both kinds of chunks, sampled side by side in one batch."""
    length = min(length, program.graph.context)
    evaluation, calibration = (max(1, n // length) for n in (evaluation_tokens, calibration_tokens))
    chunks = sample_chunks(program, start_id, evaluation + calibration, length, on_tokens)
    return Texts(chunks[:evaluation], chunks[evaluation:], "sampled from the model itself")


def sample_chunks(
    program: Program, start_id: int, count: int, length: int, on_tokens: OnTokens | None = None
) -> NDArray[np.int32]:
    """int32 [count, length]: sequences that begin with `start_id` and go on as the model likes.

    Temperature 1; sequence s draws with seed s, so equal programs write equal texts. An end of turn
    does not end a sequence: the model goes on to the next one.
    """
    chunks = np.empty((count, length), np.int32)
    chunks[:, 0] = start_id
    pages = -(-length // PAGE_SIZE)
    table = np.arange(count * pages, dtype=np.int32).reshape(count, pages)
    kv = program.new_kv(count * pages)
    rows = np.arange(count, dtype=np.int32)
    for position in range(length - 1):
        batch = Batch(
            ids=np.ascontiguousarray(chunks[:, position]),
            row_starts=np.arange(count + 1, dtype=np.int32),
            lengths=np.full(count, position, np.int32),
            pages=table,
            logit_rows=rows,
        )
        logits = program.step(batch, kv)
        chunks[:, position + 1] = [sample(logits[s], _FREELY, s, position) for s in range(count)]
        if on_tokens is not None:
            on_tokens(count)
    return chunks


def start_id(tokenizer: Tokenizer) -> int:
    """The token that a text of this model begins with."""
    if tokenizer.bos_id is not None:
        return tokenizer.bos_id
    return min(tokenizer.eos_ids, default=0)


def opening_id(tokenizer: Tokenizer) -> int | None:
    """The beginning-of-sequence token, where the tokenizer puts one before every text."""
    opening = tokenizer.encode("a", special=True)[:1]
    return opening[0] if opening == [tokenizer.bos_id] else None
