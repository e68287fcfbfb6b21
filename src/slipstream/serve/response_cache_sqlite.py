"""The response cache in an SQLite file: bounded in bytes, least recently used goes first.

The file is opened by the first request, on a thread of its own; it survives kill -9 (a write-ahead
log), several servers may share it, and a damaged one is set aside with a warning.
"""

import asyncio
import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from slipstream.errors import UnsupportedError

log = logging.getLogger("slipstream.cache")

Result = TypeVar("Result")

APPLICATION = 0x536C6970  # "Slip": how SQLite files say whose they are
LAYOUT = 1
BUSY_S = 1.0  # how long to wait for another server that writes
TOUCH_S = 10.0  # an entry's last use is written no more often
EVICT_AT_ONCE = 32
DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})

TABLES = (
    "DROP TABLE IF EXISTS responses",
    "CREATE TABLE responses (key TEXT PRIMARY KEY, value BLOB NOT NULL, used_s REAL NOT NULL, "
    "expires_s REAL)",
    "CREATE INDEX responses_used ON responses (used_s)",
    "CREATE INDEX responses_expires ON responses (expires_s)",
    f"PRAGMA application_id = {APPLICATION}",
    f"PRAGMA user_version = {LAYOUT}",
)


class SQLiteStore:
    """Bytes by key in the file at `path`, at most `limit_bytes` of them with all overhead.

    `ttl_s` (None: for ever) counts from when a value was put. `clock` gives seconds since 1970.
    """

    def __init__(
        self,
        path: Path,
        *,
        limit_bytes: int,
        ttl_s: float | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path = path
        self._limit_bytes = limit_bytes
        self._ttl_s = ttl_s
        self._clock = clock
        self._file: sqlite3.Connection | None = None
        self._size_bytes = 0
        self._thread = ThreadPoolExecutor(1, "response-cache")

    @property
    def size_bytes(self) -> int:
        """Bytes in use when last looked at; 0 before the first use."""
        return self._size_bytes

    async def get(self, key: str) -> bytes | None:
        """The value, if there is one that has not expired; it counts as used now."""
        return await self._run(lambda file: self._get(file, key))

    async def put(self, key: str, value: bytes) -> None:
        """Keeps a value, and makes room for it first. One that is too large is passed over."""
        if len(value) < self._limit_bytes // 4:
            await self._run(lambda file: self._put(file, key, value))

    async def close(self) -> None:
        """Finishes writing and closes the file."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown()

    # On the thread.

    async def _run(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._work, work)

    def _work(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        try:
            return work(self._opened())
        except sqlite3.DatabaseError as error:
            if (getattr(error, "sqlite_errorcode", 0) & 0xFF) not in DAMAGED:
                raise
            self._set_aside(error)
            return work(self._opened())

    def _get(self, file: sqlite3.Connection, key: str) -> bytes | None:
        now = self._clock()
        query = "SELECT value, used_s, expires_s FROM responses WHERE key = ?"
        row = file.execute(query, (key,)).fetchone()
        if row is None or (row[2] is not None and row[2] <= now):
            return None
        if now - row[1] >= TOUCH_S:
            file.execute("UPDATE responses SET used_s = ? WHERE key = ?", (now, key))
        return bytes(row[0])

    def _put(self, file: sqlite3.Connection, key: str, value: bytes) -> None:
        now = self._clock()
        expires = None if self._ttl_s is None else now + self._ttl_s
        with _transaction(file):
            file.execute("DELETE FROM responses WHERE expires_s <= ?", (now,))
            file.execute(
                "INSERT OR REPLACE INTO responses VALUES (?, ?, ?, ?)", (key, value, now, expires)
            )
            self._make_room(file)

    def _make_room(self, file: sqlite3.Connection) -> None:
        """Forgets those least recently used until the limit holds."""
        oldest = f"SELECT key FROM responses ORDER BY used_s LIMIT {EVICT_AT_ONCE}"
        while (size := _bytes_in_use(file)) > self._limit_bytes:
            if not file.execute(f"DELETE FROM responses WHERE key IN ({oldest})").rowcount:
                break
        self._size_bytes = size

    def _opened(self) -> sqlite3.Connection:
        if self._file is None:
            self._file = self._open()
        return self._file

    def _open(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))  # answers are private
        file = sqlite3.connect(
            self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
        )
        try:
            self._prepare(file)
        except BaseException:
            file.close()
            raise
        return file

    def _prepare(self, file: sqlite3.Connection) -> None:
        if not _pragma(file, "page_count"):
            file.execute("PRAGMA auto_vacuum = INCREMENTAL")
        with _transaction(file):  # two servers may begin at once
            self._claim(file)
        with contextlib.suppress(sqlite3.OperationalError):  # the other one is doing it
            file.execute("PRAGMA journal_mode = WAL")
        file.execute("PRAGMA synchronous = NORMAL")
        file.execute("PRAGMA journal_size_limit = 4194304")
        with _transaction(file):
            file.execute("DELETE FROM responses WHERE expires_s <= ?", (self._clock(),))
            self._make_room(file)
        file.executescript("PRAGMA incremental_vacuum")  # a single step frees a single page

    def _claim(self, file: sqlite3.Connection) -> None:
        """Makes the table, unless it is there. UnsupportedError: the file is somebody else's."""
        (tables,) = file.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables and _pragma(file, "application_id") != APPLICATION:
            raise UnsupportedError(
                f"{self.path} is another program's database; choose another --response-cache"
            )
        if not tables or _pragma(file, "user_version") != LAYOUT:
            for statement in TABLES:
                file.execute(statement)

    def _set_aside(self, error: sqlite3.DatabaseError) -> None:
        """Moves a damaged file out of the way: nothing is deleted, and a new one is begun."""
        self._close()
        aside = self.path.with_name(f"{self.path.name}.damaged-{int(time.time())}")
        for ending in ("", "-wal", "-shm"):
            part = self.path.with_name(self.path.name + ending)
            if part.exists():
                part.rename(f"{aside}{ending}")
        log.warning(
            "the response cache %s is damaged (%s); it is now %s, a new one is begun",
            self.path,
            error,
            aside.name,
        )

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class _transaction:
    """All or nothing, and one write of the log."""

    def __init__(self, file: sqlite3.Connection) -> None:
        self._file = file

    def __enter__(self) -> None:
        self._file.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._file.execute("COMMIT" if kind is None else "ROLLBACK")


def _bytes_in_use(file: sqlite3.Connection) -> int:
    """Of the file, free pages not counted: they are used again before it grows."""
    pages = _pragma(file, "page_count") - _pragma(file, "freelist_count")
    return pages * _pragma(file, "page_size")


def _pragma(file: sqlite3.Connection, name: str) -> int:
    return int(file.execute(f"PRAGMA {name}").fetchone()[0])
