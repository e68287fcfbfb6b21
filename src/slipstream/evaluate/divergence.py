"""How far a candidate's next-token distribution lies from the original's.

P is the original, Q the candidate; arrays are log-probabilities [L, V] as `perplexity` makes them.
The original's can be kept on disk, exactly, so that many candidates are held against one run of it.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from slipstream.backends.batch import Program
from slipstream.evaluate.perplexity import Logs, log_probabilities, new_kv, rows_at_once


def kl_divergence(log_p: Logs, log_q: Logs) -> NDArray[np.float64]:
    """float64 [L]: KL(P ‖ Q) = Σᵥ p (log p - log q), in nats; never below zero.

    Terms are float32 and summed pairwise: good to about 1e-7, a hundredth of what int8 costs.
    """
    terms = np.exp(log_p)
    terms *= log_p - log_q
    return np.maximum(terms.sum(axis=1), 0).astype(np.float64)


def top1_agreement(log_p: Logs, log_q: Logs) -> NDArray[np.bool_]:
    """bool [L]: whether both put the same token first."""
    return np.asarray(log_p.argmax(axis=1) == log_q.argmax(axis=1))


class Baseline(Protocol):
    """The original's log-probabilities over a fixed list of chunks."""

    chunks: NDArray[np.int32]  # [C, T]

    def pieces(self, chunk: int) -> Iterator[Logs]:
        """float32 [L, V] pieces over the T - 1 scored positions of a chunk, in order."""
        ...


class LiveBaseline:
    """Runs the original again each time: no storage, twice the work."""

    def __init__(self, program: Program, chunks: NDArray[np.int32]) -> None:
        self.chunks = chunks
        self._program = program
        self._kv = new_kv(program, chunks.shape[1])

    def pieces(self, chunk: int) -> Iterator[Logs]:
        """Fresh from the program."""
        yield from log_probabilities(self._program, self.chunks[chunk], self._kv)


class StoredBaseline:
    """Runs each chunk of the original once and keeps float32 log-probabilities in a temporary file.

    Exactly what `LiveBaseline` yields, at C · (T - 1) · V · 4 bytes of disk: 100 MB for each chunk
    of 512 tokens of SmolLM2. The file has no name, so it goes with the process.
    """

    def __init__(self, live: Baseline, vocabulary: int, folder: Path | None = None) -> None:
        self.chunks = live.chunks
        self._live = live
        self._shape = (len(live.chunks), live.chunks.shape[1] - 1, vocabulary)
        self._stored = [False] * len(live.chunks)
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - lives as long as we do

    @staticmethod
    def bytes_needed(chunks: NDArray[np.int32], vocabulary: int) -> int:
        """Of disk."""
        return len(chunks) * (chunks.shape[1] - 1) * vocabulary * 4

    def pieces(self, chunk: int) -> Iterator[Logs]:
        """From the file; from the program the first time."""
        if self._stored[chunk]:
            yield from self._read(chunk)
            return
        row = 0
        for logs in self._live.pieces(chunk):
            self._file.seek(self._offset(chunk, row))
            self._file.write(np.ascontiguousarray(logs).tobytes())
            row += len(logs)
            yield logs
        self._stored[chunk] = True

    def _read(self, chunk: int) -> Iterator[Logs]:
        _, rows, vocabulary = self._shape
        at_once = rows_at_once(vocabulary)
        for start in range(0, rows, at_once):
            piece = np.empty((min(at_once, rows - start), vocabulary), np.float32)
            self._file.seek(self._offset(chunk, start))
            read = self._file.readinto(piece.data)
            assert read == piece.nbytes, "the stored baseline is shorter than was written"
            yield piece

    def _offset(self, chunk: int, row: int) -> int:
        _, rows, vocabulary = self._shape
        return (chunk * rows + row) * vocabulary * 4


def baseline_for(
    program: Program, chunks: NDArray[np.int32], *, folder: Path | None = None
) -> Baseline:
    """Stored where the disk has four times the room, else live: the figures are the same."""
    live = LiveBaseline(program, chunks)
    vocabulary = program.graph.vocabulary
    disk = os.statvfs(folder or tempfile.gettempdir())
    if disk.f_bavail * disk.f_frsize > 4 * StoredBaseline.bytes_needed(chunks, vocabulary):
        return StoredBaseline(live, vocabulary, folder)
    return live
