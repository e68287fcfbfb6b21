"""JSON that a stranger wrote, read within bounds.

The readers of folders and safetensors call this. Whatever is wrong (size, encoding, syntax, depth,
type) is one FileFormatError, or the kind of it that the caller names.
"""

import json
import os
from pathlib import Path
from typing import Any

from slipstream.errors import FileFormatError

LARGEST_JSON = 64 << 20  # the index of the largest models has a few MiB


def parse_object(
    text: bytes, what: str, error: type[FileFormatError] = FileFormatError
) -> dict[str, Any]:
    """The object that `text` holds. Of equal keys the last one counts."""
    try:
        value = json.loads(text.decode("utf-8"))
    except UnicodeDecodeError as cause:
        raise error(f"{what} is not UTF-8 text (at byte {cause.start})") from cause
    except RecursionError as cause:
        raise error(f"{what} is nested too deeply") from cause
    except ValueError as cause:
        raise error(f"{what} is not valid JSON: {cause}") from cause
    if not isinstance(value, dict):
        raise error(f"{what} holds {type(value).__name__}, where an object is expected")
    return value


def read_object(path: Path, error: type[FileFormatError] = FileFormatError) -> dict[str, Any]:
    """The object that a file holds; a file that cannot be read is `error` too."""
    return parse_object(read_bytes(path, error), path.name, error)


def read_text(path: Path, error: type[FileFormatError] = FileFormatError) -> str:
    """A text file, UTF-8, of a size that a config or a template may have."""
    try:
        return read_bytes(path, error).decode("utf-8")
    except UnicodeDecodeError as cause:
        raise error(f"{path.name} is not UTF-8 text (at byte {cause.start})") from cause


def read_bytes(path: Path, error: type[FileFormatError] = FileFormatError) -> bytes:
    """The bytes of a small file."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > LARGEST_JSON:
                raise error(f"{path.name} is larger than {LARGEST_JSON >> 20} MiB: it is no config")
            return file.read(size)
    except OSError as cause:
        raise error(f"{path} cannot be read: {cause.strerror}") from cause
