"""The options of `slipstream serve` about operating it: who may come in, how much, and how long.

`Operations` holds them as they were given; `server_of` and `address_of` make of them what `serve/`
wants. The HTTP stack is imported by then.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slipstream.errors import MachineError
from slipstream.machine import api_keys

if TYPE_CHECKING:
    from slipstream.serve.admission import AdmissionLimits
    from slipstream.serve.run import Address
    from slipstream.serve.tracing import Tracer


def _option(help_: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=help_, **more)


Queue = Annotated[int, _option("requests that may wait", min=0)]
MaxPrompt = Annotated[int | None, _option("tokens of a prompt", min=1)]
MaxAnswer = Annotated[int | None, _option("tokens of an answer", min=1)]
MaxBody = Annotated[float, _option("MB of a request's body", min=0.001)]
Timeout = Annotated[float | None, _option("seconds for a whole answer", min=0.001)]
DrainTimeout = Annotated[
    float | None, _option("seconds for answers under way after SIGTERM (default: to their end)")
]
Connections = Annotated[int, _option("open at once", min=1)]
Verify = Annotated[bool, _option("run an artifact's stored prompts first", "--verify/--no-verify")]
ApiKeys = Annotated[
    Path | None,
    _option("file of name:key[:limits] lines, read again on SIGHUP; or SLIPSTREAM_API_KEYS"),
]
Rpm = Annotated[int | None, _option("requests a minute of each key", min=1)]
Tpm = Annotated[int | None, _option("tokens a minute of each key", min=1)]
Concurrent = Annotated[int | None, _option("requests at once of each key", min=1)]
Cors = Annotated[list[str] | None, _option("an origin whose pages may ask (repeatable; * for all)")]
Uds = Annotated[Path | None, _option("a Unix socket instead of host and port")]
TlsCert = Annotated[Path | None, _option("certificate chain, PEM")]
TlsKey = Annotated[Path | None, _option("its private key, PEM")]
Otlp = Annotated[str | None, _option("send traces there: http://HOST:4318/v1/traces")]
State = Annotated[
    Path | None, _option("a folder for what outlives the process: files, batches, responses")
]
LogPrompts = Annotated[bool, _option("log the text of prompts, too", "--log-prompts")]


@dataclass(frozen=True)
class Operations:
    """The options, as given."""

    queue: int
    max_prompt: int | None
    max_answer: int | None
    max_body: float
    timeout: float | None
    connections: int
    api_keys: Path | None
    rpm: int | None
    tpm: int | None
    concurrent: int | None
    cors: list[str] | None
    otlp: str | None
    log_prompts: bool


def limits_of(given: Operations) -> "AdmissionLimits":
    """What the server accepts."""
    rates = import_module("slipstream.serve.rates")
    limits: Callable[..., AdmissionLimits] = import_module(
        "slipstream.serve.admission"
    ).AdmissionLimits
    return limits(
        queue=given.queue,
        body_bytes=int(given.max_body * 2**20),
        max_prompt_tokens=given.max_prompt,
        max_answer_tokens=given.max_answer,
        timeout_s=given.timeout,
        connections=given.connections,
        log_prompts=given.log_prompts,
        accounts=rates.Accounts(rates.AccountLimits(given.rpm, given.tpm, given.concurrent)),
    )


def doors_of(given: Operations, limits: "AdmissionLimits") -> dict[str, Any]:
    """Keyring, origins and tracer: the keywords of `serve.server.Server`."""
    keys = import_module("slipstream.serve.keys")
    return {
        "keyring": keys.KeyRing(limits.accounts, file=given.api_keys, text=api_keys()),
        "cors_origins": tuple(given.cors or ()),
        "tracer": _tracer(given.otlp) if given.otlp else None,
    }


def address_of(
    host: str, port: int, uds: Path | None, cert: Path | None, key: Path | None
) -> "Address":
    """Where to listen. MachineError: one of certificate and key without the other."""
    if (cert is None) != (key is None):
        raise MachineError("TLS needs both --tls-cert and --tls-key")
    address: Callable[..., Address] = import_module("slipstream.serve.run").Address
    return address(host, port, uds, cert, key)


def _tracer(endpoint: str) -> "Tracer":
    try:
        made: Tracer = import_module("slipstream.serve.otel").tracer_to(endpoint)
    except ImportError as error:
        raise MachineError(
            f"--otlp needs OpenTelemetry: pip install 'slipstream[otel]' ({error})"
        ) from error
    return made
