"""The smallest pieces of a drawing in SVG: lines, words, and where the marks of an axis go.

`optimize/plot.py` and `bench/roofline.py` draw with them. Colors are CSS variables of the page.
"""

import math
from collections.abc import Sequence
from html import escape

Place = tuple[float, float]


def line(kind: str, start: Place, end: Place) -> str:
    """A straight line of the CSS class `kind`."""
    (x1, y1), (x2, y2) = start, end
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def text(x: float, y: float, words: str, kind: str, anchor: str) -> str:
    """Words at a place; `anchor` is start, middle or end."""
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text class="{kind}" {place}>{escape(words)}</text>'


def text_upwards(x: float, y: float, words: str, kind: str) -> str:
    """Words turned by a quarter, centered on a place: the name of a vertical axis."""
    turned = f'text-anchor="middle" transform="translate({x:.0f} {y:.0f}) rotate(-90)"'
    return f'<text class="{kind}" {turned}>{escape(words)}</text>'


def ticks(low: float, high: float, about: int = 6) -> Sequence[float]:
    """Round numbers between two values."""
    raw = (high - low) / about
    step = 10 ** math.floor(math.log10(raw))
    step = next(step * factor for factor in (1, 2, 5, 10) if step * factor >= raw)
    first = math.ceil(low / step)
    return [round(step * n, 10) for n in range(first, math.floor(high / step) + 1)]


def log_ticks(low: float, high: float) -> Sequence[float]:
    """1, 2 and 5 times the powers of ten between 10^low and 10^high."""
    values = [
        round(digit * 10.0**power, 12)
        for power in range(math.floor(low) - 1, math.ceil(high) + 1)
        for digit in (1, 2, 5)
    ]
    return [value for value in values if low <= math.log10(value) <= high]
