"""What a model's files hold, as one hash that costs nothing: it must not delay a start.

An artifact's manifest and the stamps of fetched files have SHA-256 hashes already. Other files
count by name, size, time of change and first bytes: a file that is written anew is another one.
"""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from slipstream.checkpoint.artifact import is_artifact, read_manifest
from slipstream.checkpoint.sources_verify import sha256_of, stamped_sha256

ENDINGS = (".safetensors", ".json", ".jinja", ".gguf", ".model", ".txt")
SHARD = re.compile(r"-\d{5}-of-(\d{5})\.gguf$")
FIRST_BYTES = 1 << 16
HASHED_BYTES_MAX = 1 << 20  # smaller files are read whole


def content_of(path: Path) -> str:
    """SHA-256 (hex) for the model at `path`, a file or a folder."""
    digest = hashlib.sha256()
    known = read_manifest(path).get("files", {}) if path.is_dir() and is_artifact(path) else {}
    for file in _files(path):
        entry = known.get(file.name)
        if isinstance(entry, dict) and entry.get("size") == file.stat().st_size:
            mark = str(entry.get("sha256"))
        else:
            mark = stamped_sha256(file) or _mark(file)
        digest.update(f"{file.name if path.is_dir() else ''} {mark}\n".encode())
    return digest.hexdigest()


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from sorted(one for one in path.iterdir() if one.suffix in ENDINGS)
        return
    shard = SHARD.search(path.name)
    if shard is None:
        yield path
        return
    stem = path.name[: shard.start()]
    yield from sorted(path.parent.glob(f"{stem}-*-of-{shard[1]}.gguf"))


def _mark(file: Path) -> str:
    stat = file.stat()
    if stat.st_size <= HASHED_BYTES_MAX:
        return sha256_of(file)
    with file.open("rb") as opened:
        first = hashlib.sha256(opened.read(FIRST_BYTES)).hexdigest()
    return f"{stat.st_size} {stat.st_mtime_ns} {first}"
