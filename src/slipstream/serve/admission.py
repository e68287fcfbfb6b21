"""Who is let in: everything that can be refused is refused here, before any work is done.

The queue is bounded in requests, prompts and answers in tokens, accounts in tokens a minute. Routes
call `Served.let_in` before they tokenize; `answering` holds `places` for what is computed.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from slipstream.engine.request import Request
from slipstream.engine.service import Service
from slipstream.errors import OverloadedError, RequestError
from slipstream.serve.body import read_body, read_json
from slipstream.serve.rates import Accounts

__all__ = ["Admission", "AdmissionLimits", "read_body", "read_json"]

RETRY_AFTER_MAX_S = 60.0


@dataclass(frozen=True)
class AdmissionLimits:
    """What a server accepts; the model's context bounds prompt and answer together in any case.

    queue              requests that may wait beside those that run
    body_bytes         of a request's body
    json_depth         of nested lists and objects in it
    header_bytes       of a request's line and headers
    max_prompt_tokens  None: as many as the context holds
    max_answer_tokens  None: as many as the context holds
    timeout_s          from a request's arrival to the end of its answer; None: none
    header_timeout_s   for a request's line and headers to arrive
    body_timeout_s     for its body to arrive
    write_timeout_s    for a client to read something of what it was sent
    connections        open at once
    log_prompts        whether logs may have the text of prompts
    accounts           what each caller may use
    """

    queue: int = 128
    body_bytes: int = 4 * 2**20
    json_depth: int = 32
    header_bytes: int = 64 * 2**10
    max_prompt_tokens: int | None = None
    max_answer_tokens: int | None = None
    timeout_s: float | None = None
    header_timeout_s: float = 10.0
    body_timeout_s: float = 30.0
    write_timeout_s: float = 30.0
    connections: int = 1024
    log_prompts: bool = False
    accounts: Accounts = field(default_factory=Accounts)


class Admission:
    """The bounded queue in front of a service."""

    def __init__(self, service: Service, limits: AdmissionLimits) -> None:
        self.service = service
        self.limits = limits
        self._batch = service.engine.settings.limits.max_batch
        self._room = self._batch + limits.queue

    def check_count(self, count: int) -> None:
        """RequestError for more answers at once than there is ever room for."""
        room = self._room
        if count > room:
            raise RequestError(f"a request may ask for {room} answers at once here, not {count}")

    def admit(self, count: int = 1) -> None:
        """OverloadedError unless there is room for `count` more requests right now."""
        self.check_count(count)
        room, open_now = self._room, self.service.requests_open
        if open_now + count > room:
            error = OverloadedError(
                f"{open_now} requests are being served or waiting, the limit is {room}; "
                "try again later"
            )
            error.retry_after_s = self.estimated_wait_s()
            raise error

    @contextmanager
    def places(self, requests: Sequence[Request]) -> Iterator[None]:
        """Room for `requests`, whose prompts count against their accounts from now on."""
        self.admit(len(requests))
        for request in requests:
            self.limits.accounts.of(request.key).check_tokens(len(request.prompt_ids))
        for request in requests:
            if request.leader is None:  # siblings share its prompt
                self.spend(request, len(request.prompt_ids))
        yield

    def spend(self, request: Request, tokens: int) -> None:
        """Counts tokens of an answer against the account of its request."""
        self.limits.accounts.of(request.key).spend_tokens(tokens)

    def counts_tokens(self, request: Request) -> bool:
        """Whether the account of a request may use so many tokens a minute only."""
        return self.limits.accounts.of(request.key).limits.tpm is not None

    def estimated_wait_s(self) -> float:
        """How long until a place is likely to be free, from how long requests have been taking."""
        seen = self.service.snapshot()
        rounds = 1 + seen.waiting / self._batch
        return min(RETRY_AFTER_MAX_S, max(1.0, rounds * seen.request_s / self._batch))

    def timeout_s(self, asked_s: float | None) -> float | None:
        """How long a request may take: what it asks for, within what the server allows."""
        return min((one for one in (asked_s, self.limits.timeout_s) if one), default=None)

    def priority(self, account: str, asked: int) -> int:
        """What a request runs with: nobody gets ahead of what its account may ask for."""
        return max(asked, self.limits.accounts.of(account).limits.priority) if account else asked

    def bounded(self, request: Request) -> Request:
        """`request`, its answer no longer than allowed. RequestError: it asks for too much."""
        asked = request.params.max_tokens
        for what, tokens, most in (
            ("prompt", len(request.prompt_ids), self.limits.max_prompt_tokens),
            ("answer", asked or 0, self.limits.max_answer_tokens),
        ):
            if most is not None and tokens > most:
                raise RequestError(f"the {what} may have {most} tokens here, not {tokens}")
        most = self.limits.max_answer_tokens
        if most is not None and request.max_tokens > most:
            return replace(request, max_tokens=most)
        return request
