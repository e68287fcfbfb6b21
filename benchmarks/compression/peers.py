"""Our methods against llm-compressor's and AutoRound's: same model, text, format, tokens scored.

    python benchmarks/compression/peers.py MODEL --train wiki.train --test wiki.test
    python benchmarks/compression/peers.py … --chunks 8 --calibration 16 --methods gptq

MODEL is one in full precision, under any name that Slipstream loads. Both sides' folders are read
by one runtime and scored with float32 inputs. The peers' environments are made at the first run,
or given with --python; what they made is kept below --work, so that a second run only makes ours
and measures. One text for both: its first half calibrates, its second half measures.
"""

import argparse
import os
import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from making import OURS, ROOT, Task, Told, dense_folder, make_ours, make_theirs, peer_of
from quality import Judge, Row, exact, keep, markdown, row_json, say, with_interval

from slipstream.evaluate.interval import Measured
from slipstream.evaluate.texts import halves, read_chunks
from slipstream.models.load import load

PLAIN = [method for method in OURS if method != "signround"]  # AutoRound is asked for by name
HEADINGS = [
    "", "MB", "KL (95 %)", "same top", "ppl × (95 %)", "s", "CPU s", "peak MB",
    "KL, ours / theirs", "ppl, ours / theirs",
]  # fmt: skip


def main() -> None:
    """Every method on both sides, the table, and the figures."""
    given = read_arguments()
    given.work.mkdir(parents=True, exist_ok=True)
    original = load(given.model)
    train, test = texts(given.train, given.test)
    judge = Judge(original, test, given.chunks, given.work)
    source = dense_folder(original, given.work / "source")
    chunks = given.work / "calibration.npy"
    np.save(chunks, read_chunks(original.tokenizer, train, given.calibration * 512))
    lines, results = [], []
    for method in given.methods:
        pair, told = [], []
        for side in ("ours", peer_of(method).name):
            say(f"{method}: {side}")
            out = given.work / f"{side}-{method}"
            task = Task(str(source), str(chunks), method, str(out), given.threads)
            task = replace(task, light=given.light)
            ours = side == "ours"
            made = make_ours(task, given.kept) if ours else make_theirs(task, given.python)
            pair.append(row_of(judge, f"{method}: {side}", out, made))
            told.append(made)
        kl = judge.kl_ratio(pair[0].scores, pair[1].scores)
        perplexity = judge.perplexity_between(pair[0].scores, pair[1].scores)
        lines.append([*line(judge, pair[0], told[0]), verdict(kl), verdict(perplexity)])
        lines.append([*line(judge, pair[1], told[1]), "", ""])
        for row, one in zip(pair, told, strict=True):
            results.append(row_json(judge, row) | rounded(one))
        results[-2] |= {"kl_ratio": kl.to_json(), "perplexity_between": perplexity.to_json()}
        report(given, lines, results, f"peers-{given.name}")


def report(given: Any, lines: list[list[str]], results: list[Any], name: str) -> None:
    """The table so far and its figures: a run that is stopped keeps what it found."""
    table = markdown(HEADINGS, lines)
    facts = {
        "model": Path(given.model).name,
        "chunks": given.chunks,
        "calibration_chunks": given.calibration,
        "threads": given.threads,
        "load_average": round(os.getloadavg()[1], 1),
        "date": time.strftime("%Y-%m-%d"),
        "rows": results,
    }
    path = keep(facts, name, dated=False)
    path.with_suffix(".md").write_text(table)
    print(table, flush=True)
    say(f"kept in {path.name}")


def texts(train: Path, test: Path) -> tuple[str, str]:
    """The text that calibrates and the one that measures; never the same words."""
    if train.samefile(test):
        return halves(train.read_text(encoding="utf-8"))
    return train.read_text(encoding="utf-8"), test.read_text(encoding="utf-8")


def row_of(judge: Judge, name: str, folder: Path, told: Told) -> Row:
    """Scored, with what the process told of itself."""
    if not (folder / "tokenizer.json").exists():
        shutil.copy(folder.parent / "source" / "tokenizer.json", folder)
    model = load(folder)
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    scores = judge.score(exact(model.graph, model.weights))
    return Row(name, size, scores, told.seconds, told.peak_bytes)


def line(judge: Judge, row: Row, told: Told) -> list[str]:
    """One row of the table, without what it is held against."""
    return [
        row.name,
        f"{row.size_bytes / 1e6:.1f}",
        with_interval(judge.kl(row.scores), 4),
        f"{row.scores.agreement.mean():.1%}",
        with_interval(judge.perplexity_ratio(row.scores), 3),
        f"{told.seconds:.0f}",
        f"{told.cpu_seconds:.0f}",
        f"{told.peak_bytes / 1e6:.0f}",
    ]


def verdict(ratio: Measured) -> str:
    """The ratio in words: worse and better are said beyond the interval only."""
    words = "WORSE" if ratio.low > 1 else "better" if ratio.high < 1 else "no difference"
    return f"{with_interval(ratio, 3)} {words}"


def rounded(told: Told) -> dict[str, float]:
    """For the results."""
    return {name: round(value, 1) for name, value in asdict(told).items()}


def read_arguments() -> Any:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--train", type=Path, required=True, help="calibration text")
    parser.add_argument("--test", type=Path, required=True, help="text to measure on")
    parser.add_argument("--name", help="of the files in results/; the model's by itself")
    parser.add_argument("--chunks", type=int, default=64)
    parser.add_argument("--calibration", type=int, default=64, help="chunks of it")
    parser.add_argument("--methods", nargs="*", default=PLAIN, choices=list(OURS))
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--light", action="store_true", help="AutoRound's recipe of 50 steps")
    parser.add_argument("--python", type=Path, help="interpreter that has the peer")
    parser.add_argument("--kept", action="store_true", help="measure what was made earlier")
    parser.add_argument("--work", type=Path, help="where folders are kept (build/…)")
    given = parser.parse_args()
    given.name = given.name or Path(given.model).stem
    given.work = given.work or ROOT / "build" / "compression-peers" / given.name
    return given


if __name__ == "__main__":
    main()
