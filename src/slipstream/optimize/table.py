"""The trade-off table: one row of words for each result, shared by the terminal and the report."""

from dataclasses import dataclass

from slipstream.evaluate.interval import Measured
from slipstream.evaluate.verdict import Verdict
from slipstream.optimize.study import Result, Study

HEADER = ("", "weights · activations", "KL", "95 % interval", "top-1", "ppl ×", "MB", "memory",
          "decode tok/s", "prefill tok/s", "verdict")  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A result in words. `mark` is empty, ``front`` or ``chosen``."""

    number: int
    cells: tuple[str, ...]
    mark: str
    role: str


def rows(study: Study) -> list[Row]:
    """All rows, in the study's order; the numbers are those of the plots."""
    front = {result.name for result in study.front()}
    choice = study.choice()
    chosen = None if choice is None else choice.name
    listed = []
    for number, result in enumerate(study.rows):
        mark = "chosen" if result.name == chosen else "front" if result.name in front else ""
        if result.role != "candidate":
            mark = ""
        cells = (str(number), *_cells(study, result, mark))
        listed.append(Row(number, cells, mark, result.role))
    return listed


def _cells(study: Study, result: Result, mark: str) -> tuple[str, ...]:
    if result.failure is not None:
        return (result.name, *("" for _ in HEADER[3:]), f"failed: {result.failure}")
    quality = ("", "", "", "")
    if result.evaluation is not None and result.evaluation.distance is not None:
        found = result.evaluation.distance
        quality = (
            f"{found.kl.value:.4f}",
            f"{found.kl.low:.4f}–{found.kl.high:.4f}",
            f"{found.top1.value:.1%}",
            f"{found.perplexity_ratio.value:.3f}",
        )
    memory = f"{result.memory_bytes / 1e6:.0f}" if result.memory_bytes else ""
    speeds = (_speed(result.decode), _speed(result.prefill))
    return (
        result.name,
        *quality,
        f"{result.size_bytes / 1e6:.1f}",
        memory,
        *speeds,
        _verdict(study, result, mark),
    )


def _speed(measured: Measured | None) -> str:
    if measured is None:
        return ""
    return f"{measured.value:.1f} ({measured.low:.0f}–{measured.high:.0f})"


def _verdict(study: Study, result: Result, mark: str) -> str:
    if result.role == "baseline":
        return "baseline"
    if not result.complete:
        return "not timed"
    words = missed_words(study.verdict(result))
    if result.role == "stored":
        return "the file as it is"
    if mark == "chosen":
        return "chosen" if not words else f"forced: {words}"
    if words:
        return words
    return "within, on the front" if mark == "front" else "within limits"


def missed_words(verdict: Verdict) -> str:
    """``kl 0.12 > 0.1``: which limits are missed, with the end of the interval that counts."""
    missed = [finding for finding in verdict.findings if not finding.met]
    return ", ".join(
        f"{f.limit.metric} {number(f.limit.metric, f.limit.worst(f.measured))}"
        f" {'≥' if f.limit.comparison == '<' else '≤'} {number(f.limit.metric, f.limit.value)}"
        for f in missed
    )


def number(metric: str, value: float) -> str:
    """A value in the metric's customary unit."""
    if metric in ("size", "memory"):
        return f"{value / 1e6:.0f} MB"
    if metric == "top1":
        return f"{value:.1%}"
    if metric in ("decode", "prefill"):
        return f"{value:.1f} tok/s"
    return f"{value:.3g}"


def headline(result: Result) -> str:
    """One line for whoever waits."""
    if result.failure is not None:
        return f"{result.name}: failed, {result.failure}"
    size = f"{result.size_bytes / 1e6:.0f} MB"
    assert result.evaluation is not None
    distance = result.evaluation.distance
    if result.role == "baseline" or distance is None:
        return f"{result.name}: perplexity {result.evaluation.perplexity.value:.2f}, {size}"
    top1 = distance.top1.value
    return f"{result.name}: KL {distance.kl.value:.4f}, top-1 {top1:.1%}, {size}"
