"""Our methods against llm-compressor's: same model, same text, same format, same tokens scored.

    python benchmarks/compression/peers.py MODEL --train wiki.train --test wiki.test
    python benchmarks/compression/peers.py … --chunks 8 --calibration 16 --methods gptq

MODEL is one in full precision, under any name that Slipstream loads. Each side works in a process
of its own, which tells its time and its peak memory, libraries included; both results are read by
one runtime and scored with float32 inputs. llm-compressor's environment is made at the first run,
or given with --python.
"""

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from quality import Judge, Row, cells, exact, keep, print_table, row_json, say

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks" / "peers"))
from environment import Peer, python_of  # noqa: E402

from slipstream.checkpoint.artifact import write_artifact  # noqa: E402
from slipstream.cli.compress_session import compile_exact  # noqa: E402
from slipstream.compress.carry_out import carry_out  # noqa: E402
from slipstream.compress.chain import read_chain  # noqa: E402
from slipstream.compress.work import Edition  # noqa: E402
from slipstream.evaluate.texts import read_chunks  # noqa: E402
from slipstream.models.load import load  # noqa: E402
from slipstream.models.model import Model  # noqa: E402
from slipstream.optimize.write import whole_tensors  # noqa: E402

LLM_COMPRESSOR = Peer("llm-compressor", "llmcompressor==0.14.0.1", beside=("torch==2.13.0",))
INT4 = 'bits = 4\ngroup = 64\nzero = "symmetric"\n'
OURS = {
    "rtn": f'[[pass]]\nmethod = "rtn"\n{INT4}',
    "gptq": f'[[pass]]\nmethod = "gptq"\n{INT4}',
    "awq": f'[[pass]]\nmethod = "awq"\n{INT4}',
    "sparsegpt": '[[pass]]\nmethod = "sparsegpt"\nsparsity = 0.5\n',
    "wanda": '[[pass]]\nmethod = "wanda"\nsparsity = 0.5\n',
}


@dataclass(frozen=True)
class Task:
    """One method on one model."""

    model: str
    chunks: str
    method: str
    out: str
    threads: int


def main() -> None:
    """Every method on both sides, the table, and the figures."""
    given = read_arguments()
    given.work.mkdir(parents=True, exist_ok=True)
    python = given.python or python_of(LLM_COMPRESSOR)
    original = load(given.model)
    judge = Judge(original, given.test, given.chunks, given.work)
    source = dense_folder(original, given.work / "source")
    chunks = given.work / "calibration.npy"
    text = given.train.read_text(encoding="utf-8")
    np.save(chunks, read_chunks(original.tokenizer, text, given.calibration * 512))
    lines, results = [], []
    for method in given.methods:
        pair = []
        for side in ("ours", "llm-compressor"):
            say(f"{method}: {side}")
            out = given.work / f"{side}-{method}"
            shutil.rmtree(out, ignore_errors=True)
            task = Task(str(source), str(chunks), method, str(out), os.cpu_count() or 1)
            told = ours(task) if side == "ours" else theirs(task, python)
            pair.append(row_of(judge, f"{method}: {side}", out, told))
        ratio = judge.kl_ratio(pair[0].scores, pair[1].scores)
        words = f"{ratio.value:.2f} ({ratio.low:.2f}–{ratio.high:.2f})"
        words += ", WORSE" if ratio.low > 1 else ", better" if ratio.high < 1 else ", no difference"
        lines += [line(judge, pair[0], words), line(judge, pair[1], "")]
        results += [row_json(judge, row) for row in pair]
        results[-2]["kl_ratio"] = ratio.to_json()
    headings = ["", "MB", "KL (95 %)", "same top", "ppl ×", "s", "peak MB", "KL, ours / theirs"]
    print_table(headings, lines)
    facts = {"chunks": given.chunks, "calibration_chunks": given.calibration, "rows": results}
    say(f"kept in {keep(facts, 'peers')}")


def ours(task: Task) -> dict[str, float]:
    """In a process of its own."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(compress, (task,))


def compress(task: Task) -> dict[str, float]:
    """Our side; the time is that of compressing, as theirs is."""
    model = load(task.model)
    edition = Edition(model.checkpoint.config, model.graph, model.weights)
    chain = read_chain(OURS[task.method])
    began = time.perf_counter()
    run = Path(task.out + "-run")
    after = carry_out(chain, edition, compile_exact, np.load(task.chunks), run)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    write(model, after, Path(task.out))
    shutil.rmtree(run)
    return {"seconds": seconds, "peak_bytes": peak}


def theirs(task: Task, python: Path) -> dict[str, float]:
    """llm-compressor, with its own interpreter."""
    order = Path(task.out + "-order.json")
    order.write_text(json.dumps(vars(task)))
    worker = Path(__file__).with_name("worker_llm_compressor.py")
    done = subprocess.run(
        [str(python), str(worker), str(order)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"llm-compressor failed:\n{done.stderr[-3000:]}")
    told: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return told


def dense_folder(model: Model, folder: Path) -> Path:
    """The original as a Hugging Face folder, which both sides read."""
    edition = Edition(model.checkpoint.config, model.graph, model.weights)
    return folder if folder.exists() else write(model, edition, folder)


def write(model: Model, edition: Edition, folder: Path) -> Path:
    """An edition as a folder; only its weights count here."""
    named = {name: edition.weights[name] for name in edition.graph.weight_names()}
    return write_artifact(
        folder,
        config=edition.config,
        tensors=whole_tensors(named),
        tokenizer=model.tokenizer,
        chat_template=None,
        manifest={},
        activations={},
    )


def row_of(judge: Judge, name: str, folder: Path, told: dict[str, float]) -> Row:
    """Scored, with what the process told of itself."""
    tokenizer = folder.parent / "source" / "tokenizer.json"
    if not (folder / "tokenizer.json").exists():
        shutil.copy(tokenizer, folder)
    model = load(folder)
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    scores = judge.score(exact(model.graph, model.weights))
    return Row(name, size, scores, told["seconds"], int(told["peak_bytes"]))


def line(judge: Judge, row: Row, words: str) -> list[str]:
    """One row of the table."""
    return [*cells(judge, row), f"{row.seconds:.0f}", f"{row.peak_bytes / 1e6:.0f}", words]


def read_arguments() -> Any:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--train", type=Path, required=True, help="calibration text")
    parser.add_argument("--test", type=Path, required=True, help="text to measure on")
    parser.add_argument("--chunks", type=int, default=64)
    parser.add_argument("--calibration", type=int, default=64, help="chunks of it")
    parser.add_argument("--methods", nargs="*", default=list(OURS), choices=list(OURS))
    parser.add_argument("--python", type=Path, help="interpreter that has llm-compressor")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "compression-peers")
    return parser.parse_args()


if __name__ == "__main__":
    main()
