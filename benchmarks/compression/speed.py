"""Does a pruned, shared, factored or rounded model run faster than its parent? Measured in turns.

    python benchmarks/compression/speed.py smollm2:135m        # 4 minutes on two quiet cores

The variants are those of `speed_variants.py`, all of a family take turns in every round, and ratios
are of one round, so that a machine that slows down slows both. Rounds go on until the workload's
share of the time is spent, three at least (so a busy machine takes longer). What is told is the
median and the quartiles of the rounds: a ratio in bold is above 1 in three quarters of them, one in
brackets is not faster here. Each family is kept in results/ as soon as it is done.
"""

import argparse
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from quality import keep, markdown, say
from speed_variants import Family, Variant, dense, families

from slipstream.backends.batch import PAGE_SIZE
from slipstream.bench.offline import Contestant, take_turns
from slipstream.bench.workload import Workload, decode_batches, prefill_batch
from slipstream.compress.preview import outlined
from slipstream.compress.work import Edition
from slipstream.errors import UnsupportedError
from slipstream.machine import machine, thread_count
from slipstream.models.load import load

ROUNDS_LEAST, ROUNDS_MOST = 3, 25


class Runner(Contestant):
    """Fills its pages once: what a step takes does not depend on what they hold."""

    def __post_init__(self) -> None:
        super().__post_init__()
        first = np.resize(self.ids[:1], (1, PAGE_SIZE))
        self.program.step(prefill_batch(first), self.kv)
        for page in range(1, self.workload.page_count):
            self.kv.copy_page(0, page)

    def decode(self) -> float:
        """Seconds of all steps."""
        depth, steps = self.workload.depth, self.workload.decode_tokens
        batches = list(decode_batches(self.ids, depth, steps))
        start = self.clock()
        for batch in batches:
            self.program.step(batch, self.kv)
        return self.clock() - start

    def seconds(self) -> NDArray[np.float64]:
        """Of each turn."""
        return np.array(self.prefill_s or self.decode_s)


@dataclass
class Budget:
    """Seconds that are left, given out by parts: slow parts take from the later ones."""

    ends: float
    parts: int  # programs × workloads still to come
    clock: Callable[[], float] = time.perf_counter

    def until(self, parts: int) -> float:
        """When so many of the parts have to be done."""
        now = self.clock()
        share = max(0.0, self.ends - now) * parts / self.parts
        self.parts -= parts
        return now + share


def main() -> None:
    """One family after the other; the table and the figures."""
    given = read_arguments()
    began = time.perf_counter()
    model = load(given.model)
    whole = dense(outlined(Edition(model.checkpoint.config, model.graph, model.weights)))
    chosen = [one for one in families(whole) if one.name in (given.families or [one.name])]
    parts = sum(len(one.variants) * len(one.workloads) for one in chosen)
    budget = Budget(began + 60 * given.minutes, parts)
    rows: list[dict[str, Any]] = []
    tables = ""
    for family in chosen:
        rows += timed(family, budget)
        tables = report(given, rows, time.perf_counter() - began)
    print(tables)


def timed(family: Family, budget: Budget) -> list[dict[str, Any]]:
    """A row for each variant; the first is the parent."""
    say(family.name)
    ends = budget.until(len(family.variants) * len(family.workloads))
    variants = made(family)
    speeds: dict[str, dict[str, Any]] = {one.name: {} for one in variants}
    own = Budget(ends, len(family.workloads), budget.clock)
    for name, work in family.workloads.items():
        for variant, speed in zip(variants, raced(variants, work, own), strict=True):
            speeds[variant.name][name] = speed
    return [
        {"family": family.name, "name": v.name, "mb": v.size_bytes / 1e6, "speeds": speeds[v.name]}
        for v in variants
    ]


def made(family: Family) -> list[Variant]:
    """Those that the model is large enough for."""
    variants = []
    for name, make in family.variants.items():
        try:
            variants.append(make())
        except UnsupportedError as error:
            say(f"{name} is left out: {error}")
    return variants


def raced(variants: list[Variant], work: Workload, budget: Budget) -> list[dict[str, Any]]:
    """The speed of each, from as many rounds as its share of the time holds."""
    ends = budget.until(1)
    runners = [Runner(one.program, work) for one in variants]
    take_turns(runners, rounds=1)
    for one in runners:
        one.forget()
    for number in range(ROUNDS_MOST):
        if number >= ROUNDS_LEAST and budget.clock() > ends:
            break
        first = number % len(runners)
        take_turns(runners[first:] + runners[:first], rounds=1)
    tokens = work.prompt_tokens or work.decode_tokens * work.streams
    parent = runners[0].seconds()
    return [compared(tokens, one.seconds(), parent) for one in runners]


def compared(
    tokens: int, seconds: NDArray[np.float64], parent: NDArray[np.float64]
) -> dict[str, Any]:
    """Tokens per second, and the quartiles of the ratios to the parent, round by round."""
    quartiles = np.percentile(parent / seconds, (25, 50, 75))
    return {
        "rate": round(float(np.median(tokens / seconds)), 1),
        "ratio": [round(float(one), 3) for one in quartiles],
        "rounds": len(seconds),
    }


def report(given: Any, rows: list[dict[str, Any]], seconds: float) -> str:
    """The tables so far, and their figures: a run that is stopped keeps what it found."""
    facts = {
        "model": given.model, "cpu": machine().cpu, "threads": thread_count(),
        "seconds": round(seconds), "load_average": round(os.getloadavg()[0], 1),
        "date": time.strftime("%Y-%m-%d"), "rows": rows,
    }  # fmt: skip
    name = Path(given.model).name.removesuffix(".gguf").replace(":", "-")
    path = keep(facts, f"speed-{name}", dated=False)
    tables = [table(rows, list(works)) for works in dict.fromkeys(tuple(r["speeds"]) for r in rows)]
    path.with_suffix(".md").write_text("\n".join(tables))
    say(f"kept in {path.name} after {seconds:.0f} s")
    return "\n".join(tables)


def table(rows: list[dict[str, Any]], works: list[str]) -> str:
    """Of the families with these workloads."""
    headings = ["family", "variant", "MB", *(f"{name}: tok/s, × parent" for name in works)]
    lines = []
    for row in rows:
        if list(row["speeds"]) == works:
            cells = map(cell, row["speeds"].values())
            lines.append([row["family"], row["name"], f"{row['mb']:.1f}", *cells])
    return markdown(headings, lines)


def cell(speed: Mapping[str, Any]) -> str:
    """``213, **1.31** (1.25–1.38)``; the parent's ratio is 1."""
    low, middle, high = speed["ratio"]
    if low == high == 1.0:
        return f"{speed['rate']:.0f}"
    ratio = f"**{middle:.2f}**" if low > 1 else f"{middle:.2f}" if middle > 1 else f"({middle:.2f})"
    return f"{speed['rate']:.0f}, {ratio} ({low:.2f}–{high:.2f})"


def read_arguments() -> Any:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", nargs="?", default="smollm2:135m")
    parser.add_argument("--minutes", type=float, default=4)
    parser.add_argument("--families", nargs="*", help="only these, as the table names them")
    return parser.parse_args()


if __name__ == "__main__":
    main()
