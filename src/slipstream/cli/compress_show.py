"""What `quantize` and `prune` print besides the table of measurements: previews and notes."""

import json
from collections.abc import Sequence
from dataclasses import asdict

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from slipstream.compress.preview import Preview
from slipstream.compress.work import Note


def show_preview(found: Preview, console: Console, as_json: bool) -> None:
    """Every matrix, then the totals; predictions are called so."""
    if as_json:
        print(json.dumps(asdict(found), indent=1))
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("weight", "now", "becomes"):
        table.add_column(heading, no_wrap=True)
    for heading in ("MB", "→ MB"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in found.rows:
        becomes = "as it is" if row.after == row.before else row.after or "goes"
        sizes = (f"{row.bytes_before / 1e6:.2f}", f"{row.bytes_after / 1e6:.2f}")
        table.add_row(row.weight, row.before or "new", becomes, *sizes)
    console.print(table)
    console.print("\n".join(totals(found)), markup=False, highlight=False)


def totals(found: Preview) -> list[str]:
    """Size, speed, memory and time in words."""
    lines = [
        f"Size: {found.bytes_before / 1e6:.1f} MB → {found.bytes_after / 1e6:.1f} MB in memory"
    ]
    if found.speed_before is not None and found.speed_after is not None:
        lines.append(
            f"Predicted decode at best, one stream: {found.speed_before:.0f} → "
            f"{found.speed_after:.0f} tokens/s (roofline of this machine, not measured)"
        )
    lines.append(f"Memory to compress: about {found.memory_bytes / 1e9:.2f} GB")
    if found.seconds is not None and found.seconds > 0:
        lines.append(f"Time to compress: about {max(1, round(found.seconds))} s (estimate)")
    return lines


def show_notes(notes: Sequence[Note], console: Console, most: int = 20) -> None:
    """What was done otherwise than asked."""
    for note in notes[:most]:
        console.print(f"Note: {note.weight}: {note.text}", markup=False, highlight=False)
    if len(notes) > most:
        console.print(f"… and {len(notes) - most} more notes; all are in the manifest.")
