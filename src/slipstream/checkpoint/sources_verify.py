"""Hashes and stamps: how a fetched file is known to be whole, now and on the next run.

A file is hashed once, when it arrives. Its stamp (``NAME.stamp.json``, beside it) then records
size, modification time and SHA-256, so that the next run needs one `stat` instead of reading
everything again. Without a valid stamp a file is never trusted.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

CHUNK_BYTES = 1 << 20

Advance = Callable[[int], None]


def sha256_of(path: Path, advance: Advance | None = None) -> str:
    """SHA-256 (hex) of a file; `advance` is told the number of bytes read so far."""
    digest = hashlib.sha256()
    done = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            done += len(chunk)
            if advance:
                advance(done)
    return digest.hexdigest()


def stamp_path(path: Path) -> Path:
    """Where the stamp of `path` lies."""
    return path.with_name(path.name + ".stamp.json")


def write_stamp(path: Path, sha256: str) -> None:
    """Record that `path`, as it is now, has this hash."""
    stat = path.stat()
    record = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": sha256}
    write_text_atomically(stamp_path(path), json.dumps(record))


def stamped_sha256(path: Path) -> str | None:
    """The hash recorded for `path`, or None where it has changed since or was never recorded."""
    try:
        record = json.loads(stamp_path(path).read_text("utf-8"))
        stat = path.stat()
        unchanged = (record["size"], record["mtime_ns"]) == (stat.st_size, stat.st_mtime_ns)
        return str(record["sha256"]) if unchanged else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_text_atomically(path: Path, text: str) -> None:
    """Write `text` so that a reader sees the old file or the whole new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
