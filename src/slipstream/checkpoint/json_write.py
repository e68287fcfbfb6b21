"""JSON that we write: numbers of numpy as plain ones, never NaN.

The writers of artifacts call this.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """The object as a file of its own."""
    path.write_text(json_text(content) + "\n", encoding="utf-8")


def json_text(content: Mapping[str, Any]) -> str:
    """Indented; ValueError for NaN, TypeError for what JSON does not know."""
    return json.dumps(content, indent=2, ensure_ascii=False, default=_plain, allow_nan=False)


def _plain(value: Any) -> Any:
    """Numbers of numpy, paths and sets, as JSON has them."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be written to JSON")
