"""What rounding each matrix alone does to the model's predictions: KL on calibration text.

`passes.mixed` asks. The original runs once; for each matrix only the stages from its own to the
head run again. Rounding is small, so its KL is quadratic in the error: one probe of a matrix gives
the cost of every other format by the ratio of their squared errors.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from slipstream.backends.batch import PAGE_SIZE, Batch
from slipstream.compress.lane import Lane
from slipstream.compress.passes.rtn import round_to_nearest
from slipstream.compress.stages import Stage, stages_of
from slipstream.compress.store import overlay
from slipstream.compress.work import Drive, Edition
from slipstream.evaluate.divergence import kl_divergence
from slipstream.evaluate.perplexity import log_softmax
from slipstream.formats.tensor import Affine, DenseTensor, Tensor

F32 = NDArray[np.float32]

PROBE_TOKENS = 256  # of one chunk; the last three quarters are scored
_ROWS = 64  # of a matrix, evenly spaced: enough for the ratio of two errors


def probe_all(edition: Edition, drive: Drive, probes: Mapping[str, Affine]) -> dict[str, float]:
    """The KL, in nats a token, that each matrix costs when it alone is rounded to its probe."""
    assert drive.chunks is not None, "sensitivity is measured on a text"
    chunk = np.ascontiguousarray(drive.chunks[:1, :PROBE_TOKENS])
    stages = stages_of(edition.graph)
    lane = Lane(edition.graph, drive.compile, chunk)
    before: list[F32 | None] = []
    for stage in stages[:-1]:
        before.append(lane.rows)
        lane.advance(stage, edition.weights)
    before.append(lane.rows)
    original = log_softmax(_logits(lane, stages[-1], edition.weights))
    advance = drive.watcher.begin("measuring sensitivity", len(probes))
    found = {}
    for name, format in probes.items():
        start = next(i for i, stage in enumerate(stages) if name in stage.weights)
        rounded = round_to_nearest(_dense(edition, name), format)
        changed: dict[str, Tensor] = {name: DenseTensor(rounded.dequantize())}
        weights = overlay(edition.weights, changed)
        lane.rows = before[start]
        for stage in stages[start:-1]:
            lane.advance(stage, weights)
        logs = log_softmax(_logits(lane, stages[-1], weights))
        found[name] = float(kl_divergence(original, logs).mean())
        advance(1)
    return found


def squared_error(weight: F32, format: Affine) -> float:
    """Of rounding to nearest, on some rows of float32 [O, I]."""
    rows = np.linspace(0, len(weight) - 1, min(len(weight), _ROWS)).astype(int)
    some = np.ascontiguousarray(weight[rows])
    return float(np.square(round_to_nearest(some, format).dequantize() - some).mean())


def _dense(edition: Edition, name: str) -> F32:
    return np.array(edition.weights[name].dequantize(), np.float32)


def _logits(lane: Lane, stage: Stage, weights: Mapping[str, Tensor]) -> F32:
    """float32 [L, V] of the scored positions."""
    program = lane.program(stage, weights)
    ids = lane.ids(stage)[0]
    batch = Batch(
        ids=ids,
        row_starts=np.array([0, len(ids)], np.int32),
        lengths=np.zeros(1, np.int32),
        pages=np.arange(-(-len(ids) // PAGE_SIZE), dtype=np.int32)[None, :],
        logit_rows=np.arange(len(ids) // 4, len(ids), dtype=np.int32),
    )
    return program.step(batch, lane.pages(program))
