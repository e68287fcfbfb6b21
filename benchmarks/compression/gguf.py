"""Our recipes against GGUF with an importance matrix, at equal file size.

    python benchmarks/compression/gguf.py MODEL-f32.gguf --train wiki.train --test wiki.test
    python benchmarks/compression/gguf.py … --chunks 8 --calibration 16 --types Q4_0 --recipes 92

MODEL is a GGUF in full precision. llama.cpp's own programs (built by `benchmarks/peers`, or found
with --programs) make the GGUF files from it; our recipes are those of `recipes/`. All are read by
one runtime and scored on the same tokens. Both sides' sizes are whole: a GGUF holds its tokenizer,
so ours counts the folder without its report.
"""

import argparse
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from quality import Judge, Row, cells, exact, keep, print_table, row_json, say, served

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks" / "peers"))
from environment import llama_programs  # noqa: E402

from slipstream.checkpoint.artifact import write_artifact  # noqa: E402
from slipstream.cli.compress_session import compile_exact  # noqa: E402
from slipstream.compress.carry_out import carry_out  # noqa: E402
from slipstream.compress.chain import Chain, read_chain  # noqa: E402
from slipstream.compress.work import Edition  # noqa: E402
from slipstream.evaluate.texts import read_chunks  # noqa: E402
from slipstream.models.load import load  # noqa: E402
from slipstream.models.model import Model  # noqa: E402
from slipstream.optimize.programs import settings_of  # noqa: E402
from slipstream.optimize.write import whole_settings, whole_tensors  # noqa: E402

TYPES = (
    "Q2_K", "IQ4_XS", "IQ4_NL", "Q4_0", "Q3_K_M", "Q4_1", "Q4_K_S", "Q4_K_M", "Q5_K_M", "Q6_K",
    "Q8_0",
)  # fmt: skip
RECIPES = Path(__file__).parent / "recipes"
GOAL = 0.5  # of the KL of the best GGUF that is no larger


@dataclass(frozen=True)
class Order:
    """What was asked for."""

    model: Path
    train: Path
    test: Path
    chunks: int
    calibration: int
    types: tuple[str, ...]
    recipes: tuple[Path, ...]
    programs: Path
    work: Path


def main() -> None:
    """Makes everything, scores everything, prints the table, keeps the figures."""
    order = read_order()
    order.work.mkdir(parents=True, exist_ok=True)
    original = load(order.model)
    judge = Judge(original, order.test, order.chunks, order.work)
    theirs = [gguf_row(order, judge, kind) for kind in order.types]
    ours = [our_row(order, judge, original, recipe) for recipe in order.recipes]
    rows = sorted([*theirs, *ours], key=lambda row: (row.size_bytes, row.name))
    headings = ["", "MB", "KL (95 %)", "same top", "ppl ×", "of the best GGUF's KL"]
    print_table(headings, [[*cells(judge, row), verdict(judge, row, theirs)] for row in rows])
    results = {
        "chunks": order.chunks,
        "calibration_chunks": order.calibration,
        "rows": [row_json(judge, row) | against(judge, row, theirs) for row in rows],
    }
    say(f"kept in {keep(results, 'gguf')}")


def gguf_row(order: Order, judge: Judge, kind: str) -> Row:
    """One type of llama.cpp's."""
    path = order.work / f"{order.model.stem}-{kind}-{order.calibration}.gguf"
    if not path.exists():
        say(f"llama-quantize {kind}")
        command = [order.programs / "llama-quantize", "--imatrix", imatrix(order)]
        _run([*command, order.model, path.with_suffix(".part"), kind])
        path.with_suffix(".part").rename(path)
    model = load(path)
    say(f"scoring {kind}")
    scores = judge.score(exact(model.graph, model.weights))
    return Row(f"GGUF {kind}", path.stat().st_size, scores)


def imatrix(order: Order) -> Path:
    """llama.cpp's importance matrix over the calibration text, made once."""
    path = order.work / f"{order.model.stem}-{order.calibration}.imatrix.gguf"
    if not path.exists():
        say("llama-imatrix")
        command = [order.programs / "llama-imatrix", "-m", order.model, "-f", order.train]
        _run([*command, "--chunks", str(order.calibration), "-o", path, "-c", "512"])
    return path


