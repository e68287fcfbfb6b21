"""Slipstream against its peers on the same file, in alternation: one command, a table, raw samples.

    python benchmarks/peers/run.py            # about ten minutes
    python benchmarks/peers/run.py --short    # about two

See README.md beside this file for what is measured and why it is fair.
"""

import argparse
import random
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from contest import Task, Worker, measure, tasks
from environment import LLAMA_CPP, OPENVINO, ROOT, TRANSFORMERS, python_of
from shapes import SHAPES, model_of

from slipstream.bench import samples
from slipstream.bench.compare import compare, noise_band
from slipstream.bench.records import write_record
from slipstream.bench.samples import Samples
from slipstream.checkpoint.sources import resolve
from slipstream.machine import machine, thread_count
from slipstream.models.load import load

US = "slipstream"
TWIN = "slipstream again"
TEXT = "Once upon a time, in a village by the sea, there lived an old fisherman. Every morning"
UBATCHES = (128, 256, 512)
RESULTS = Path(__file__).resolve().parent / "results"


def main() -> None:
    options = read_options()
    model = path_of(options.model)
    ids = random_ids(max(options.prompt, options.depth + options.decode))
    todo = tasks(ids, options.prompt, options.decode, options.depth)
    peers = peers_of(options, model, todo[1])
    with ExitStack() as stack:
        enter = stack.enter_context
        us = [enter(our_worker(name, kv, model, options)) for name, kv in names_of_us(options)]
        them = [enter(worker) for worker in peers]
        workers = [*us, *them]
        agreement = greedy_agreement(workers, load(model).tokenizer.encode(TEXT))
        rates = measure(workers, todo, options.rounds)
        about = {
            worker.name: {
                **worker.about,
                "settings": {k: v for k, v in worker.settings.items() if k != "model"},
                "peak_resident_bytes": worker.resident_bytes,
            }
            for worker in workers
        }
    result = {
        "model": options.model,
        "machine": machine().describe(),
        "commit": commit(),
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "threads": options.threads,
        "tokens": {"prompt": options.prompt, "decode": options.decode, "depth": options.depth},
        "contestants": about,
        "greedy_agreement": agreement,
        "tokens_per_s": rates,
    }
    print(report(result))
    path = write(result, options.output)
    print(f"\nraw samples: {path}", file=sys.stderr)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--model", default="smollm2:135m", help="a GGUF, or a shape: 1B-Q4_0")
    parser.add_argument("--peers", default="llama.cpp", help="llama.cpp,openvino,transformers")
    parser.add_argument("--threads", type=int, default=thread_count())
    parser.add_argument("--rounds", type=int, help="default 15, with --short 5")
    parser.add_argument("--prompt", type=int, default=512, help="tokens of the prefill")
    parser.add_argument("--decode", type=int, default=64, help="tokens decoded, batch 1")
    parser.add_argument("--depth", type=int, default=8, help="tokens of context before decoding")
    parser.add_argument("--activations", default="auto", help="Slipstream's: auto, int8 or f32")
    parser.add_argument("--kv", default="", help="Slipstream again with such pages: int8,int4")
    parser.add_argument("--twice", action="store_true", help="Slipstream twice: shows the noise")
    parser.add_argument("--short", action="store_true", help="few rounds, llama.cpp's own ubatch")
    parser.add_argument("--output", type=Path, help="JSON file (default: results/, dated)")
    options = parser.parse_args()
    options.rounds = options.rounds or (5 if options.short else 15)
    return options


def random_ids(count: int) -> list[int]:
    """Ordinary tokens of any vocabulary, the same in every run."""
    draw = random.Random(0)
    return [draw.randrange(1000, 30000) for _ in range(count)]


