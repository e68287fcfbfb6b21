"""Whatever goes wrong, in the shape that OpenAI's clients understand.

    {"error": {"message": "…", "type": "invalid_request_error", "param": "top_p", "code": "…"}}

`refusal_of` turns any exception into such a `Refusal`; the app sends it, before or within a stream.
"""

import json
import math
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from slipstream.errors import OverloadedError, PromptTooLongError, SlipstreamError

CODES = {
    400: "invalid_request",
    401: "invalid_api_key",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "body_timeout",
    409: "conflict",
    413: "body_too_large",
    415: "unsupported_media_type",
    429: "rate_limit_exceeded",
    499: "client_closed",
    503: "unavailable",
    504: "timeout",
    507: "insufficient_memory",
}
VALIDATION_CODES = {"missing": "missing_required_parameter", "extra_forbidden": "unknown_parameter"}


class ModelNotFound(HTTPException):
    """A request for a model that this server does not have."""

    def __init__(self, message: str) -> None:
        super().__init__(404, message)


class TimedOut(HTTPException):
    """An answer that was not complete when its time was over."""

    def __init__(self, message: str) -> None:
        super().__init__(504, message)


class Unauthorized(HTTPException):
    """No API key where one is needed, or one that is not known."""

    def __init__(self, message: str) -> None:
        super().__init__(401, message, {"WWW-Authenticate": "Bearer"})


class Forbidden(HTTPException):
    """What nobody may do here."""

    def __init__(self, message: str) -> None:
        super().__init__(403, message)


@dataclass(frozen=True)
class Refusal:
    """An answer that is no: an HTTP status and OpenAI's error object."""

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """The error object."""
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(
            self.status, "invalid_request_error"
        )
        return {
            "error": {
                "message": self.message,
                "type": "server_error" if self.status >= 500 else kind,
                "param": self.param,
                "code": self.code or CODES.get(self.status, "internal_error"),
            }
        }

    def response(self) -> Response:
        """As an HTTP response."""
        content = json.dumps(self.body())
        return Response(content, self.status, self.headers, media_type="application/json")


def refusal_of(error: Exception) -> Refusal:
    """What the client is told about an exception; only errors made for users are quoted."""
    if isinstance(error, ValidationError):
        return _invalid(error.errors(include_url=False, include_context=False))
    if isinstance(error, OverloadedError):
        seconds = max(1, math.ceil(error.retry_after_s))
        return Refusal(429, str(error), headers={"Retry-After": str(seconds)})
    if isinstance(error, PromptTooLongError):
        return Refusal(400, str(error), code="context_length_exceeded")
    if isinstance(error, SlipstreamError):
        return Refusal(error.http_status, str(error))
    if isinstance(error, ModelNotFound):
        return Refusal(404, error.detail, "model", "model_not_found")
    if isinstance(error, ClientDisconnect):
        return Refusal(499, "the client closed the connection before its request had arrived")
    if isinstance(error, HTTPException):
        return Refusal(error.status_code, error.detail, headers=dict(error.headers or {}))
    return Refusal(500, "the server failed on this request; its log says why")


def _invalid(details: list[ErrorDetails]) -> Refusal:
    """The first field that is wrong, as precisely as its errors say.

    `loc` is a path like ("messages", 0, "role"); a field of several types has an error for each.
    """
    field = details[0]["loc"][:1]
    detail = max((d for d in details if d["loc"][:1] == field), key=lambda d: len(d["loc"]))
    param = ".".join(str(part) for part in detail["loc"] if _names_field(part)) or None
    code = VALIDATION_CODES.get(detail["type"], "invalid_value")
    if detail["type"] == "extra_forbidden":
        message = f"Unrecognized request argument supplied: {param}"
    elif detail["type"] == "missing":
        message = f"Missing required parameter: {param}"
    else:
        reason = detail["msg"].removeprefix("Value error, ")
        message = f"{param}: {reason}" if param else reason
    return Refusal(400, message, param, code)


def _names_field(part: str | int) -> bool:
    """Whether a part of an error's path is the client's, not pydantic's name of a branch."""
    return isinstance(part, int) or (part.isidentifier() and part not in ("str", "int"))