def our_row(order: Order, judge: Judge, original: Model, recipe: Path) -> Row:
    """One recipe: carried out, written (its size is that of its files), scored."""
    chain = read_chain(recipe.read_text(encoding="utf-8"))
    tokens = order.calibration * 512
    text = order.train.read_text(encoding="utf-8")
    chunks = read_chunks(original.tokenizer, text, tokens)
    edition = Edition(original.checkpoint.config, original.graph, original.weights)
    say(f"compressing by {recipe.name}")
    began = time.perf_counter()
    run = order.work / f"run-{recipe.stem}-{order.calibration}"
    lend_probes(order, run)
    after = carry_out(chain, edition, compile_exact, chunks, run)
    keep_probes(order, run)
    seconds = time.perf_counter() - began
    size = written_size(original, after, chain, order.work / f"out-{recipe.stem}")
    say(f"scoring {recipe.name}")
    as_served = judge.score(served(after.graph, after.weights, chain.activations))
    scores = judge.score(exact(after.graph, after.weights))
    shutil.rmtree(run)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    facts = {"recipe": chain.to_json(), "kl_as_served": judge.kl(as_served).to_json()}
    return Row(f"ours {recipe.stem}", size, scores, seconds, peak, facts)


def lend_probes(order: Order, run: Path) -> None:
    """What `mixed` measured for an earlier recipe, whatever its size and menu."""
    known = order.work / f"probes-{order.model.stem}.json"
    if known.exists() and not run.exists():
        (run / "00-mixed").mkdir(parents=True)
        shutil.copy(known, run / "00-mixed" / "scores.json")


def keep_probes(order: Order, run: Path) -> None:
    """For the next recipe."""
    for found in run.glob("00-mixed/scores.json"):
        shutil.copy(found, order.work / f"probes-{order.model.stem}.json")


def written_size(model: Model, after: Edition, chain: Chain, folder: Path) -> int:
    """Bytes of the artifact's files."""
    named = {name: after.weights[name] for name in after.graph.weight_names()}
    chat = model.tokenizer.chat
    write_artifact(
        folder,
        config=after.config,
        tensors=whole_tensors(named),
        tokenizer=model.tokenizer,
        chat_template=None if chat is None else chat.source,
        manifest={},
        activations=whole_settings(settings_of(after.graph, named, chain.activations)),
        overwrite=True,
    )
    return sum(path.stat().st_size for path in folder.iterdir())


def against(judge: Judge, row: Row, theirs: list[Row]) -> dict[str, object]:
    """Beside the best GGUF that is no larger than this row (or the smallest one)."""
    if row in theirs:
        return {}
    fitting = [one for one in theirs if one.size_bytes <= row.size_bytes * 1.01]
    if not fitting:
        return {}
    best = min(fitting, key=lambda one: float(one.scores.kl.mean()))
    ratio = judge.kl_ratio(row.scores, best.scores)
    return {"against": best.name, "kl_ratio": ratio.to_json(), "goal_met": ratio.high <= GOAL}


def verdict(judge: Judge, row: Row, theirs: list[Row]) -> str:
    """In words."""
    found = against(judge, row, theirs)
    if not found:
        return ""
    ratio = found["kl_ratio"]
    assert isinstance(ratio, dict)
    share = f"{ratio['value']:.2f} ({ratio['low']:.2f}–{ratio['high']:.2f}) of {found['against']}"
    return share + (", at most half" if found["goal_met"] else ", NOT half")


def read_order() -> Order:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--train", type=Path, required=True, help="calibration text")
    parser.add_argument("--test", type=Path, required=True, help="text to measure on")
    parser.add_argument("--chunks", type=int, default=64)
    parser.add_argument("--calibration", type=int, default=100, help="chunks of it")
    parser.add_argument("--types", nargs="*", default=TYPES)
    parser.add_argument("--recipes", nargs="*", help="names in recipes/; default: all")
    parser.add_argument("--programs", type=Path, help="folder of llama-quantize and llama-imatrix")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "compression")
    given = parser.parse_args()
    names = given.recipes
    recipes = (
        sorted(RECIPES.glob("*.toml")) if names is None else [RECIPES / f"{n}.toml" for n in names]
    )
    programs = given.programs or llama_programs("llama-quantize", "llama-imatrix")
    return Order(
        given.model, given.train, given.test, given.chunks, given.calibration,
        tuple(given.types), tuple(recipes), programs, given.work,
    )  # fmt: skip


def _run(command: list[object]) -> None:
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{command[0]} failed:\n{done.stderr[-2000:]}")


if __name__ == "__main__":
    main()
