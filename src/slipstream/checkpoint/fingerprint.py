"""A quick identity of a checkpoint's content, for caches that can be made again.

`Checkpoint.identity` reads every byte, a second for each gigabyte or two; this reads a few hundred
kilobytes. An artifact's manifest holds the hashes of its files, so its own hash, their sizes and
samples of them name the content wherever it is copied to. Other files are named by size, time of
change, inode and samples: a copy counts as another model, and only a change in place that keeps
size and time and misses every sample would go unseen.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from slipstream.checkpoint.artifact import MANIFEST, is_artifact
from slipstream.checkpoint.checkpoint import Checkpoint

SAMPLES = 64
SAMPLE_BYTES = 4096


def quick_identity(checkpoint: Checkpoint) -> str:
    """Hex digits, equal only for equal content. OSError if a file has gone."""
    digest = hashlib.sha256()
    folder = checkpoint.path
    known = folder.is_dir() and is_artifact(folder)
    if known:
        digest.update((folder / MANIFEST).read_bytes())
    for path in checkpoint.files():
        for fact in _facts(path, known):
            digest.update(fact)
    return digest.hexdigest()


def _facts(path: Path, hashed: bool) -> Iterator[bytes]:
    """What a file is told by; `hashed`: its content's hash is known besides."""
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        yield f"\n{path.name} {status.st_size}".encode()
        if not hashed:
            yield f" {status.st_mtime_ns} {status.st_dev} {status.st_ino}".encode()
        yield from _samples(file, status.st_size)


def _samples(file: BinaryIO, size: int) -> Iterator[bytes]:
    """Pieces spread evenly, the first and the last bytes among them."""
    last = max(0, size - SAMPLE_BYTES)
    for place in sorted({last * i // (SAMPLES - 1) for i in range(SAMPLES)}):
        file.seek(place)
        yield file.read(SAMPLE_BYTES)