def context_of(options: argparse.Namespace) -> int:
    """Positions that every contestant makes room for: whole pages, 4096 or more."""
    needed = max(options.prompt, options.depth + options.decode)
    return max(4096, -(-needed // 1024) * 1024)


# ---- contestants ---------------------------------------------------------------------------------


def path_of(model: str) -> str:
    """A name or path, or a shape with random weights such as 1B-Q4_0."""
    shape, _, kind = model.partition("-")
    return str(model_of(shape, kind) if shape in SHAPES and kind else resolve(model))


def peers_of(options: argparse.Namespace, model: str, prefill: Task) -> list[Worker]:
    """Every peer that was asked for, in each of the settings that may be its best."""
    makers: dict[str, Callable[[], list[Worker]]] = {
        "llama.cpp": lambda: [
            llama_worker(peer_settings(flash, model, options, prefill)) for flash in (True, False)
        ],
        "openvino": lambda: [
            openvino_worker(model, options, backend) for backend in ("PA", "SDPA")
        ],
        "transformers": lambda: [
            transformers_worker(model, options, compiled) for compiled in (False, True)
        ],
    }
    return [worker for name in options.peers.split(",") for worker in makers[name]()]


def openvino_worker(model: str, options: argparse.Namespace, backend: str) -> Worker:
    settings = {"model": model, "threads": options.threads, "backend": backend}
    name = f"OpenVINO GenAI, {'paged' if backend == 'PA' else 'stateful'} attention"
    return Worker(name, python_of(OPENVINO), "worker_openvino.py", settings)


def transformers_worker(model: str, options: argparse.Namespace, compiled: bool) -> Worker:
    dtype = "bfloat16" if "avx512" in " ".join(machine().isas) else "float32"
    settings = {"model": model, "threads": options.threads, "dtype": dtype, "compile": compiled}
    name = f"transformers {dtype}{', torch.compile' if compiled else ''}"
    return Worker(name, python_of(TRANSFORMERS), "worker_transformers.py", settings)


def names_of_us(options: argparse.Namespace) -> Sequence[tuple[str, str]]:
    """(name, pages) of each of ours: as it comes, perhaps again, and with other pages."""
    plain = [(US, ""), (TWIN, "")] if options.twice else [(US, "")]
    return [*plain, *((f"{US}, {kv} pages", kv) for kv in options.kv.split(",") if kv)]


def our_worker(name: str, kv: str, model: str, options: argparse.Namespace) -> Worker:
    settings = {
        "model": model,
        "threads": options.threads,
        "activations": options.activations,
        "kv": kv or None,
        "context": context_of(options),
    }
    imported_from = {"PYTHONPATH": str(Path(samples.__file__).parents[2])}
    return Worker(name, Path(sys.executable), "worker_slipstream.py", settings, imported_from)


def llama_worker(settings: Mapping[str, Any]) -> Worker:
    name = f"llama.cpp, flash attention {'on' if settings['flash'] else 'off'}"
    return Worker(name, python_of(LLAMA_CPP), "worker_llama_cpp.py", settings)


def peer_settings(
    flash: bool, model: str, options: argparse.Namespace, prefill: Task
) -> dict[str, Any]:
    """llama.cpp's settings with the `ubatch` that makes its prefill fastest here."""
    base = {
        "model": model,
        "threads": options.threads,
        "flash": flash,
        "context": context_of(options),
    }
    if options.short:
        return {**base, "ubatch": 512}
    best = {}
    for ubatch in UBATCHES:
        with llama_worker({**base, "ubatch": ubatch}) as worker:
            times = [worker.ask(**prefill.command)["seconds"] for _ in range(4)]
            best[ubatch] = min(times[1:])
    return {**base, "ubatch": min(best, key=best.__getitem__)}


def greedy_agreement(workers: Sequence[Worker], prompt: Sequence[int]) -> dict[str, int]:
    """How many of the first 16 greedy tokens each contestant shares with the first."""
    texts = {w.name: w.ask(do="greedy", prompt=list(prompt), count=16)["ids"] for w in workers}
    ours = texts[workers[0].name]
    return {
        name: next(
            (i for i, pair in enumerate(zip(ours, ids, strict=True)) if pair[0] != pair[1]), 16
        )
        for name, ids in texts.items()
    }


# ---- report --------------------------------------------------------------------------------------


def report(result: Mapping[str, Any]) -> str:
    """The Markdown table, and how many times as fast we are as the best peer."""
    rates = {
        task: {name: Samples(tuple(values)) for name, values in rows.items()}
        for task, rows in result["tokens_per_s"].items()
    }
    lines = [
        f"{result['model']} on {result['machine']}, {result['threads']} threads, "
        f"commit {result['commit']}; tokens per second, median (lowest…highest) of "
        f"{len(rates['decode'][US].values)} rounds in alternation",
        "",
        f"| | decode, batch 1, behind {result['tokens']['depth']} "
        f"| prefill, {result['tokens']['prompt']} tokens | peak memory |",
        "|---|---:|---:|---:|",
    ]
    for name, facts in result["contestants"].items():
        memory = f"{facts['peak_resident_bytes'] / 2**20:.0f} MiB"
        lines.append(f"| {name} | {rates['decode'][name]} | {rates['prefill'][name]} | {memory} |")
    lines += ["", *(ratio_line(task, rows) for task, rows in rates.items())]
    for name, shared in result["greedy_agreement"].items():
        if name != US:
            lines.append(f"- greedy text: the first {shared} of 16 tokens equal those of {name}")
    return "\n".join(lines)


def ratio_line(task: str, rows: Mapping[str, Samples]) -> str:
    peers = [name for name in rows if not name.startswith(US)]
    best = max(peers, key=lambda name: rows[name].median)
    noise = noise_band(rows[US], rows[TWIN]) if TWIN in rows else 0.0
    against = compare(rows[best], rows[US], noise)
    band = f", equals differ by up to {noise:.0%}" if TWIN in rows else ""
    return f"- {task}: {against} than the best peer ({best}){band}"


def commit() -> str:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def write(result: Mapping[str, Any], path: Path | None) -> Path:
    """Writes the JSON; by default under a name that sorts by time."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    path = path or RESULTS / f"{stamp}-{machine().fingerprint}.json"
    write_record(result, path, ROOT)
    return path


if __name__ == "__main__":
    main()
