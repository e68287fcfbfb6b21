"""Recovery: how near a pruned model comes to its original with every token of distillation.

Three students of one size start from equal settings and read the same text in the same order: the
original without its least needed blocks, the same size from random weights with the same teacher,
and that size from random weights on the text alone. Distances are KL(original ‖ student) on text
that none was trained on. Then the pruned student's speed beside its parent's, in alternation.

python benchmarks/compression/recovery.py --model stories260K.gguf --text tinystories.txt
"""

import argparse
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from slipstream.backends.native import NativeOptions, compile_native
from slipstream.bench.offline import measure_speed
from slipstream.bench.records import write_record
from slipstream.bench.samples import Samples
from slipstream.cli.compress_session import compile_exact
from slipstream.cli.compress_text import read_texts
from slipstream.cli.search_show import Bars, open_console
from slipstream.compress.carry_out import carry_out
from slipstream.compress.chain import Chain, parse_chain
from slipstream.compress.work import Edition
from slipstream.machine import machine, thread_count
from slipstream.models.load import load

PRUNED, SCRATCH, ALONE = "pruned + distilled", "from scratch, distilled", "from scratch, text alone"
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Curve:
    """One student: how it began, and its distance after so many tokens."""

    name: str
    rate: float
    points: list[dict[str, float]]


def main() -> None:
    """Trains, measures, writes JSON, table and plot."""
    options = _options()
    model = load(options.model)
    edition = Edition(model.checkpoint.config, model.graph, model.weights)
    curves, students = [], {}
    with Bars(open_console(stderr=True)) as bars, tempfile.TemporaryDirectory() as folder:
        for name, chain in _chains(options, len(model.graph.attentions)).items():
            if name in options.without:
                continue
            bars.say(name)
            reading = read_texts(chain, model, options.text, 4096, bars)
            where = Path(folder) / name.replace(" ", "-")
            students[name] = carry_out(
                chain, edition, compile_exact, reading.texts.calibration, where,
                memory_bytes=machine().memory_bytes, watcher=bars, corpus=reading.corpus,
            )  # fmt: skip
            curves.append(_curve(name, chain, where))
        speeds = _speeds(edition, students[PRUNED]) if PRUNED in students else {}
    found = _found(options, curves, speeds)
    stem = RESULTS / f"recovery-{options.name}"
    write_record(found, stem.with_suffix(".json"), Path(__file__).resolve().parents[2])
    stem.with_suffix(".md").write_text(table(found))
    plot(found, stem.with_suffix(".png"))
    print(table(found))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--name", default="stories260K", help="of the files in results/")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--blocks", type=int, default=1, help="blocks to take out")
    parser.add_argument("--tokens", type=int, default=400_000, help="to train each student on")
    parser.add_argument("--corpus", type=int, default=300_000, help="tokens of text to take")
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--rate", type=float, default=1e-3, help="of the pruned student")
    parser.add_argument("--scratch-rate", type=float, default=3e-3)
    parser.add_argument("--points", type=int, default=12, help="of each curve")
    parser.add_argument("--held-out", type=int, default=16, help="portions to measure on")
    parser.add_argument("--without", action="append", default=[], help="leave out a curve")
    return parser.parse_args()


