"""How a time budget becomes numbers of tokens, candidates and repeats.

A machine is timed for a moment, then the quality of every candidate is planned onto half of the
budget. More text narrows the intervals; no text is so short that they mean nothing.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from slipstream.backends.batch import PAGE_SIZE, Batch, Program, single
from slipstream.evaluate.perplexity import CHUNK_TOKENS
from slipstream.evaluate.texts import sample_chunks

Clock = Callable[[], float]

EVALUATION_SHARE = 0.35
CALIBRATION_SHARE = 0.10
SPEED_SHARE = 0.2  # kept free for timing, which needs every program once more
EVALUATION_TOKENS = (2048, 16384)  # fewest and most
CALIBRATION_TOKENS = (4096, 16384)
SAMPLED_SHARE = 0.2  # of the budget, for text that the model writes itself
REPEATS = (3, 9)
DECODE_TOKENS = 32
PROMPT_TOKENS = 256
_TIMED_TOKENS = 128


@dataclass(frozen=True)
class Pace:
    """Seconds per token of a program: reading a prompt with all logits, and decoding one stream."""

    prefill_s: float
    decode_s: float


@dataclass(frozen=True)
class TokenPlan:
    """How much text a search measures on."""

    evaluation: int
    calibration: int


def pace_of(program: Program, clock: Clock = time.perf_counter) -> Pace:
    """Times one prompt and a few decoded tokens, after a prompt to warm up."""
    tokens = min(_TIMED_TOKENS, program.graph.context - 8)
    ids = (np.arange(tokens, dtype=np.int32) * 31) % program.graph.vocabulary
    kv = program.new_kv(-(-(tokens + 8) // PAGE_SIZE))
    program.step(single(ids), kv)
    start = clock()
    program.step(single(ids, all_logits=True), kv)
    prefilled = clock()
    for position in range(tokens, tokens + 4):
        program.step(_next_token(position, kv.page_count), kv)
    return Pace((prefilled - start) / tokens, (clock() - prefilled) / 4)


def sampling_rate(program: Program, clock: Clock = time.perf_counter, streams: int = 16) -> float:
    """Tokens per second of `sample_chunks`, all streams together."""
    start = clock()
    sample_chunks(program, 0, streams, 5)
    return streams * 4 / max(clock() - start, 1e-9)


def plan_tokens(budget_s: float, baseline: Pace, candidate: Pace, candidates: int) -> TokenPlan:
    """Tokens of text, in whole chunks, for `candidates` evaluations and one calibration."""
    statistics_s = 1e-3  # softmax and divergence of one position: measured 0.5–1.2 ms at V = 49,152
    once = baseline.prefill_s + statistics_s
    each = candidate.prefill_s + statistics_s
    evaluation = EVALUATION_SHARE * budget_s / (once + candidates * each)
    calibration = CALIBRATION_SHARE * budget_s / (2 * baseline.prefill_s)
    return TokenPlan(
        _chunked(evaluation, *EVALUATION_TOKENS), _chunked(calibration, *CALIBRATION_TOKENS)
    )


def shorten_for_sampling(plan: TokenPlan, budget_s: float, tokens_per_s: float) -> TokenPlan:
    """No more text than the model can write in its share of the budget; halves at the least."""
    affordable = SAMPLED_SHARE * budget_s * tokens_per_s
    share = min(1.0, affordable / (plan.evaluation + plan.calibration))
    evaluation, calibration = (share * n for n in (plan.evaluation, plan.calibration))
    lowest = CHUNK_TOKENS * 2
    return TokenPlan(
        _chunked(evaluation, lowest, plan.evaluation),
        _chunked(calibration, lowest, plan.calibration),
    )


def plan_repeats(left_s: float, programs: int, pace: Pace) -> int:
    """Rounds of timing that fit into the time left, beside one to warm up."""
    turn = PROMPT_TOKENS * pace.prefill_s + DECODE_TOKENS * pace.decode_s
    return int(np.clip(left_s / (programs * turn) - 1, *REPEATS))


def _chunked(tokens: float, lowest: int, highest: int) -> int:
    """Whole chunks."""
    chunks = int(np.clip(tokens, lowest, highest)) // CHUNK_TOKENS
    return max(1, chunks) * CHUNK_TOKENS


def _next_token(position: int, page_count: int) -> Batch:
    return Batch(
        ids=np.array([1], np.int32),
        row_starts=np.array([0, 1], np.int32),
        lengths=np.array([position], np.int32),
        pages=np.arange(page_count, dtype=np.int32)[None, :],
        logit_rows=np.array([0], np.int32),
    )
