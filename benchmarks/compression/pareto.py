"""Size against divergence, both worlds in one picture; `gguf.py` draws it beside its table."""

from pathlib import Path

from quality import Judge, Row


def draw(judge: Judge, theirs: list[Row], ours: list[Row], path: Path, note: str) -> None:
    """A PNG or SVG, by the path's ending. Bars are 95 % intervals; the line is half the best GGUF.

    That line is the goal: at each size half the least KL of the GGUF files that are no larger.
    """
    import matplotlib  # noqa: PLC0415

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(figsize=(8, 5), constrained_layout=True)
    worlds = (
        ("GGUF, importance matrix", theirs, "s", "tab:gray"),
        ("Slipstream", ours, "o", "tab:blue"),
    )
    for label, rows, marker, color in worlds:
        if not rows:
            continue
        measured = [judge.kl(row.scores) for row in rows]
        values = [one.value for one in measured]
        spans = [
            [one.value - one.low for one in measured],
            [one.high - one.value for one in measured],
        ]
        sizes = [row.size_bytes / 1e6 for row in rows]
        axes.errorbar(
            sizes, values, yerr=spans, fmt=marker, color=color, ms=5, capsize=2, label=label
        )
        for row, x, y in zip(rows, sizes, values, strict=True):
            name = row.name.split(" ", 1)[-1]
            above = rows is theirs
            axes.annotate(
                name, (x, y), (4, 5 if above else -11), textcoords="offset points", fontsize=7
            )
    goal = frontier(judge, theirs)
    if goal:
        end = max(row.size_bytes for row in [*theirs, *ours]) / 1e6 + 1
        xs, ys = [x for x, _ in goal] + [end], [y / 2 for _, y in goal]
        axes.stairs(ys, xs, baseline=None, color="tab:red", lw=1, ls="--", label="goal: half")
    axes.set(xlabel="file, MB", ylabel="KL to full precision, nats a token", yscale="log")
    axes.set_title(note, fontsize=9)
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def frontier(judge: Judge, rows: list[Row]) -> list[tuple[float, float]]:
    """(MB, KL) of each row that no smaller row equals, by size."""
    found: list[tuple[float, float]] = []
    for row in sorted(rows, key=lambda row: row.size_bytes):
        kl = judge.kl(row.scores).value
        if not found or kl < found[-1][1]:
            found.append((row.size_bytes / 1e6, kl))
    return found
