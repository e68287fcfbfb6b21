"""Batch files: the lines of an input, checked and found again, and the lines of an output.

Both shapes are OpenAI's. `read_lines` looks at every line once and keeps only ids and places, so
that a file may be larger than memory; what is wrong with a file is told line by line.

    in   {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {…}}
    out  {"id": "batch_req_…", "custom_id": "a", "response": {"status_code": 200, …}, "error": null}
"""

import hashlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from slipstream.errors import BatchFileError, SourceError

URLS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
LINE_BYTES = 8 << 20
FAULTS_TOLD = 20  # of a file that has many


class Line(BaseModel):
    """One request of a batch."""

    model_config = ConfigDict(extra="forbid", strict=True, defer_build=True)

    custom_id: str = Field(min_length=1, max_length=512)
    method: str
    url: str
    body: dict[str, Any]


@dataclass(frozen=True)
class Fault:
    """What is wrong with a line; lines count from 1."""

    line: int
    code: str
    message: str


@dataclass
class BatchLines:
    """Where the lines of a checked file are. `digest` is the SHA-256 of the whole file."""

    path: Path
    ids: list[str] = field(default_factory=list)
    offsets: "array[int]" = field(default_factory=lambda: array("q"))
    digest: str = ""
    model: str | None = None  # the one that all lines name; None: several, or none

    def __len__(self) -> int:
        return len(self.ids)

    def line(self, index: int) -> Line:
        """Reads a line again; `index` counts from 0."""
        with self.path.open("rb") as file:
            file.seek(self.offsets[index])
            return Line.model_validate(from_json(file.readline()))


def read_lines(path: Path, *, most: int | None = None, url: str | None = None) -> BatchLines:
    """Checks a whole input. BatchFileError lists its faults.

    `most` lines are allowed, and only requests to `url` (None: to any that a batch may have).
    What is inside the bodies is checked when they are answered.
    """
    lines, faults = BatchLines(path), []
    models: set[Any] = set()
    seen: dict[str, int] = {}
    try:
        file = path.open("rb")
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from error
    with file:
        digest = hashlib.sha256()
        for number, offset, text in _texts(file, digest):
            one = _checked(text, number, url)
            if isinstance(one, Line) and one.custom_id in seen:
                first = seen[one.custom_id]
                one = Fault(number, "duplicate_custom_id", f"custom_id of line {first} again")
            if isinstance(one, Fault):
                faults.append(one)
                if len(faults) == FAULTS_TOLD:
                    break
                continue
            seen[one.custom_id] = number
            lines.ids.append(one.custom_id)
            lines.offsets.append(offset)
            named = one.body.get("model")
            models.add(named if isinstance(named, str) else None)
            if most is not None and len(lines) > most:
                faults.append(Fault(number, "too_many_tasks", f"more than {most} requests"))
                break
    if not lines.ids and not faults:
        faults.append(Fault(1, "empty_file", "the file has no requests"))
    if faults:
        raise BatchFileError(_told(path, faults), faults)
    lines.digest = digest.hexdigest()
    lines.model = models.pop() if len(models) == 1 else None
    return lines


def result(line: Line, index: int, status: int, request_id: str, body: Any) -> dict[str, Any]:
    """The output line of a request that was answered, or refused in words."""
    return {
        "id": _result_id(line.custom_id, index),
        "custom_id": line.custom_id,
        "response": {"status_code": status, "request_id": request_id, "body": body},
        "error": None,
    }


def unanswered(custom_id: str, index: int, code: str, message: str) -> dict[str, Any]:
    """The output line of a request that never was."""
    return {
        "id": _result_id(custom_id, index),
        "custom_id": custom_id,
        "response": None,
        "error": {"code": code, "message": message},
    }


def succeeded(output: dict[str, Any]) -> bool:
    """Whether an output line holds an answer."""
    response = output.get("response")
    return isinstance(response, dict) and response.get("status_code") == 200


def _result_id(custom_id: str, index: int) -> str:
    digest = hashlib.sha256(f"{index} {custom_id}".encode("utf-8", "surrogatepass"))
    return f"batch_req_{digest.hexdigest()[:32]}"


def _texts(file: BinaryIO, digest: Any) -> Iterator[tuple[int, int, bytes]]:
    """(number, offset, text) of each line that is not blank."""
    number = offset = 0
    while text := file.readline(LINE_BYTES + 1):
        number += 1
        digest.update(text)
        if text.strip():
            yield number, offset, text
        offset += len(text)


def _checked(text: bytes, number: int, url: str | None) -> Line | Fault:
    if len(text) > LINE_BYTES:
        return Fault(number, "line_too_long", f"longer than {LINE_BYTES >> 20} MiB")
    try:
        content = from_json(text, allow_inf_nan=False)
    except ValueError as error:
        return Fault(number, "invalid_json_line", f"not valid JSON: {error}")
    try:
        line = Line.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the line"
        return Fault(number, "invalid_line", f"{where}: {first['msg']}")
    if line.method != "POST":
        return Fault(number, "invalid_method", f"method must be POST, not {line.method[:20]!r}")
    if line.url not in ((url,) if url else URLS):
        allowed = url or ", ".join(URLS)
        return Fault(number, "invalid_url", f"url must be {allowed}, not {line.url[:60]!r}")
    return line


def _told(path: Path, faults: list[Fault]) -> str:
    told = "; ".join(f"line {fault.line}: {fault.message}" for fault in faults[:5])
    more = "" if len(faults) <= 5 else f"; and {len(faults) - 5} more or further ones"
    return f"{path.name} is no batch that can be run: {told}{more}"
