"""The report: one HTML page that stands alone, with table, plots, method and recipe.

No script and nothing from another host, so it can be mailed, archived and printed. The page follows
the reader's light or dark theme.
"""

from collections.abc import Iterable, Mapping
from html import escape
from importlib.resources import files
from typing import Any

from slipstream.compress.recipe import activations_label, format_label
from slipstream.evaluate.verdict import Limit
from slipstream.optimize import report_words as words
from slipstream.optimize.plot import Kind, Plot, Point, draw
from slipstream.optimize.study import Result, Study
from slipstream.optimize.table import HEADER, rows

_STYLE = files("slipstream.optimize").joinpath("report.css")


def report_html(study: Study, chosen: Result | None) -> str:
    """The whole page. `chosen` is what was written; None: nothing was."""
    body = [
        _top(study, chosen),
        _tiles(study, chosen),
        _section("Trade-off", _table(study), _legend()),
        _section("Quality against speed and size", _plots(study, chosen)),
        _section("How to read this", _list(words.HOW_TO_READ)),
        _section("What the baseline is", _paragraph(words.baseline(study))),
        _section("Method", _list(words.method(study))),
    ]
    if chosen is not None:
        body.append(_section("Recipe of the choice", _recipe(chosen)))
    body.append(_section("Machine and settings", _facts(study.facts)))
    title = f"Slipstream: {escape(study.model)} optimized"
    return _PAGE.format(title=title, style=_STYLE.read_text("utf-8"), body="\n".join(body))


def _top(study: Study, chosen: Result | None) -> str:
    limits = ", ".join(limit.text for limit in study.limits)
    if chosen is None:
        verdict = f"Nothing measured keeps the limits ({limits}); nothing was written."
    elif study.verdict(chosen).met:
        verdict = f"Chosen: {chosen.name}, the fastest within the limits ({limits})."
    else:
        verdict = f"Written by force: {chosen.name}. It does not keep the limits ({limits})."
    return (
        f'<header><p class="brand">Slipstream</p><h1>{escape(study.model)}</h1>'
        f"<p class=verdict>{escape(verdict)}</p></header>"
    )


def _tiles(study: Study, chosen: Result | None) -> str:
    if chosen is None or chosen.decode is None or chosen.prefill is None:
        return ""
    base = study.baseline
    tiles = [
        (f"{chosen.kl.value:.4f}", "KL from the original", f"95 %: {_between(chosen)}"),
        (f"{chosen.size_bytes / 1e6:.1f} MB", "stored", f"original {base.size_bytes / 1e6:.1f} MB"),
    ]
    assert base.decode is not None and base.prefill is not None
    for speed, mine, theirs in (
        ("decode tok/s", chosen.decode, base.decode),
        ("prefill tok/s", chosen.prefill, base.prefill),
    ):
        ratio = mine.value / theirs.value
        tiles.append(
            (f"{mine.value:.1f}", speed, f"{ratio:.2f} × the baseline's {theirs.value:.1f}")
        )
    cells = "".join(
        f"<div class=tile><b>{escape(big)}</b><span>{escape(what)}</span>"
        f"<small>{escape(small)}</small></div>"
        for big, what, small in tiles
    )
    return f"<div class=tiles>{cells}</div>"


def _between(result: Result) -> str:
    return f"{result.kl.low:.4f}–{result.kl.high:.4f}"


def _table(study: Study) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in HEADER)
    lines = []
    for row in rows(study):
        kind = row.mark or row.role
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in row.cells)
        lines.append(f'<tr class="{kind}">{cells}</tr>')
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody>"
    return f"<div class=wide><table>{body}</table></div>"


def _legend() -> str:
    return (
        '<p class=legend><i class="key chosen"></i>chosen '
        '<i class="key within"></i>within the limits '
        '<i class="key other"></i>outside them <i class="key stored"></i>the file as it is, int8 '
        'activations <i class="key line"></i>Pareto front</p>'
    )


def _plots(study: Study, chosen: Result | None) -> str:
    limit = next((limit for limit in study.limits if limit.metric == "kl"), None)
    base = study.baseline
    speed_line = None if base.decode is None else (base.decode.value, "baseline, KL = 0")
    speed = Plot(
        "KL against decode speed", "decode, tokens per second (further right is faster)",
        "KL from the original (lower is nearer)",
        _points(study, chosen, by="decode"), speed_line, _limit_line(limit), step_right=True,
    )  # fmt: skip
    size = Plot(
        "KL against size", "stored size, MB (further left is smaller)",
        "KL from the original (lower is nearer)",
        _points(study, chosen, by="size"),
        (base.size_bytes / 1e6, "baseline, KL = 0"), _limit_line(limit),
    )  # fmt: skip
    return f"<div class=plots><figure>{draw(speed)}</figure><figure>{draw(size)}</figure></div>"


def _limit_line(limit: Limit | None) -> tuple[float, str] | None:
    return None if limit is None else (limit.value, f"limit {limit.text}")


def _points(study: Study, chosen: Result | None, by: str) -> tuple[Point, ...]:
    front = {result.name for result in study.front()}
    points = []
    for number, result in enumerate(study.rows):
        if result.role == "baseline" or not result.complete or result.decode is None:
            continue
        megabytes = result.size_bytes / 1e6
        speed = (result.decode.value, result.decode.low, result.decode.high)
        x = speed if by == "decode" else (megabytes, megabytes, megabytes)
        y = (result.kl.value, result.kl.low, result.kl.high)
        kind = _kind(study, result, chosen)
        points.append(Point(x, y, number, result.name, kind, result.name in front))
    return tuple(points)


def _kind(study: Study, result: Result, chosen: Result | None) -> Kind:
    if chosen is not None and result.name == chosen.name:
        return "chosen"
    if result.role == "stored":
        return "stored"
    return "within" if study.verdict(result).met else "other"


def _recipe(result: Result) -> str:
    lines = []
    for rule in result.recipe.rules:
        if rule.format is not None:
            label = f"{format_label(rule.format)}, {rule.method}, clipping {rule.clip}"
            lines.append(
                f"<tr><td><code>{escape(rule.select)}</code></td><td>{escape(label)}</td></tr>"
            )
    activations = activations_label(result.recipe.activations)
    lines.append(f"<tr><td>activations</td><td>{escape(activations)}</td></tr>")
    return (
        "<p>The first rule that names a weight decides.</p>"
        f"<div class=wide><table class=plain><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _facts(facts: Mapping[str, Any]) -> str:
    lines = [
        f"<tr><td>{escape(str(name).replace('_', ' '))}</td><td>{_fact(value)}</td></tr>"
        for name, value in facts.items()
        if value not in (None, "", [], {})
    ]
    return f"<div class=wide><table class=plain><tbody>{''.join(lines)}</tbody></table></div>"


def _fact(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return f"<code>{escape(text)}</code>"


def _section(title: str, *parts: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{''.join(parts)}</section>"


def _paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def _list(items: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ul>"


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body><main>
{body}
</main></body>
</html>
"""
