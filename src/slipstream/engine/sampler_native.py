"""Draws a step's tokens with the native kernels: the tokens of `sampler.py`, many times faster.

The drawer calls it once per step with all rows; the GIL is released meanwhile.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from slipstream.backends.native_module import native_module
from slipstream.engine.exact import WEIGHT_ONE, inverse_of, log, log_of
from slipstream.engine.noise import noise_keys
from slipstream.engine.request import SamplingParams
from slipstream.engine.sampler import (
    MIN_P_LOWEST,
    Ids,
    ReferenceSampler,
    Row,
    Sampler,
    TokenLogprob,
    check_highest,
    logprob_entry,
)
from slipstream.errors import MachineError, SlipstreamError

Floats = NDArray[np.float32]
Controls = tuple[float, float, float, float, float, float]

REFUSED = {-1: math.nan, -2: -math.inf}  # what a token below 0 says of the row's highest logit


def fastest_sampler(threads: int = 1) -> Sampler:
    """The native one, or the reference where the kernels were not built."""
    try:
        return NativeSampler(threads)
    except MachineError:
        return ReferenceSampler()


class NativeSampler:
    """Draws on up to `threads` threads. MachineError where the kernels were not built."""

    def __init__(self, threads: int = 1, isa: str = "auto") -> None:
        self._inner = native_module().Sampler(isa, threads)

    def draw(self, rows: Sequence[Row]) -> list[int | SlipstreamError]:
        """See `Sampler`."""
        tokens: list[int | SlipstreamError] = []
        for token in self._draw(rows):
            try:
                check_highest(REFUSED.get(token, 0.0))
                tokens.append(token)
            except SlipstreamError as error:
                tokens.append(error)
        return tokens

    def logprobs(
        self, rows: Sequence[Floats], tokens: Sequence[int], tops: Sequence[int]
    ) -> list[TokenLogprob]:
        """See `Sampler`."""
        if not rows:
            return []
        totals, highest = np.empty(len(rows)), np.empty(len(rows), np.float32)
        self._inner.totals([_whole(row) for row in rows], totals, highest)
        log_totals = log(totals / WEIGHT_ONE)
        return [
            logprob_entry(row, token, self.top_ids(row, top), float(best), float(log_total))
            for row, token, top, best, log_total in zip(
                rows, tokens, tops, highest, log_totals, strict=True
            )
        ]

    def top_ids(self, row: Floats, k: int) -> Ids:
        """`sampler.top_ids`."""
        return np.array(self._inner.top(_whole(row), k) if k else (), np.int64)

    def _draw(self, rows: Sequence[Row]) -> list[int]:
        if not rows:
            return []
        controls = np.array([_controls(row.params) for row in rows])
        keys = np.array([_keys(row) for row in rows], np.uint64)
        tokens = np.empty(len(rows), np.int64)
        self._inner.draw([_whole(row.logits) for row in rows], controls, keys, tokens)
        return tokens.tolist()


def _controls(params: SamplingParams) -> Controls:
    """What csrc/bind_sampler.cpp reads."""
    if params.temperature == 0:
        return 0.0, 0.0, 0.0, 1.0, -math.inf, 1.0
    lowest = log_of(max(params.min_p, MIN_P_LOWEST)) if params.min_p else -math.inf
    inverse = float(inverse_of(params.temperature))
    top_k = float(params.top_k)
    return params.temperature, inverse, top_k, params.top_p, lowest, params.typical_p


def _keys(row: Row) -> tuple[int, int, int]:
    return (0, 0, 0) if row.params.temperature == 0 else noise_keys(row.seed, row.index)


def _whole(row: Floats) -> Floats:
    return np.ascontiguousarray(row, np.float32)
