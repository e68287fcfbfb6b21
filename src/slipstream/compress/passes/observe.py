"""Scores of a whole model, taken stage by stage before anything is changed.

Structured pruning decides with the whole model in view, so it walks once only to look.
"""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from slipstream.compress.stream import stream
from slipstream.compress.work import Drive, Edition, Visit


def observe(edition: Edition, drive: Drive, look: Callable[[Visit], None], label: str) -> None:
    """Shows every stage to `look`, which keeps what it sees. Not resumed: it begins anew."""
    folder = drive.folder / "observed"
    shutil.rmtree(folder, ignore_errors=True)

    def visit(visit: Visit) -> None:
        look(visit)
        assert not visit.changed, "observing changes nothing"

    stream(edition, replace(drive, folder=folder), visit, inputs="now", label=label)
    shutil.rmtree(folder, ignore_errors=True)


def remembered(drive: Drive, compute: Callable[[], Any]) -> Any:
    """Plain data that an earlier run of this pass computed, or computed now and kept."""
    path = drive.folder / "scores.json"
    if not path.exists():
        found = compute()
        drive.folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(found))
        os.replace(part, path)
    return json.loads(path.read_text())
