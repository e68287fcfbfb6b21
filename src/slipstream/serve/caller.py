"""Who asks, and how urgently: the account behind an API key, the priority and the patience.

Routes call `caller_of` and hand the `Caller` to `Served.requests`, which puts it into the engine's
requests. The middleware has checked the key and made the request's id by then.
"""

import math
from dataclasses import dataclass

from starlette.requests import Request

from slipstream.errors import RequestError

PRIORITY_MAX = 1000  # either side of 0
TIMEOUT_MAX_S = 86_400.0
TIMEOUT_HEADER = "x-request-timeout"
PRIORITY_HEADER = "x-request-priority"


@dataclass(frozen=True)
class Caller:
    """One request's sender.

    account     the name of its API key, for fair shares and limits; "" where none is needed
    priority    the lower, the earlier it runs
    timeout_s   how long it waits for the whole answer; None: as long as the server lets it
    request_id  in logs, traces and the X-Request-Id header
    """

    account: str = ""
    priority: int = 0
    timeout_s: float | None = None
    request_id: str = ""


def caller_of(
    http: Request, *, priority: int | None = None, timeout_s: float | None = None
) -> Caller:
    """The sender of a request; `priority` and `timeout_s` from its body win over its headers.

    RequestError for a header that is no number, or a value out of range.
    """
    state = http.scope.get("state", {})
    if priority is None:
        priority = int(_number(http, PRIORITY_HEADER, 0))
    if timeout_s is None and TIMEOUT_HEADER in http.headers:
        timeout_s = _number(http, TIMEOUT_HEADER, 0)
    if abs(priority) > PRIORITY_MAX:
        raise RequestError(f"priority must be in {-PRIORITY_MAX}…{PRIORITY_MAX}, not {priority}")
    if timeout_s is not None and not 0 < timeout_s <= TIMEOUT_MAX_S:
        raise RequestError(f"the timeout must be above 0 and at most {TIMEOUT_MAX_S:.0f} seconds")
    return Caller(state.get("account", ""), priority, timeout_s, state.get("request_id", ""))


def _number(http: Request, header: str, missing: float) -> float:
    text = http.headers.get(header)
    if text is None:
        return missing
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise RequestError(f"the header {header} must be a number, not {text[:40]!r}")
    return value
