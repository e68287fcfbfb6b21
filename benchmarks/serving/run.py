"""Slipstream's server beside llama-server: same file, same client, in alternation.

    python benchmarks/serving/run.py --short                       # about four minutes
    python benchmarks/serving/run.py --model 1B-Q4_0 --concurrency 1,8,16
    python benchmarks/serving/run.py --concurrency "" --trace TRACE.csv --pace 0.2
    python benchmarks/serving/run.py --model smollm2:135m,1B-Q4_0 --trace TRACE.csv --pace 0.2
    python benchmarks/serving/run.py --flash none --batching static,dynamic --trace TRACE.csv

The one before the last makes all tables of the README: each model, at 1, 4, 8, 16 and 32 and on the
trace. The last one weighs the ways to batch against each other.
See README.md beside this file for what is measured and why it is fair.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from memory import account_told
from servers import PEERS, Running, llama_server, slipstream_server, vllm_server

from slipstream.bench.client import run_load
from slipstream.bench.compare import compare, noise_band
from slipstream.bench.load import Call, Outcome, random_calls, summary
from slipstream.bench.records import write_record
from slipstream.bench.samples import Samples
from slipstream.bench.traces import calls_of, read_trace
from slipstream.checkpoint.sources import resolve
from slipstream.machine import machine, thread_count

US = "slipstream"
TWIN = "slipstream again"
RESULTS = Path(__file__).resolve().parent / "results"
TRACE_AT_ONCE = 256

Outcomes = dict[str, dict[str, list[Outcome]]]  # load → contestant → one for each round


def main() -> None:
    options = read_options()
    for model in options.model.split(","):
        print(run(model, options), flush=True)


def run(model: str, options: argparse.Namespace) -> str:
    """One model's loads: writes its raw results, returns its table."""
    with ExitStack() as stack:
        given = contestants(path_of(model), options)
        servers = [stack.enter_context(server) for server in given]
        outcomes = measure(servers, options)
        about = {
            s.name: {"command": list(s.command[1:]), "start_s": s.start_s, "rss": s.resident_bytes}
            | {"memory": account_told(s) if s.name in (US, TWIN) else "not told apart"}
            for s in servers
        }
    result = {
        "model": model,
        "machine": machine().describe(),
        "commit": commit(),
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "options": {k: str(v) for k, v in vars(options).items()},
        "contestants": about,
        "loads": {
            name: {who: [one.as_json() for one in runs] for who, runs in rows.items()}
            for name, rows in outcomes.items()
        },
    }
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    path = (options.output or RESULTS) / f"{stamp}-{machine().fingerprint}.json"
    write_record(result, path, PEERS.parents[1])
    print(f"\nraw results: {path}", file=sys.stderr)
    return report(model, options, outcomes, about) + "\n"


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="smollm2:135m", help="GGUFs or shapes: 1B-Q4_0,…")
    parser.add_argument("--threads", type=int, default=thread_count())
    parser.add_argument("--concurrency", default="1,4,8,16,32", help='"": the trace alone')
    parser.add_argument("--calls", type=int, default=3, help="requests of each client in a round")
    parser.add_argument("--prompt", type=int, default=128, help="tokens of a prompt")
    parser.add_argument("--answer", type=int, default=64, help="tokens of an answer")
    parser.add_argument("--rounds", type=int, help="default 5: fewer say nothing")
    parser.add_argument("--context", type=int, default=1024, help="positions of each slot")
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--trace", type=Path, help="recorded arrivals too")
    parser.add_argument("--requests", type=int, default=60, help="how many of the trace")
    parser.add_argument("--pace", type=float, default=1.0, help="times the trace's own speed")
    parser.add_argument("--twice", action="store_true", help="ours twice: shows the noise")
    parser.add_argument("--batching", default="", help="ours again so: static,dynamic")
    parser.add_argument("--flash", choices=("on", "off", "both", "none"), default="both")
    parser.add_argument("--vllm", type=Path, help="the Python that has vLLM; a folder as the model")
    parser.add_argument("--short", action="store_true", help="one call a client; 1, 8, 32 at once")
    parser.add_argument("--output", type=Path, help="a folder for the raw results")
    options = parser.parse_args()
    options.rounds = options.rounds or 5
    if options.short:
        options.concurrency, options.calls = "1,8,32", 1
    return options


def path_of(model: str) -> str:
    """A name or path, or a shape with random weights such as 1B-Q4_0."""
    from shapes import SHAPES, model_of  # noqa: PLC0415  beside this folder, on sys.path

    shape, _, kind = model.partition("-")
    return str(model_of(shape, kind) if shape in SHAPES and kind else resolve(model))


