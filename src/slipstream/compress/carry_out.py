"""Carries out a chain of passes on a model; a killed run goes on where it was.

Everything that decides the outcome (model, chain, text) names the folder of a run, so that what
lies there can be trusted. Each finished pass leaves its files and its config; the next one reads
weights from them through the memory map.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slipstream.compress.chain import Chain, method_of
from slipstream.compress.corpus import Corpus
from slipstream.compress.stages import stages_of
from slipstream.compress.work import Compile, Drive, Edition, Silent, Watcher, outlined
from slipstream.errors import MachineError
from slipstream.formats.tensor import Tensor
from slipstream.graph.graph import Graph

VERSION = 1  # of the files in a run's folder; a later one starts afresh


def run_folder(
    cache: Path,
    identity: str,
    chain: Chain,
    chunks: NDArray[np.int32] | None,
    corpus: Corpus | None = None,
) -> Path:
    """The folder of this very run under `cache`."""
    digest = hashlib.sha256(f"{VERSION} {identity} {json.dumps(chain.to_json())}".encode())
    if chunks is not None:
        digest.update(chunks.astype("<i4").tobytes())
    if corpus is not None:
        digest.update(corpus.digest.encode())
    return cache / digest.hexdigest()[:16]


def carry_out(
    chain: Chain,
    edition: Edition,
    compile: Compile,
    chunks: NDArray[np.int32] | None,
    folder: Path,
    *,
    memory_bytes: int = 2 << 30,
    watcher: Watcher | None = None,
    corpus: Corpus | None = None,
    original: Edition | None = None,
    log: Path | None = None,
) -> Edition:
    """The edition after all passes. `folder` is that of `run_folder`, and is kept.

    Before any work: MachineError if a stage does not fit `memory_bytes`, and what a later pass
    refuses (`check_passes`). What single layers could not bear is in the edition's notes. `corpus`
    is for passes that train; they learn from `original` (the edition itself, if it is not given)
    and write figures for TensorBoard to `log`.
    """
    watcher = watcher or Silent()
    original = original or edition
    check_passes(chain, edition)
    if chain.calibrated:
        assert chunks is not None, "a calibrated chain needs a text"
        check_memory(edition.graph, edition.weights, chunks.size, memory_bytes)
    for number, one in enumerate(chain.passes):
        where = folder / f"{number:02}-{method_of(one)}"
        drive = Drive(compile, chunks, where, memory_bytes, watcher, corpus, original, log)
        edition = one.run(edition, drive)
    return edition


def check_passes(chain: Chain, edition: Edition) -> None:
    """Every pass on shapes alone: the last one's refusal shall not wait for hours of the others."""
    outline = outlined(edition)
    for one in chain.passes:
        outline = one.outline(outline)


def check_memory(
    graph: Graph, weights: Mapping[str, Tensor], tokens: int, memory_bytes: int
) -> None:
    """MachineError with the least that would do, if a stage does not fit."""
    needed = memory_needed(graph, {n: weights[n].shape for n in graph.weight_names()}, tokens)
    if needed > memory_bytes:
        raise MachineError(
            f"compressing needs about {needed / 1e6:,.1f} MB, and {memory_bytes / 1e6:,.1f} MB are "
            "allowed: raise --memory, or calibrate on fewer tokens"
        )


def memory_needed(graph: Graph, shapes: Mapping[str, tuple[int, ...]], tokens: int) -> int:
    """Bytes held at once, at the worst stage: its rows twice, its weights, the widest moments.

    Beside the sum in float32, a factorization holds one and a half times the moments in float64.
    """
    rows = 3 * 4 * tokens * graph.width
    worst = 0
    for stage in stages_of(graph):
        matrices = [shapes[name] for name in stage.weights if len(shapes[name]) == 2]
        if stage.layer is None:  # embedding and head are rounded in pieces
            worst = max(worst, *(12 * out * wide for out, wide in matrices), 0)
            continue
        weights = sum(4 * out * wide for out, wide in matrices)
        widest = max((wide for _, wide in matrices), default=0)
        worst = max(worst, 3 * weights + 20 * widest * widest)
    return rows + worst
