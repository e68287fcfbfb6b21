"""A small file of what was found by timing on this machine: written whole, ignored when damaged.

`backends.tuned` keeps the plans of linears so, `backends.sparse_forms` the forms of pruned ones.
"""

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

VERSION = 1  # of the file, of the plans and of the kernels they choose among
Read = TypeVar("Read")


def read_choices(path: Path, read: Callable[[Any], Read]) -> dict[str, Read] | None:
    """By shape, what `write_choices` wrote there; None when it is missing, damaged or of another
    version. `read` may raise ValueError, KeyError, TypeError or AttributeError.
    """
    try:
        data = json.loads(path.read_text())
        if data["version"] != VERSION:
            return None
        return {str(shape): read(value) for shape, value in data["shapes"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write_choices(path: Path, shapes: Mapping[str, Any]) -> None:
    """Writes plain data by shape, through a renamed neighbor; a read-only folder is no error."""
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps({"version": VERSION, "shapes": shapes}, indent=1))
        part.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
