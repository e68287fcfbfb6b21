"""Responses that may be continued or read again: a bounded store, least recently used goes first.

In memory; with a folder, also on disk, so that they outlive the server. A response belongs to the
account that asked for it: for others it does not exist.
"""

import json
import logging
import re
from collections import OrderedDict
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic_core import to_json

from slipstream.errors import RequestError
from slipstream.serve.replies import Json

log = logging.getLogger("slipstream.serve")

COUNT_MAX = 1024
BYTES_MAX = 64 * 2**20
NAME = re.compile(r"resp_[0-9a-f]{32}")


@dataclass(frozen=True)
class Stored:
    """A response, the items that went before its output, and whose it is."""

    account: str
    response: Json
    items: list[Json]  # of the whole conversation up to the response's own output


class ResponseNotFound(RequestError):
    """No such response, or not of this account, or forgotten."""

    http_status = 404


class ResponseStore:
    """At most `count` responses of `size_bytes` together; `folder` keeps as many on disk."""

    def __init__(
        self, folder: Path | None = None, *, count: int = COUNT_MAX, size_bytes: int = BYTES_MAX
    ) -> None:
        self._folder = folder
        self._count = count
        self._size_bytes = size_bytes
        self._entries: OrderedDict[str, bytes] = OrderedDict()
        self._held_bytes = 0
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self._read(folder)

    def put(self, stored: Stored) -> None:
        """Keeps a response; others may have to go."""
        name, text = stored.response["id"], to_json(asdict(stored))
        if self._folder is not None:
            unfinished = self._folder / f"{name}.part"
            unfinished.write_bytes(text)
            unfinished.replace(self._folder / f"{name}.json")
        self._insert(name, text)

    def get(self, name: str, account: str) -> Stored:
        """The response called `name`. ResponseNotFound without one."""
        text = self._entries.get(name)
        stored = None if text is None else Stored(**json.loads(text))
        if stored is None or stored.account != account:
            raise ResponseNotFound(
                f"there is no response '{name[:64]}' here: it was not stored, was deleted, or "
                "made room for newer ones"
            )
        self._entries.move_to_end(name)
        return stored

    def delete(self, name: str, account: str) -> None:
        """Forgets a response. ResponseNotFound without one."""
        self.get(name, account)
        self._drop(name)

    def check(self) -> None:
        """Asserts that the books balance."""
        assert self._held_bytes == sum(len(text) for text in self._entries.values())
        assert len(self._entries) <= self._count and self._held_bytes <= self._size_bytes

    def _read(self, folder: Path) -> None:
        """What an earlier server left, oldest first; damaged files are left alone."""
        for path in sorted(folder.glob("resp_*.json"), key=lambda one: one.stat().st_mtime):
            text = path.read_bytes()
            try:
                whole = NAME.fullmatch(path.stem) and Stored(**json.loads(text))
            except (ValueError, TypeError, RecursionError):
                whole = None
            if whole:
                self._insert(path.stem, text)
            else:
                log.warning("%s is no response; it is left as it is", path)

    def _insert(self, name: str, text: bytes) -> None:
        self._entries[name] = text
        self._held_bytes += len(text)
        while len(self._entries) > self._count or self._held_bytes > self._size_bytes:
            self._drop(next(iter(self._entries)))

    def _drop(self, name: str) -> None:
        self._held_bytes -= len(self._entries.pop(name))
        if self._folder is not None:
            (self._folder / f"{name}.json").unlink(missing_ok=True)
