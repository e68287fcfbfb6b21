"""What makes two requests the same: the key under which an answer is kept and shared.

An answer is a function of the model's bits, the prompt's ids and the sampling, so these are hashed
and nothing else: not who asks, how urgently, or in which shape the reply goes out.
"""

import hashlib
import json
from array import array
from dataclasses import fields, is_dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

from slipstream import __version__
from slipstream.engine.options import Settings
from slipstream.engine.request import Request, SamplingParams

SCHEMA = 1  # of the hashed text and of the kept deltas; raise it when either changes

# Said by other fields of the request, or (n) by there being several requests.
SAID_ELSEWHERE = frozenset({"seed", "n", "max_tokens", "stop_ids"})


def is_deterministic(params: SamplingParams) -> bool:
    """Whether asking again must give the same answer: greedy, or drawn with the client's seed."""
    return params.temperature == 0 or params.seed is not None


def key_of(model: str, request: Request, adapter: str = "") -> str:
    """The key (64 hex digits) of a deterministic request.

    `model` and `adapter` say whose bits compute it: `model_identity`, and a hash of the adapter's
    content. Parameters are normalized: a greedy request has no seed.
    """
    asked = {
        "model": model,
        "adapter": adapter,
        "seed": request.seed if request.params.temperature > 0 else None,
        "max_tokens": request.max_tokens,
        "stop_ids": sorted(request.stop_ids),
        "params": _params(request.params),
    }
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode())
    digest.update(array("Q", request.prompt_ids).tobytes())
    return digest.hexdigest()


def model_identity(content: str, settings: Settings) -> str:
    """Everything but the request that an answer's bits depend on.

    `content` is a hash of the model's files. Threads, batch, chunks and instruction set are not
    here: they change no bit.
    """
    parts = (SCHEMA, __version__, _kernels(), content, settings.backend, settings.activations)
    return "/".join(map(str, (*parts, settings.kv_dtype)))


@cache
def _kernels() -> str:
    """A hash of the native module: between two versions, who builds it may change its bits."""
    spec = find_spec("slipstream._native")
    if spec is None or spec.origin is None:
        return ""
    with open(spec.origin, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _params(params: SamplingParams) -> dict[str, Any]:
    """All fields of the parameters, also those yet to be invented, as JSON has them."""
    names = (field.name for field in fields(params) if field.name not in SAID_ELSEWHERE)
    return {name: _plain(getattr(params, name)) for name in names}


def _plain(value: Any) -> Any:
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
