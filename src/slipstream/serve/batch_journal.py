"""What a batch has done so far, on disk: a killed run goes on from here.

One JSON object a line. The first says whose journal it is; each other one is the result of an
input line. Lines are appended whole, and flushed to the disk now and then (`sync`). Whatever
follows the last whole line, and whatever does not parse, was torn by a crash and is cut off; those
requests are computed again.

    {"journal": 1, "input": "<SHA-256>", "model": "…"}
    {"line": 17, "result": {"id": …, "custom_id": …, "response": …, "error": null}}
"""

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

from slipstream.errors import SourceError

Result = dict[str, Any]
Wanted = Callable[[Result], bool]


class Journal:
    """The results of one batch by input line (from 0). One process at a time may have it open."""

    def __init__(self, path: Path, owner: dict[str, Any]) -> None:
        """Opens or begins the journal of `owner`, a small JSON object that a resumed run repeats.

        SourceError: it is another's journal, another process has it, or it cannot be written.
        """
        self.path = path
        self._places: dict[int, tuple[int, int]] = {}  # line → (offset, size) of its record
        self._owner = {"journal": 1, **owner}
        self._syncing = Lock()  # a thread that was left behind may still be at it
        try:
            self._file: BinaryIO = path.open("a+b", buffering=0)
        except OSError as error:
            raise SourceError(f"{path} cannot be written: {error.strerror}") from error
        try:
            self._lock()
            self._recover()
        except BaseException:
            self._file.close()
            raise

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, line: int) -> bool:
        return line in self._places

    def add(self, line: int, result: Result) -> None:
        """Appends a result; each line has one."""
        assert line not in self._places, "a line is answered once"
        self._append(line, {"line": line, "result": result})

    def get(self, line: int) -> Result:
        """Reads a result back; KeyError if there is none yet."""
        offset, size = self._places[line]
        record = json.loads(os.pread(self._file.fileno(), size, offset))
        result: Result = record["result"]
        return result

    def sync(self) -> None:
        """Returns when everything is on the disk; any thread may call it."""
        with self._syncing:
            if not self._file.closed:
                os.fsync(self._file.fileno())

    def write(self, path: Path, wanted: Wanted = lambda result: True) -> int:
        """Writes the wanted results in the order of the input, whole or not at all; how many."""
        count = 0
        draft = path.with_name(path.name + ".draft")
        with draft.open("wb") as file:
            for line in sorted(self._places):
                result = self.get(line)
                if wanted(result):
                    file.write(_encoded(result))
                    count += 1
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
        _sync_folder(path.parent)
        return count

    def close(self) -> None:
        """Lets go of the file, which stays."""
        with self._syncing:
            self._file.close()

    def remove(self) -> None:
        """Deletes the file: its results are somewhere else now."""
        self.path.unlink(missing_ok=True)
        self.close()

    def _append(self, line: int | None, record: dict[str, Any]) -> None:
        data = _encoded(record)
        offset = os.lseek(self._file.fileno(), 0, os.SEEK_END)
        view = memoryview(data)
        while view:
            view = view[os.write(self._file.fileno(), view) :]
        if line is not None:
            self._places[line] = (offset, len(data))

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise SourceError(f"another process is writing {self.path}; wait for it") from error

    def _recover(self) -> None:
        self._file.seek(0)
        end = 0
        with open(self._file.fileno(), "rb", closefd=False) as reader:
            for number, data in enumerate(reader):
                record = _record(data)
                if record is None:
                    break  # torn: this and what follows
                if number == 0:
                    self._check_owner(record)
                elif not self._note(record, end, len(data)):
                    break
                end += len(data)
        self._file.truncate(end)
        if end == 0:
            self._append(None, self._owner)
            self.sync()
            _sync_folder(self.path.parent)

    def _note(self, record: dict[str, Any], offset: int, size: int) -> bool:
        line = record.get("line")
        if type(line) is not int or line < 0 or not isinstance(record.get("result"), dict):
            return False
        self._places[line] = (offset, size)
        return True

    def _check_owner(self, record: dict[str, Any]) -> None:
        if record != self._owner:
            raise SourceError(
                f"{self.path} belongs to another run (its input or its model differ); delete it, "
                "or write to another file"
            )


def _record(data: bytes) -> dict[str, Any] | None:
    """The record of a whole line; None for one that a crash has torn."""
    if not data.endswith(b"\n"):
        return None
    try:
        record = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _encoded(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
