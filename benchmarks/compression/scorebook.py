"""Scores that are kept, chunk by chunk: a table that is cut off goes on where it was.

`gguf.py` uses it as it uses `quality.Judge`, whose figures it gives. Only the second half of each
chunk is run through the head. The original's log-probabilities of a chunk of SmolLM2 are 50 MB on
disk, each candidate's scores 8 KB; both are named by the content of model and chunk, so that
nothing stale is read. Two runs may fill one book at a time.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from quality import LENGTH, Judge, exact, say

from slipstream.backends.batch import PAGE_SIZE, Batch, Program
from slipstream.backends.native import NativeProgram
from slipstream.evaluate.divergence import kl_divergence, top1_agreement
from slipstream.evaluate.evaluation import Scores
from slipstream.evaluate.interval import blocks_of
from slipstream.evaluate.perplexity import log_softmax, negative_log_likelihood, new_kv
from slipstream.evaluate.texts import read_chunks
from slipstream.models.model import Model

HALF = LENGTH // 2
PIECES = ((HALF, HALF + 128), (HALF + 128, LENGTH - 1))  # positions whose logits are held at once


class Scorebook(Judge):
    """A judge that writes down what it has scored, below a folder."""

    def __init__(self, original: Model, text: Path, chunks: int, folder: Path) -> None:
        content = text.read_text(encoding="utf-8")
        self.chunks = read_chunks(original.tokenizer, content, chunks * LENGTH, LENGTH)
        self.blocks = blocks_of(np.full(len(self.chunks), LENGTH - 1 - HALF, np.int64))
        self.folder = folder / original.checkpoint.identity()[:16]
        self._original = original
        self._program: NativeProgram | None = None

    def kept(self, identity: str, make: Callable[[], NativeProgram]) -> Scores:
        """The scores of the model of this identity; `make` is called if some are missing."""
        folder = self.folder / identity[:24]
        folder.mkdir(parents=True, exist_ok=True)
        program = None
        columns = []
        for number, chunk in enumerate(self.chunks):
            path = folder / f"{_name(chunk)}.npy"
            if not path.exists():
                program = program or make()
                _save(path, self._score_chunk(program, chunk))
                say(f"  chunk {number + 1} of {len(self.chunks)}")
            columns.append(np.load(path))
        return Scores(*np.concatenate(columns, axis=1))

    def _score_chunk(self, program: Program, chunk: NDArray[np.int32]) -> NDArray[np.float64]:
        """float64 [4, T / 2 - 1]: the columns of `Scores`."""
        log_p, log_q = self._baseline(chunk), second_half(program, chunk)
        following = chunk[HALF + 1 :]
        return np.stack(
            [
                negative_log_likelihood(log_q, following),
                negative_log_likelihood(log_p, following),
                kl_divergence(log_p, log_q),
                top1_agreement(log_p, log_q).astype(np.float64),
            ]
        )

    def _baseline(self, chunk: NDArray[np.int32]) -> NDArray[np.float32]:
        """The original's log-probabilities, from disk if they were ever computed."""
        path = self.folder / f"original-{_name(chunk)}.npy"
        if path.exists():
            return np.load(path)
        if self._program is None:
            self._program = exact(self._original.graph, self._original.weights)
        logs = second_half(self._program, chunk)
        _save(path, logs)
        return logs


def second_half(program: Program, chunk: NDArray[np.int32]) -> NDArray[np.float32]:
    """float32 [T / 2 - 1, V]: log-probabilities after each position of the second half but one."""
    kv = new_kv(program, len(chunk))
    program.step(_part(chunk, 0, HALF, logits=False), kv)
    pieces = [log_softmax(program.step(_part(chunk, *ends), kv)) for ends in PIECES]
    return np.concatenate(pieces)


def _part(chunk: NDArray[np.int32], start: int, end: int, logits: bool = True) -> Batch:
    """Positions from `start` to `end` of a chunk on pages 0, 1, 2 …"""
    count = end - start
    return Batch(
        ids=chunk[start:end],
        row_starts=np.array([0, count], np.int32),
        lengths=np.array([start], np.int32),
        pages=np.arange(-(-len(chunk) // PAGE_SIZE), dtype=np.int32)[None, :],
        logit_rows=np.arange(count if logits else 0, dtype=np.int32),
    )


def _name(chunk: NDArray[np.int32]) -> str:
    return hashlib.sha256(chunk.astype("<i4").tobytes()).hexdigest()[:16]


def _save(path: Path, array: NDArray) -> None:
    """Whole or not at all."""
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    with partial.open("wb") as file:
        np.save(file, array)
    os.replace(partial, path)
