"""Our recipes against GGUF with an importance matrix, at equal file size.

    python benchmarks/compression/gguf.py MODEL-f32.gguf --train wiki.train --test wiki.test
    python benchmarks/compression/gguf.py … --chunks 8 --calibration 16 --types Q4_0 --recipes 092

MODEL is a GGUF in full precision. llama.cpp's own programs (built by `benchmarks/peers`, or found
with --programs) make the GGUF files from it; our recipes are those of `recipes/`. All are read by
one runtime and scored on the same tokens. Both sides' sizes are whole: a GGUF holds its tokenizer,
so ours counts the folder. What was made or scored is kept below --work: a run that was cut off
goes on, one with more chunks scores only those, and two runs may share the work.
"""

import contextlib
import io
from pathlib import Path

import pareto
from carried import made
from gguf_order import Order, read_order
from llama_cpp import quantized, told_by_llama
from quality import Judge, Row, cells, exact, keep, print_table, row_json, say, served
from scorebook import Scorebook

from slipstream.compress.chain import read_chain
from slipstream.models.load import load
from slipstream.models.model import Model

GOAL = 0.5  # of the KL of the best GGUF that is no larger
CEILINGS = ((92.0, 0.07), (105.0, 0.03))  # MB of the whole file, nats


def main() -> None:
    """Makes everything, scores everything; prints and keeps table, figures and picture."""
    order = read_order()
    order.work.mkdir(parents=True, exist_ok=True)
    original = load(order.model)
    judge = Scorebook(original, order.test, order.chunks, order.work / "scores")
    theirs = [gguf_row(order, judge, kind) for kind in order.types]
    ours = [our_row(order, judge, original, recipe) for recipe in order.recipes]
    rows = sorted([*theirs, *ours], key=lambda row: (row.size_bytes, row.name))
    results = {
        "chunks": order.chunks,
        "calibration_chunks": order.calibration,
        "importance_chunks": order.importance,
        "rows": [row_json(judge, row) | against(judge, row, theirs) for row in rows],
        "ceilings": [ceiling(judge, ours, *limit) for limit in CEILINGS],
    }
    path = keep(results, f"gguf-{order.name}", dated=False)
    report = io.StringIO()
    with contextlib.redirect_stdout(report):
        print_report(order, judge, rows, theirs)
    path.with_suffix(".md").write_text(report.getvalue(), encoding="utf-8")
    pareto.draw(judge, theirs, ours, path.with_suffix(".png"), conditions(order))
    print(report.getvalue(), end="")
    say(f"kept in {path} and beside it")


def print_report(order: Order, judge: Judge, rows: list[Row], theirs: list[Row]) -> None:
    """The table, and how it was made."""
    own = ["as served"] if order.reproduce or order.served else []
    headings = ["", "MB", "KL (95 %)", "same top", "ppl ×", *own, "of the best GGUF's KL"]
    cells_of = [
        [*cells(judge, row), *([as_served(row)] if own else []), verdict(judge, row, theirs)]
        for row in rows
    ]
    print(f"{conditions(order)}\n")
    print_table(headings, cells_of)
    print()
    for limit in CEILINGS:
        print(in_words(ceiling(judge, [row for row in rows if row not in theirs], *limit)))


def conditions(order: Order) -> str:
    """In one line."""
    return (
        f"{order.model.stem}: second halves of {order.chunks} chunks of 512 of {order.test.name}; "
        f"ours calibrated on {order.calibration} chunks, importance matrix of {order.importance}"
    )


def ceiling(judge: Judge, ours: list[Row], size_mb: float, most: float) -> dict[str, object]:
    """Whether the best of ours within a size keeps a KL, the interval's upper end included."""
    within = [row for row in ours if row.size_bytes <= size_mb * 1e6]
    if not within:
        return {"size_mb": size_mb, "most": most, "met": None}
    best = min(within, key=lambda row: float(row.scores.kl.mean()))
    kl = judge.kl(best.scores)
    found = {"row": best.name, "kl": kl.to_json(), "met": kl.high <= most}
    return {"size_mb": size_mb, "most": most, **found}


def in_words(found: dict[str, object]) -> str:
    """One goal's line."""
    words = {True: "kept", False: "NOT kept"}.get(bool(found["met"]), "")
    if found["met"] is None:
        words = "not measured"
    return f"- KL at most {found['most']} within {found['size_mb']} MB: {words}"


def gguf_row(order: Order, judge: Scorebook, kind: str) -> Row:
    """One type of llama.cpp's."""
    path = quantized(order, kind)
    model = load(path)
    say(f"scoring {kind}")
    identity = model.checkpoint.identity()
    scores = judge.kept(identity, lambda: exact(model.graph, model.weights))
    facts = told_by_llama(order, path) if order.reproduce else None
    return Row(f"GGUF {kind}", path.stat().st_size, scores, facts=facts)


def as_served(row: Row) -> str:
    """A cell: the KL by the runtime that a file is made for, with the inputs that it rounds."""
    facts = row.facts or {}
    kl = facts.get("llama_kl", facts.get("kl_as_served", {"value": None}))
    value = kl["value"] if isinstance(kl, dict) else kl
    return "" if value is None else f"{value:.4f}"


def our_row(order: Order, judge: Scorebook, original: Model, recipe: Path) -> Row:
    """One recipe: carried out, written, and scored as it is read again."""
    chain = read_chain(recipe.read_text(encoding="utf-8"))
    folder, facts = made(order, original, recipe, chain)
    model = load(folder)
    say(f"scoring {recipe.name}")
    identity = model.checkpoint.identity()
    scores = judge.kept(identity, lambda: exact(model.graph, model.weights))
    told: dict[str, object] = {"recipe": chain.to_json()}
    if order.served:
        kept = judge.kept(
            f"served-{identity}", lambda: served(model.graph, model.weights, chain.activations)
        )
        told["kl_as_served"] = judge.kl(kept).to_json()
    size = sum(path.stat().st_size for path in folder.iterdir())
    return Row(
        f"ours {recipe.stem}", size, scores, facts["seconds"], int(facts["peak_bytes"]), told
    )


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


if __name__ == "__main__":
    main()