def contestants(model: str, options: argparse.Namespace) -> list[Running]:
    given = (model, options.threads, options.slots, options.context)
    names = (US, TWIN) if options.twice else (US,)
    flash = {"on": (True,), "off": (False,), "both": (True, False), "none": ()}[options.flash]
    ours = [slipstream_server(*given, name=name) for name in names]
    for mode in filter(None, options.batching.split(",")):
        ours.append(slipstream_server(*given, "--batching", mode, name=f"{US}, {mode}"))
    theirs = [llama_server(*given, flash=one) for one in flash]
    return ours + theirs + ([vllm_server(options.vllm, *given)] if options.vllm else [])


def loads(options: argparse.Namespace, turn: int) -> dict[str, tuple[list[Call], int]]:
    """What is asked in one round: the same for everyone, new prompts in each, so no cache hits."""
    counts = [int(part) for part in options.concurrency.split(",") if part]
    todo = {
        f"{count} at once": (
            random_calls(
                count * options.calls, options.prompt, options.answer, seed=1000 * turn + count
            ),
            count,
        )
        for count in counts
    }
    if options.trace:
        calls = calls_of(
            read_trace(options.trace, options.requests),
            pace=options.pace,
            prompt_max=options.context - options.answer,
            answer_max=options.answer,
            seed=turn,
        )
        todo[f"{options.trace.stem} × {options.pace:g}"] = (calls, TRACE_AT_ONCE)
    return todo


def measure(servers: Sequence[Running], options: argparse.Namespace) -> Outcomes:
    """Everyone has each load once per round; who begins moves on by one. One round warms up."""
    outcomes: Outcomes = {}
    for server in servers:
        run_load(server.target, random_calls(4, 64, 8, seed=-1), 4)
    for turn in range(options.rounds):
        for name, (calls, at_once) in loads(options, turn).items():
            for place in range(len(servers)):
                server = servers[(turn + place) % len(servers)]
                print(f"round {turn + 1}: {name}, {server.name}", file=sys.stderr)
                outcome = summary(run_load(server.target, calls, at_once))
                outcomes.setdefault(name, {}).setdefault(server.name, []).append(outcome)
    return outcomes


def report(
    model: str,
    options: argparse.Namespace,
    outcomes: Outcomes,
    about: Mapping[str, Mapping[str, object]],
) -> str:
    """The Markdown table; times in ms as the medians of the rounds' percentiles."""
    lines = [
        f"{model} on {machine().describe()}, {options.threads} threads, commit {commit()}; "
        f"prompts of {options.prompt}, answers of {options.answer} tokens, "
        f"{options.rounds} rounds in alternation",
        "",
        "| load | server | tokens/s | first token p50 / p95 / p99 | between tokens p50 / p95 / p99 "
        "| failed |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for name, rows in outcomes.items():
        for who, runs in rows.items():
            rate = Samples(tuple(one.tokens_per_s for one in runs))
            failed = f"{sum(one.failed for one in runs)} of {sum(one.calls for one in runs)}"
            lines.append(
                f"| {name} | {who} | {rate} | {times(runs, 'ttft')} | {times(runs, 'itl')} "
                f"| {failed} |"
            )
    lines += ["", *(ratio_line(name, rows) for name, rows in outcomes.items()), ""]
    for who, facts in about.items():
        rss = int(str(facts["rss"])) / 2**20
        ready = f"ready after {facts['start_s']:.2f} s, resident {rss:.0f} MiB"
        lines.append(f"- {who}: {ready} ({facts['memory']})")
    return "\n".join(lines)


def times(runs: Sequence[Outcome], which: str) -> str:
    spreads = [getattr(one, which) for one in runs if getattr(one, which) is not None]
    if not spreads:
        return "–"
    return " / ".join(f"{1000 * median(getattr(s, p) for s in spreads):.0f}" for p in P)


P = ("p50", "p95", "p99")


def ratio_line(name: str, rows: Mapping[str, Sequence[Outcome]]) -> str:
    rates = {who: Samples(tuple(one.tokens_per_s for one in runs)) for who, runs in rows.items()}
    peers = [who for who in rates if who not in (US, TWIN)]
    if not peers:
        return f"- {name}: {rates[US]} tokens/s, nobody beside it"
    best = max(peers, key=lambda who: rates[who].median)
    noise = noise_band(rates[US], rates[TWIN]) if TWIN in rates else 0.0
    band = f", equals differ by up to {noise:.0%}" if TWIN in rates else ""
    return f"- {name}: {compare(rates[best], rates[US], noise)} than the best other ({best}){band}"


def commit() -> str:
    command = ["git", "-C", str(PEERS), "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    main()
