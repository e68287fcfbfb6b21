"""The roofline of a machine with its kernels beneath it, as one page of HTML without a script.

Across: operations for each byte of weights and keys that a call reads. Up: operations a second.
Each kernel is a line through its numbers of rows; `bench kernels --plot` writes the page.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from slipstream.bench.kernels import Row
from slipstream.machine import Ceilings
from slipstream.svg import Place, line, log_ticks, text, text_upwards

WIDTH, HEIGHT = 880, 500
LEFT, RIGHT, TOP, BOTTOM = 76, 270, 20, 56
LABEL_WIDTH = 130  # of the words beside the slope, with room about them
DRAWN = ("linear", "gated linear", "attention")  # what reads weights or keys in bulk
LINES_MOST = 8  # kernels drawn: those that take the most time
COLORS = ("#3b6fd4", "#d9822b", "#2f9e61", "#c2417c", "#7a55c7", "#0f8f9c", "#9a6b1f", "#6b7280")

STYLE = """
:root { --ground: #fff; --ink: #1c2430; --faint: #d9dee5; --soft: #5c6675; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #12161c; --ink: #e6eaf0; --faint: #2c3440; --soft: #9aa5b4; }
}
body { background: var(--ground); color: var(--ink); max-width: 60rem; margin: 2rem auto;
  padding: 0 1rem; font: 15px/1.5 system-ui, sans-serif; }
svg { width: 100%; height: auto; }
text { fill: var(--ink); font-size: 12px; } .tick, .note { fill: var(--soft); font-size: 11px; }
.grid { stroke: var(--faint); } .roof { stroke: var(--ink); stroke-width: 2; fill: none; }
.lower { stroke: var(--soft); stroke-width: 1.5; stroke-dasharray: 5 4; }
.kernel { fill: none; stroke-width: 1.6; } circle { stroke: var(--ground); }
.limit { fill: var(--soft); font-size: 11px; paint-order: stroke; stroke: var(--ground);
  stroke-width: 4px; stroke-linejoin: round; } p { color: var(--soft); }
"""


@dataclass(frozen=True)
class Frame:
    """From logarithms to pixels."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def place(self, intensity: float, speed: float) -> Place:
        """Operations per byte and per second → x, y; what lies outside is moved to the border."""
        x = (math.log10(intensity) - self.x_low) / (self.x_high - self.x_low)
        y = (math.log10(speed) - self.y_low) / (self.y_high - self.y_low)
        across, up = (min(max(share, 0), 1) for share in (x, y))
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (
            HEIGHT - TOP - BOTTOM
        )


def page(title: str, rows: Sequence[Row], ceilings: Ceilings, notes: Sequence[str]) -> str:
    """The whole page; `notes` are paragraphs beneath the drawing."""
    paragraphs = "\n".join(f"<p>{escape(note)}</p>" for note in notes)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>
