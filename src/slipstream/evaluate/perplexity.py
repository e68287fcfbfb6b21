"""Token chunks, and how likely a program finds them.

The convention, the same for every figure that Slipstream prints: the text is tokenized whole and
cut into consecutive chunks of 512 tokens, the rest dropped; each chunk is read as a new sequence,
and every token after the first of its chunk is scored. (llama.cpp's ``llama-perplexity`` scores
only the second half of each chunk, so its figures are lower; its chunks are the same.) Where the
tokenizer opens texts with a beginning-of-sequence token, it replaces the first token of each chunk,
as in llama.cpp.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from slipstream.backends.batch import KV, PAGE_SIZE, Batch, Program
from slipstream.errors import NumericError, RequestError

CHUNK_TOKENS = 512
PIECE_BYTES = 32 << 20  # logits held at once: 170 rows of SmolLM2's, 64 of Llama 3's

Logs = NDArray[np.float32]


def chunks_of(
    ids: NDArray[np.int32], length: int = CHUNK_TOKENS, bos_id: int | None = None
) -> NDArray[np.int32]:
    """int32 [C, length]: consecutive chunks; a text shorter than one chunk is one short chunk.

    Refuses a text of fewer than two tokens: there is nothing to score.
    """
    if len(ids) < 2:
        raise RequestError(
            f"the text has {len(ids)} token(s); at least two are needed. Give a longer --text."
        )
    length = min(length, len(ids))
    count = len(ids) // length
    chunks = np.array(ids[: count * length], np.int32).reshape(count, length)
    if bos_id is not None:
        chunks[:, 0] = bos_id
    return chunks


def log_probabilities(program: Program, chunk: NDArray[np.int32], kv: KV) -> Iterator[Logs]:
    """Pieces float32 [L, V], in order: log-probabilities after each position but the last.

    The chunk runs on pages 0, 1, 2 … of `kv`. A piece is at most PIECE_BYTES and is the caller's
    to change.
    """
    rows = rows_at_once(program.graph.vocabulary)
    scored = len(chunk) - 1
    for start in range(0, scored, rows):
        ids = chunk[start : min(start + rows, scored)]
        logits = program.step(_piece(ids, start, len(chunk)), kv)
        if not np.isfinite(logits).all():
            raise NumericError(f"logits at positions {start}… of a chunk are not finite")
        yield log_softmax(logits)


def rows_at_once(vocabulary: int) -> int:
    """Rows of one piece: everything that cuts chunks into pieces cuts them by this."""
    return max(16, min(CHUNK_TOKENS, PIECE_BYTES // (4 * vocabulary)))


def new_kv(program: Program, length: int) -> KV:
    """Pages for one chunk of `length` tokens."""
    return program.new_kv(-(-length // PAGE_SIZE))


def log_softmax(logits: Logs) -> Logs:
    """Row by row, in place where the array may be written."""
    logs = logits if logits.flags.writeable else logits.copy()
    logs -= logs.max(axis=1, keepdims=True)
    total = np.exp(logs).sum(axis=1, keepdims=True)
    logs -= np.log(total)
    return logs


def negative_log_likelihood(logs: Logs, next_ids: NDArray[np.int32]) -> NDArray[np.float64]:
    """float64 [L]: -log p(next token), in nats."""
    picked: NDArray[np.float32] = logs[np.arange(len(next_ids)), next_ids]
    return -picked.astype(np.float64)


def perplexity(nll: NDArray[np.float64]) -> float:
    """exp of the mean negative log-likelihood."""
    return float(np.exp(nll.mean()))


def _piece(ids: NDArray[np.int32], start: int, length: int) -> Batch:
    """Rows start … of a sequence of `length` tokens on the first pages; all logits wanted."""
    return Batch(
        ids=np.ascontiguousarray(ids, np.int32),
        row_starts=np.array([0, len(ids)], np.int32),
        lengths=np.array([start], np.int32),
        pages=np.arange(-(-length // PAGE_SIZE), dtype=np.int32)[None, :],
        logit_rows=np.arange(len(ids), dtype=np.int32),
    )