def _chains(options: argparse.Namespace, layers: int) -> dict[str, Chain]:
    """The recipe of each student."""
    updates = -(-options.tokens // options.batch)
    learning = {
        "method": "distill",
        "tokens": options.tokens,
        "batch": options.batch,
        "held_out": options.held_out,
        "measure": max(1, updates // options.points),
    }
    shape = {"method": "student", "config": {"num_hidden_layers": layers - options.blocks}}
    slow, fast = {"rate": options.rate}, {"rate": options.scratch_rate}
    text = {"soft": 0.0, "labels": 1.0}
    passes = {
        PRUNED: [{"method": "drop_blocks", "count": options.blocks}, {**learning, **slow}],
        SCRATCH: [shape, {**learning, **fast}],
        ALONE: [shape, {**learning, **fast, **text}],
    }
    training = {"tokens": options.corpus, "length": options.length}
    calibration = {"tokens": 4096, "length": options.length}
    return {
        name: parse_chain({"calibration": calibration, "training": training, "pass": chain})
        for name, chain in passes.items()
    }


def _curve(name: str, chain: Chain, folder: Path) -> Curve:
    (path,) = folder.glob("*-distill/curve.json")
    learning = chain.to_json()["pass"][-1]
    points = [
        {"tokens": point["update"] * learning["batch"], "kl": point["kl"], "nll": point["nll"]}
        for point in json.loads(path.read_text())
    ]
    return Curve(name, learning["rate"], points)


def _speeds(parent: Edition, student: Edition) -> dict[str, dict[str, Samples | None]]:
    """Both with float32 weights of equal kind, so that only the shape differs."""
    programs = {
        name: compile_native(one.graph, _dense(one), NativeOptions())
        for name, one in (("original", parent), ("pruned", student))
    }
    measured = measure_speed(programs, prompt_tokens=128, decode_tokens=32, repeats=9)
    return {name: {"decode": s.decode, "prefill": s.prefill} for name, s in measured.items()}


def _dense(edition: Edition) -> dict[str, Any]:
    from slipstream.formats.tensor import DenseTensor  # noqa: PLC0415

    names = edition.graph.weight_names()
    return {name: DenseTensor(edition.weights[name].dequantize()) for name in names}


def _found(
    options: argparse.Namespace, curves: list[Curve], speeds: dict[str, dict[str, Samples | None]]
) -> dict[str, Any]:
    given = {name: str(value) for name, value in vars(options).items() if name != "without"}
    given = {name: Path(value).name for name, value in given.items()}
    return {
        "options": given,
        "machine": {"processor": machine().cpu, "threads": thread_count()},
        "curves": [asdict(curve) for curve in curves],
        "speeds": {
            name: {
                kind: None if s is None else [s.low, s.median, s.high] for kind, s in both.items()
            }
            for name, both in speeds.items()
        },
    }


def table(found: dict[str, Any]) -> str:
    """KL of every student after equal tokens, in Markdown."""
    curves = found["curves"]
    lines = [
        "| tokens | " + " | ".join(f"{c['name']} (rate {c['rate']:g})" for c in curves) + " |",
        "|---:|" + "---:|" * len(curves),
    ]
    for points in zip(*(curve["points"] for curve in curves), strict=True):
        values = " | ".join(f"{point['kl']:.3f}" for point in points)
        lines.append(f"| {int(points[0]['tokens']):,} | {values} |")
    for name, both in found["speeds"].items():
        decode, prefill = (both[kind] for kind in ("decode", "prefill"))
        lines.append(
            f"\n{name}: decode {decode[1]:.0f} ({decode[0]:.0f}–{decode[2]:.0f}) tokens/s, "
            f"prefill {prefill[1]:.0f} ({prefill[0]:.0f}–{prefill[2]:.0f}); median of 9, range"
        )
    return "\n".join(lines) + "\n"


def plot(found: dict[str, Any], path: Path) -> None:
    """Tokens against KL, the latter on a logarithmic axis."""
    import matplotlib  # noqa: PLC0415

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(figsize=(7, 4.2), constrained_layout=True)
    for curve, mark in zip(found["curves"], "os^", strict=False):
        x = [point["tokens"] / 1000 for point in curve["points"]]
        axes.plot(x, [p["kl"] for p in curve["points"]], marker=mark, ms=4, label=curve["name"])
    axes.set_yscale("log")
    axes.set_xlabel("thousand tokens trained on")
    axes.set_ylabel("KL(original ‖ student), nats")
    axes.set_title(f"{found['options']['name']}: {found['options']['blocks']} block(s) fewer")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
