"""How far models lie from one original: the same chunks, the same logits, paired intervals.

The tables of this folder use it. A token counts where llama-perplexity counts it, in the second
half of each chunk of 512, so that figures can be held against those that llama.cpp prints.
"""

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slipstream.backends.native import NativeOptions, NativeProgram, compile_native
from slipstream.bench.records import write_record
from slipstream.evaluate.divergence import Baseline, baseline_for
from slipstream.evaluate.evaluation import Scores, score_program
from slipstream.evaluate.interval import Measured, blocks_of, bootstrap
from slipstream.evaluate.texts import read_chunks
from slipstream.formats.tensor import Tensor
from slipstream.graph.graph import Graph
from slipstream.graph.ops import Activations
from slipstream.models.model import Model
from slipstream.optimize.programs import settings_of

LENGTH = 512


@dataclass(frozen=True)
class Row:
    """One model: its size, what made it, and its scores at every counted token."""

    name: str
    size_bytes: int
    scores: Scores
    seconds: float = 0.0  # to make it
    peak_bytes: int = 0
    facts: Mapping[str, Any] | None = None


class Judge:
    """Scores programs against one original over fixed chunks."""

    def __init__(self, original: Model, text: Path | str, chunks: int, scratch: Path) -> None:
        content = text if isinstance(text, str) else text.read_text(encoding="utf-8")
        self.chunks = read_chunks(original.tokenizer, content, chunks * LENGTH, LENGTH)
        counted = np.arange(LENGTH - 1) >= LENGTH // 2
        self.counted = np.tile(counted, len(self.chunks))
        self.blocks = blocks_of(np.full(len(self.chunks), counted.sum(), np.int64))
        program = exact(original.graph, original.weights)
        self.baseline: Baseline = baseline_for(program, self.chunks, folder=scratch)

    def score(self, program: NativeProgram) -> Scores:
        """The counted tokens."""
        found = score_program(program, self.baseline)
        return Scores(*(column[self.counted] for column in vars(found).values()))

    def kl(self, scores: Scores) -> Measured:
        """Mean KL with its interval."""
        return bootstrap(scores.kl[None], self.blocks)

    def kl_ratio(self, ours: Scores, theirs: Scores) -> Measured:
        """Our mean KL as a share of theirs, over the same resampled tokens."""
        series = np.stack([ours.kl, theirs.kl])
        return bootstrap(series, self.blocks, lambda means: means[..., 0] / means[..., 1])

    def perplexity_ratio(self, scores: Scores) -> Measured:
        """Against the original."""
        series = np.stack([scores.nll, scores.baseline_nll])
        return bootstrap(series, self.blocks, lambda means: np.exp(means[..., 0] - means[..., 1]))

    def perplexity_between(self, ours: Scores, theirs: Scores) -> Measured:
        """Our perplexity as a share of theirs, over the same resampled tokens."""
        series = np.stack([ours.nll, theirs.nll])
        return bootstrap(series, self.blocks, lambda means: np.exp(means[..., 0] - means[..., 1]))


def exact(graph: Graph, weights: Mapping[str, Tensor]) -> NativeProgram:
    """Float32 inputs, keys and values: only the weights count."""
    options = NativeOptions(activations="f32", kv_dtype="float32", keep_packed=False)
    return compile_native(graph, weights, options)


def served(graph: Graph, weights: Mapping[str, Tensor], activations: Activations) -> NativeProgram:
    """As an artifact with this choice of activations is served."""
    settings = settings_of(graph, weights, activations)
    return compile_native(graph, weights, NativeOptions(keep_packed=False), settings=settings)


def row_json(judge: Judge, row: Row) -> dict[str, Any]:
    """One row of results, with everything that a table or a later comparison needs."""
    return {
        "name": row.name,
        "size_bytes": row.size_bytes,
        "kl": judge.kl(row.scores).to_json(),
        "top1": float(row.scores.agreement.mean()),
        "perplexity_ratio": judge.perplexity_ratio(row.scores).to_json(),
        "seconds": round(row.seconds, 1),
        "peak_bytes": row.peak_bytes,
        **(row.facts or {}),
    }


def cells(judge: Judge, row: Row) -> list[str]:
    """Name, MB, KL with its interval, top-1, perplexity ratio."""
    kl, ratio = judge.kl(row.scores), judge.perplexity_ratio(row.scores)
    top1: NDArray[np.float64] = row.scores.agreement
    return [
        row.name,
        f"{row.size_bytes / 1e6:.1f}",
        f"{kl.value:.4f} ({kl.low:.4f}–{kl.high:.4f})",
        f"{top1.mean():.1%}",
        f"{ratio.value:.3f}",
    ]


def with_interval(measured: Measured, digits: int) -> str:
    """The value and the ends of its interval."""
    low, value, high = (f"{x:.{digits}f}" for x in (measured.low, measured.value, measured.high))
    return f"{value} ({low}–{high})"


def markdown(headings: list[str], rows: list[list[str]]) -> str:
    """A table, each line ended."""
    lines = (headings, ["---"] * len(headings), *rows)
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def print_table(headings: list[str], rows: list[list[str]]) -> None:
    """Markdown."""
    print(markdown(headings, rows), end="")


def keep(results: dict[str, Any], name: str, *, dated: bool = True) -> Path:
    """The results as JSON, beside this file; not dated, they replace those of the same name."""
    stem = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}" if dated else name
    path = Path(__file__).parent / "results" / f"{stem}.json"
    write_record(results, path, Path(__file__).resolve().parents[2])
    return path


def say(line: str) -> None:
    """Progress, beside the table."""
    print(line, file=sys.stderr, flush=True)
