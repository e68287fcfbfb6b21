"""A search's results as they come, one JSON object a line: a killed run resumes from here.

Each line is flushed to the disk before the next measurement begins. A last line that was cut short
is dropped; anything else that does not parse means the file is not ours.
"""

import json
import os
from pathlib import Path
from typing import Any

from slipstream.errors import FileFormatError


class Journal:
    """Append-only records by (kind, name); the last of a name counts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._records: dict[tuple[str, str], dict[str, Any]] = {}
        if path.exists():
            self._read()

    def get(self, kind: str, name: str) -> dict[str, Any] | None:
        """The record, or None if it was not measured yet."""
        return self._records.get((kind, name))

    def add(self, kind: str, name: str, data: dict[str, Any]) -> None:
        """Remembers a record, on disk first."""
        line = json.dumps({"kind": kind, "name": name, **data}, allow_nan=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._records[kind, name] = data

    def clear(self) -> None:
        """Forgets everything."""
        self.path.unlink(missing_ok=True)
        self._records.clear()

    def _read(self) -> None:
        text = self.path.read_text(encoding="utf-8", errors="replace")
        whole = text[: text.rfind("\n") + 1]
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                record = json.loads(line)
                key = (record.pop("kind"), record.pop("name"))
            except (ValueError, KeyError, AttributeError, TypeError):
                raise FileFormatError(
                    f"{self.path}, line {number}, is not a record of a search; delete the file"
                ) from None
            self._records[key] = record
        if whole != text:
            self.path.write_text(whole, encoding="utf-8")
