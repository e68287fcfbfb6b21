"""Reads the body of a request, within bounds: bytes, time, syntax, depth.

Routes call `read_json` (through `admission`) before anything else; `read_body` is for bodies that
are not JSON. What is out of bounds is refused with the reason.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol

from pydantic_core import from_json
from starlette.exceptions import HTTPException
from starlette.requests import Request

from slipstream.errors import RequestError


class BodyLimits(Protocol):
    """The part of `AdmissionLimits` that is about bodies."""

    @property
    def body_bytes(self) -> int: ...  # noqa: D102

    @property
    def body_timeout_s(self) -> float: ...  # noqa: D102

    @property
    def json_depth(self) -> int: ...  # noqa: D102


async def read_json(request: Request, limits: BodyLimits) -> dict[str, Any]:
    """The body as a JSON object. Refuses with a reason: type, size, time, syntax, depth."""
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip()
    if kind.lower() != "application/json":
        raise HTTPException(415, f"send application/json, not {kind[:80]}")
    body = await read_body(request, limits)
    try:
        content = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise RequestError(f"the body is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise RequestError("the body must be a JSON object")
    if _deeper_than(content, limits.json_depth):
        raise RequestError(f"the body is nested deeper than {limits.json_depth} levels")
    return content


async def read_body(request: Request, limits: BodyLimits, most: int | None = None) -> bytes:
    """The body, of at most `most` bytes (None: as usual), if it arrives in time."""
    most = limits.body_bytes if most is None else most
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared[:20]) > most:
        raise _too_large(most)
    try:
        async with asyncio.timeout(limits.body_timeout_s):
            return await _read(request, most)
    except TimeoutError as error:
        raise HTTPException(
            408, f"the body did not arrive within {limits.body_timeout_s:g} seconds"
        ) from error


async def _read(request: Request, most: int) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > most:
            raise _too_large(most)
    return bytes(body)


def _too_large(most: int) -> HTTPException:
    return HTTPException(413, f"the body may have at most {most} bytes")


def _deeper_than(content: Any, depth: int) -> bool:
    """Whether lists and objects nest deeper than `depth`, level by level."""
    level = [content]
    for _ in range(depth):
        containers = [item for item in level if isinstance(item, (list, Mapping))]
        if not containers:
            return False
        level = [
            child
            for item in containers
            for child in (item.values() if isinstance(item, Mapping) else item)
        ]
    return any(isinstance(item, (list, Mapping)) for item in level)
