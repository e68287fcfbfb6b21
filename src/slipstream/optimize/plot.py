"""Scatter plots as inline SVG, drawn by hand: no script, no font, no other file.

Colors are CSS variables of the page, so that a plot follows the reader's light or dark theme.
"""

import math
from dataclasses import dataclass
from html import escape
from typing import Literal

from slipstream.svg import line, log_ticks, text, text_upwards, ticks

WIDTH, HEIGHT = 560, 380
LEFT, RIGHT, TOP, BOTTOM = 72, 18, 16, 52

Kind = Literal["other", "within", "chosen", "stored"]


@dataclass(frozen=True)
class Point:
    """One result: x and y with their intervals, the number it has in the table, and its name."""

    x: tuple[float, float, float]  # value, low, high
    y: tuple[float, float, float]
    number: int
    name: str
    kind: Kind
    front: bool = False


@dataclass(frozen=True)
class Plot:
    """A logarithmic y axis over a linear x axis; `x_line` and `y_limit` are drawn across."""

    title: str
    x_label: str
    y_label: str
    points: tuple[Point, ...]
    x_line: tuple[float, str] | None = None
    y_limit: tuple[float, str] | None = None
    step_right: bool = False  # the front is better towards larger x


def draw(plot: Plot) -> str:
    """The SVG element; a sentence instead where there is nothing to draw."""
    if not plot.points:
        return "<p>Nothing was measured completely enough to draw.</p>"
    frame = _Frame.around(plot)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(plot.title)}">',
        f"<title>{escape(plot.title)}</title>",
        *_axes(plot, frame),
        *_lines(plot, frame),
        *_front(plot, frame),
        *(_bars(point, frame) for point in plot.points),
        *(_dot(point, frame) for point in plot.points),
        *_numbers(plot, frame),
        "</svg>",
    ]
    return "\n".join(parts)


@dataclass(frozen=True)
class _Frame:
    """From values to pixels."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    @classmethod
    def around(cls, plot: Plot) -> "_Frame":
        xs = [value for point in plot.points for value in point.x if math.isfinite(value)]
        if plot.x_line is not None:
            xs.append(plot.x_line[0])
        ys = [value for point in plot.points for value in point.y if 0 < value < math.inf]
        if plot.y_limit is not None:
            ys.append(plot.y_limit[0])
        ys = ys or [1e-6]
        margin = 0.08 * (max(xs) - min(xs)) or 0.1 * abs(max(xs)) or 1.0
        low, high = math.log10(min(ys)), math.log10(max(ys))
        room = 0.1 * (high - low) or 0.5
        return cls(min(xs) - margin, max(xs) + margin, low - room, high + room)

    def x(self, value: float) -> float:
        share = (value - self.x_low) / (self.x_high - self.x_low)
        return LEFT + min(max(share, 0), 1) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        log = math.log10(value) if value > 0 else self.y_low
        share = (min(max(log, self.y_low), self.y_high) - self.y_low) / (self.y_high - self.y_low)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def _axes(plot: Plot, frame: _Frame) -> list[str]:
    parts = []
    for value in ticks(frame.x_low, frame.x_high):
        x = frame.x(value)
        parts.append(line("grid", (x, TOP), (x, HEIGHT - BOTTOM)))
        parts.append(text(x, HEIGHT - BOTTOM + 18, f"{value:g}", "tick", "middle"))
    for value in log_ticks(frame.y_low, frame.y_high):
        y = frame.y(value)
        parts.append(line("grid", (LEFT, y), (WIDTH - RIGHT, y)))
        parts.append(text(LEFT - 8, y + 4, f"{value:g}", "tick", "end"))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, plot.x_label, "label", "middle"))
    parts.append(text_upwards(14, middle, plot.y_label, "label"))
    return parts


def _lines(plot: Plot, frame: _Frame) -> list[str]:
    parts = []
    if plot.x_line is not None:
        x = frame.x(plot.x_line[0])
        side, anchor = (-6, "end") if x > WIDTH / 2 else (6, "start")
        parts.append(line("mark", (x, TOP), (x, HEIGHT - BOTTOM)))
        parts.append(text(x + side, HEIGHT - BOTTOM - 8, plot.x_line[1], "note", anchor))
    if plot.y_limit is not None:
        y = frame.y(plot.y_limit[0])
        parts.append(line("limit", (LEFT, y), (WIDTH - RIGHT, y)))
        at, anchor = (LEFT + 6, "start") if plot.step_right else (WIDTH - RIGHT - 6, "end")
        parts.append(text(at, y - 6, plot.y_limit[1], "note limit-note", anchor))
    return parts


def _front(plot: Plot, frame: _Frame) -> list[str]:
    """A line through the points that no other beats in these two dimensions."""
    ordered = sorted(plot.points, key=lambda p: -p.x[0] if plot.step_right else p.x[0])
    best, kept = math.inf, []
    for point in ordered:
        if point.front and point.y[0] < best:
            best = point.y[0]
            kept.append(f"{frame.x(point.x[0]):.1f},{frame.y(point.y[0]):.1f}")
    return [f'<polyline class="front" points="{" ".join(kept)}"/>'] if len(kept) > 1 else []


def _bars(point: Point, frame: _Frame) -> str:
    x, y = frame.x(point.x[0]), frame.y(point.y[0])
    across = line("bar", (frame.x(point.x[1]), y), (frame.x(point.x[2]), y))
    return across + line("bar", (x, frame.y(point.y[1])), (x, frame.y(point.y[2])))


def _dot(point: Point, frame: _Frame) -> str:
    x, y = frame.x(point.x[0]), frame.y(point.y[0])
    title = f"<title>{point.number}: {escape(point.name)}</title>"
    if point.kind == "stored":
        corner = f'x="{x - 5:.1f}" y="{y - 5:.1f}" width="10" height="10"'
        return f'<rect class="dot stored" {corner}>{title}</rect>'
    center = f'cx="{x:.1f}" cy="{y:.1f}"'
    ring = f'<circle class="ring" {center} r="10"/>' if point.kind == "chosen" else ""
    return f'{ring}<circle class="dot {point.kind}" {center} r="5.5">{title}</circle>'


def _numbers(plot: Plot, frame: _Frame) -> list[str]:
    """Each point's number beside it, at the first of eight places that is free."""
    taken = [(frame.x(p.x[0]), frame.y(p.y[0])) for p in plot.points]
    parts = []
    for point in plot.points:
        x, y = frame.x(point.x[0]), frame.y(point.y[0])
        places = [(x + dx, y + dy) for dx, dy in _PLACES]
        free = [place for place in places if all(_apart(place, other) for other in taken)]
        at = (free or places)[0]
        taken.append(at)
        kind = "number chosen-number" if point.kind == "chosen" else "number"
        parts.append(text(at[0], at[1] + 4, str(point.number), kind, "middle"))
    return parts


_PLACES = ((15, -11), (15, 11), (-15, -11), (-15, 11), (0, -20), (0, 20), (24, 0), (-24, 0))


def _apart(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return abs(one[0] - other[0]) > 14 or abs(one[1] - other[1]) > 12
