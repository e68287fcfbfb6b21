"""Who is let in: everything that can be refused is refused here, before any work is done.

Bodies are bounded in bytes and depth, the queue in requests, answers in tokens. The app calls
`read_json` first and `Admission.admit` before each submission.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json
from starlette.exceptions import HTTPException
from starlette.requests import Request

from slipstream.engine.service import Service
from slipstream.errors import OverloadedError, RequestError

RETRY_AFTER_MAX_S = 60.0


@dataclass(frozen=True)
class AdmissionLimits:
    """What a server accepts; the model's context bounds prompt and answer together in any case.

    queue              requests that may wait beside those that run
    body_bytes         of a request's body
    json_depth         of nested lists and objects in it
    max_prompt_tokens  None: as many as the context holds
    max_answer_tokens  None: as many as the context holds
    """

    queue: int = 128
    body_bytes: int = 4 * 2**20
    json_depth: int = 32
    max_prompt_tokens: int | None = None
    max_answer_tokens: int | None = None


class Admission:
    """The bounded queue in front of a service."""

    def __init__(self, service: Service, limits: AdmissionLimits) -> None:
        self.service = service
        self.limits = limits
        self._batch = service.engine.settings.limits.max_batch

    def admit(self, count: int = 1) -> None:
        """OverloadedError unless there is room for `count` more requests right now."""
        room = self._batch + self.limits.queue
        open_now = self.service.requests_open
        if open_now + count > room:
            error = OverloadedError(
                f"{open_now} requests are being served or waiting, the limit is {room}; "
                "try again later"
            )
            error.retry_after_s = self.estimated_wait_s()
            raise error

    def estimated_wait_s(self) -> float:
        """How long until a place is likely to be free, from how long requests have been taking."""
        seen = self.service.snapshot()
        rounds = 1 + seen.waiting / self._batch
        return min(RETRY_AFTER_MAX_S, max(1.0, rounds * seen.request_s / self._batch))

    def check_lengths(self, prompt_tokens: int, answer_tokens: int | None) -> None:
        """RequestError when this server's own limits on lengths are exceeded."""
        for what, tokens, most in (
            ("prompt", prompt_tokens, self.limits.max_prompt_tokens),
            ("answer", answer_tokens or 0, self.limits.max_answer_tokens),
        ):
            if most is not None and tokens > most:
                raise RequestError(f"the {what} may have {most} tokens here, not {tokens}")


async def read_json(request: Request, limits: AdmissionLimits) -> dict[str, Any]:
    """The body as a JSON object. Refuses with a reason: type, size, syntax, depth."""
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip()
    if kind.lower() != "application/json":
        raise HTTPException(415, f"send application/json, not {kind}")
    body = await _read(request, limits.body_bytes)
    try:
        content = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise RequestError(f"the body is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise RequestError("the body must be a JSON object")
    if _deeper_than(content, limits.json_depth):
        raise RequestError(f"the body is nested deeper than {limits.json_depth} levels")
    return content


async def _read(request: Request, most: int) -> bytes:
    too_large = HTTPException(413, f"the body may have at most {most} bytes")
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > most:
        raise too_large
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > most:
            raise too_large
    return bytes(body)


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