<style>{STYLE}</style></head><body><h1>{escape(title)}</h1>
{draw(title, rows, ceilings)}
{paragraphs}
</body></html>
"""


def picture(title: str, rows: Sequence[Row], ceilings: Ceilings, notes: Sequence[str]) -> str:
    """The drawing alone, as a file of SVG that carries its style; the notes are its description."""
    drawing = draw(title, rows, ceilings)
    if not drawing.startswith("<svg "):
        drawing = f'<svg viewBox="0 0 {WIDTH} 40"><text x="10" y="25">{drawing[3:-4]}</text></svg>'
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
    ground = f'<rect width="{WIDTH}" height="{HEIGHT}" fill="var(--ground)"/>'
    inside = f"<style>{STYLE}</style>\n<desc>{escape(' '.join(notes))}</desc>\n{ground}"
    head, _, rest = drawing.removeprefix("<svg ").partition(">")
    return f"{opening}{head}>\n{inside}{rest}\n"


def draw(title: str, rows: Sequence[Row], ceilings: Ceilings) -> str:
    """The SVG element; a sentence instead where no kernel reads weights or keys."""
    lines = _lines_of(rows)
    if not lines:
        return "<p>No kernel that reads weights or keys was measured.</p>"
    frame = _around(lines, ceilings)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">',
        *_axes(frame),
        *_roofs(frame, ceilings),
        *_kernels(frame, lines),
        *_limits(frame, ceilings),
        "</svg>",
    ]
    return "\n".join(parts)


def intensity(row: Row) -> float:
    """Operations for each byte of weights and keys; 0 where there are no such bytes."""
    moved = row.cost.bytes_weights + row.cost.bytes_kv
    return row.cost.operations / moved if moved else 0.0


def _lines_of(rows: Sequence[Row]) -> Mapping[str, list[Row]]:
    """Linears and attention, each from left to right, by the time that they take in all."""
    found: dict[str, list[Row]] = {}
    for row in sorted(rows, key=intensity):
        if row.kernel.kind in DRAWN and intensity(row) > 0:
            found.setdefault(row.kernel.name, []).append(row)
    busy = sorted(found, key=lambda name: -sum(_seconds(row) for row in found[name]))
    return {name: found[name] for name in busy[:LINES_MOST]}


def _seconds(row: Row) -> float:
    return row.seconds.median * len(row.kernel.nodes)


def _around(lines: Mapping[str, list[Row]], ceilings: Ceilings) -> Frame:
    rows = [row for group in lines.values() for row in group]
    across = [math.log10(intensity(row)) for row in rows]
    up = [math.log10(row.operations_per_s) for row in rows] + [math.log10(ceilings.int8.median)]
    return Frame(min(across) - 0.2, max(across) + 0.2, min(up) - 0.2, max(up) + 0.2)


def _axes(frame: Frame) -> list[str]:
    parts = []
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    for value in log_ticks(frame.x_low, frame.x_high):
        x, _ = frame.place(value, 1e9)
        parts.append(line("grid", (x, TOP), (x, bottom)))
        parts.append(text(x, bottom + 18, f"{value:g}", "tick", "middle"))
    for value in log_ticks(frame.y_low - 9, frame.y_high - 9):
        _, y = frame.place(1, value * 1e9)
        parts.append(line("grid", (LEFT, y), (right, y)))
        parts.append(text(LEFT - 8, y + 4, f"{value:g}", "tick", "end"))
    words = "operations for each byte of weights and keys"
    parts.append(text((LEFT + right) / 2, HEIGHT - 14, words, "label", "middle"))
    parts.append(text_upwards(16, (TOP + bottom) / 2, "billion operations a second", "label"))
    return parts


def _roofs(frame: Frame, ceilings: Ceilings) -> list[str]:
    """The slope of the memory up to the int8 ceiling; the float32 ceiling beneath it."""
    dram, peak, single = ceilings.dram.median, ceilings.int8.median, ceilings.f32.median
    low, high = 10**frame.x_low, 10**frame.x_high
    left = max(low, 10**frame.y_low / dram)
    ridge = peak / dram
    corner = min(ridge, high)
    corners = [frame.place(x, min(peak, dram * x)) for x in (left, corner, high)]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
    parts = [f'<polyline class="roof" points="{points}"/>']
    start, end = frame.place(max(low, single / dram), single), frame.place(high, single)
    parts.append(line("lower", start, end))
    return parts


def _limits(frame: Frame, ceilings: Ceilings) -> list[str]:
    """The ceilings in words, above their lines: kernels lie beneath."""
    dram, peak, single = ceilings.dram.median, ceilings.int8.median, ceilings.f32.median
    corner = frame.place(min(peak / dram, 10**frame.x_high), peak)
    right = WIDTH - RIGHT - 4
    words = f"memory {dram / 1e9:.1f} GB/s"
    if corner[0] - LEFT > LABEL_WIDTH:  # left of the slope, a little beneath its end
        memory = text(corner[0] - 22, corner[1] + 12, words, "limit", "end")
    else:
        memory = text(corner[0] + 4, corner[1] - 6, words, "limit", "start")
    _, lower = frame.place(1, single)
    return [
        text(right, corner[1] - 6, f"int8 {peak / 1e9:.0f}", "limit", "end"),
        text(right, lower - 5, f"float32 {single / 1e9:.0f}", "limit", "end"),
        memory,
    ]


def _kernels(frame: Frame, lines: Mapping[str, list[Row]]) -> list[str]:
    parts = []
    for number, (name, rows) in enumerate(lines.items()):
        color = COLORS[number % len(COLORS)]
        places = [frame.place(intensity(row), row.operations_per_s) for row in rows]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline class="kernel" stroke="{color}" points="{points}"/>')
        for row, (x, y) in zip(rows, places, strict=True):
            words = f"{name}, {row.rows} rows: {row.operations_per_s / 1e9:.1f} billion/s, "
            title = f"<title>{escape(words)}{row.share:.0%} of the roof</title>"
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{color}">{title}</circle>')
        at = TOP + 14 + 40 * number
        parts.append(f'<circle cx="{WIDTH - RIGHT + 20}" cy="{at}" r="5" fill="{color}"/>')
        kind, _, shape = name.partition(", ")
        parts.append(text(WIDTH - RIGHT + 32, at + 4, kind, "label", "start"))
        parts.append(text(WIDTH - RIGHT + 32, at + 19, shape, "note", "start"))
    return parts
