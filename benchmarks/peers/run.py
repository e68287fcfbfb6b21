"""Slipstream against its peers on the same file, in alternation: one command, a table, raw samples.

    python benchmarks/peers/run.py            # about ten minutes
    python benchmarks/peers/run.py --short    # about two

Other peers are asked for with --peers; --prepare makes what is made once, and times nothing. See
README.md beside this file for what is measured and why it is fair.
"""

import argparse
import random
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from contest import Worker, measure, tasks
from contestants import contestants
from environment import ROOT
from report import report
from shapes import SHAPES, model_of

from slipstream.bench.records import write_record
from slipstream.checkpoint.sources import resolve
from slipstream.machine import machine, thread_count
from slipstream.models.load import load

TEXT = "Once upon a time, in a village by the sea, there lived an old fisherman. Every morning"
RESULTS = Path(__file__).resolve().parent / "results"


def main() -> None:
    options = read_options()
    model = path_of(options.model)
    ids = random_ids(max(options.prompt, options.depth + options.decode))
    todo = tasks(ids, options.prompt, options.decode, options.depth)
    entrants = contestants(options, model, todo[1])
    with ExitStack() as stack:
        workers = [stack.enter_context(worker) for worker in entrants]
        agreement = greedy_agreement(workers, load(model).tokenizer.encode(TEXT))
        rates = measure(workers, todo, options.rounds, options.seconds)
        if options.prepare:
            return
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
    parser.add_argument("--peers", default="llama.cpp", help="llama.cpp,openvino,transformers,vllm")
    parser.add_argument("--threads", type=int, default=thread_count())
    parser.add_argument("--rounds", type=int, help="default 15, with --short 5")
    parser.add_argument("--seconds", type=float, help="no round begins after so many")
    parser.add_argument("--prepare", action="store_true", help="make everything once, time nothing")
    parser.add_argument("--prompt", type=int, default=512, help="tokens of the prefill")
    parser.add_argument("--decode", type=int, default=64, help="tokens decoded, batch 1")
    parser.add_argument("--depth", type=int, default=8, help="tokens of context before decoding")
    parser.add_argument("--activations", default="auto", help="Slipstream's: auto, int8 or f32")
    parser.add_argument("--kv", default="", help="Slipstream again with such pages: int8,int4")
    parser.add_argument("--twice", action="store_true", help="Slipstream twice: shows the noise")
    parser.add_argument("--short", action="store_true", help="few rounds, llama.cpp's own ubatch")
    parser.add_argument("--output", type=Path, help="JSON file (default: results/, dated)")
    options = parser.parse_args()
    options.rounds = 0 if options.prepare else options.rounds or (5 if options.short else 15)
    options.short = options.short or options.prepare
    return options


def random_ids(count: int) -> list[int]:
    """Ordinary tokens of any vocabulary, the same in every run."""
    draw = random.Random(0)
    return [draw.randrange(1000, 30000) for _ in range(count)]


def path_of(model: str) -> str:
    """A name or path, or a shape with random weights such as 1B-Q4_0."""
    shape, _, kind = model.partition("-")
    return str(model_of(shape, kind) if shape in SHAPES and kind else resolve(model))


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
