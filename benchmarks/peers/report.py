"""The table of a race, and one table of several: what `run.py` prints.

    python benchmarks/peers/report.py RESULT.json RESULT.json …

Several sessions of the same tasks on the same machine become one table; Slipstream took part in
each of them, so every peer stands beside the Slipstream of its own session.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from contestants import TWIN, US

from slipstream.bench.compare import compare, noise_band
from slipstream.bench.samples import Samples

Result = Mapping[str, Any]
Rates = Mapping[str, Mapping[str, Samples]]  # by task, by contestant


def rates_of(result: Result) -> Rates:
    """The samples of a record."""
    return {
        task: {name: Samples(tuple(values)) for name, values in rows.items()}
        for task, rows in result["tokens_per_s"].items()
    }


def report(result: Result) -> str:
    """The Markdown table, and how many times as fast we are as the best peer."""
    rates = rates_of(result)
    lines = [_heading(result, len(rates["decode"][US].values)), "", *_header(result, "")]
    lines += [_line(result, rates, name) for name in result["contestants"]]
    lines += ["", *(ratio_line(task, rows) for task, rows in rates.items())]
    return "\n".join([*lines, *_agreement(result)])


def together(results: Sequence[Result]) -> str:
    """One table of several sessions; SystemExit where their tasks or machines differ."""
    for key in ("model", "machine", "threads", "tokens"):
        if len({json.dumps(result[key]) for result in results}) > 1:
            raise SystemExit(f"these results differ in {key!r} and make no table together")
    rounds = min(len(rates_of(result)["decode"][US].values) for result in results)
    lines = [_heading(results[0], rounds), "", *_header(results[0], ": Slipstream against it")]
    for result in results:
        rates = rates_of(result)
        for name in result["contestants"]:
            if result is results[0] or name != US:
                lines.append(_line(result, rates, name) + _beside_ours(rates, name))
    note = "Ratios are of the same session, round by round: median and 95 % interval."
    return "\n".join(
        [*lines, "", note, "", *(text for result in results for text in _agreement(result))]
    )


def _heading(result: Result, rounds: int) -> str:
    return (
        f"{result['model']} on {result['machine']}, {result['threads']} threads, "
        f"commit {result['commit']}; tokens per second, median (lowest…highest) of "
        f"{rounds} rounds in alternation"
    )


def _header(result: Result, beside: str) -> list[str]:
    tokens = result["tokens"]
    title = f"| | decode, batch 1, behind {tokens['depth']} | prefill, {tokens['prompt']} tokens "
    more = f"| decode{beside} | prefill{beside} |" if beside else "|"
    return [f"{title}| peak memory {more}", "|---|---:|---:|---:|" + "---:|" * (2 if beside else 0)]


def _line(result: Result, rates: Rates, name: str) -> str:
    memory = f"{result['contestants'][name]['peak_resident_bytes'] / 2**20:.0f} MiB"
    return f"| {name} | {rates['decode'][name]} | {rates['prefill'][name]} | {memory} |"


def _beside_ours(rates: Rates, name: str) -> str:
    if name == US:
        return " | |"
    cells = []
    for task in ("decode", "prefill"):
        found = compare(rates[task][name], rates[task][US])
        cells.append(f" {found.ratio:.2f} × ({found.low:.2f}…{found.high:.2f}) |")
    return "".join(cells)


def ratio_line(task: str, rows: Mapping[str, Samples]) -> str:
    """How far the best peer is behind; nothing to compare without one."""
    peers = [name for name in rows if not name.startswith(US)]
    if not peers:
        return f"- {task}: no peer took part"
    best = max(peers, key=lambda name: rows[name].median)
    noise = noise_band(rows[US], rows[TWIN]) if TWIN in rows else 0.0
    against = compare(rows[best], rows[US], noise)
    band = f", equals differ by up to {noise:.0%}" if TWIN in rows else ""
    return f"- {task}: {against} than the best peer ({best}){band}"


def _agreement(result: Result) -> list[str]:
    return [
        f"- greedy text: the first {shared} of 16 tokens equal those of {name}"
        for name, shared in result["greedy_agreement"].items()
        if name != US
    ]


if __name__ == "__main__":
    print(together([json.loads(Path(path).read_text()) for path in sys.argv[1:]]))
