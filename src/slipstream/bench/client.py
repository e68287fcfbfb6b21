"""The client that puts load on a server, ours or another's: OpenAI's API, streamed.

Times are taken when bytes arrive. `httpx` does the HTTP; it runs in this process, so on a small
machine client and server share the cores, for every server alike.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import httpx

from slipstream.bench.load import Call, Seen

TIMEOUT_S = 600.0
DONE = "[DONE]"


@dataclass(frozen=True)
class Target:
    """A server: its base URL (with ``/v1``), the model's name, fields added to each body."""

    url: str
    model: str
    extra: Mapping[str, Any] = field(default_factory=dict)
    api_key: str | None = None


def run_load(
    target: Target,
    calls: Sequence[Call],
    concurrency: int,
    on_end: Callable[[Seen], None] = lambda seen: None,
) -> list[Seen]:
    """Makes all calls, at most `concurrency` at once; calls with an arrival wait for it.

    What a server refuses or breaks off is told in `Seen.error`; nothing is raised for it.
    """
    return asyncio.run(_run(target, calls, concurrency, on_end))


async def _run(
    target: Target, calls: Sequence[Call], concurrency: int, on_end: Callable[[Seen], None]
) -> list[Seen]:
    places = asyncio.Semaphore(concurrency)
    limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    headers = {"Cache-Control": "no-store"}  # what is measured is computed
    if target.api_key:
        headers["Authorization"] = f"Bearer {target.api_key}"
    async with httpx.AsyncClient(timeout=TIMEOUT_S, limits=limits, headers=headers) as http:
        start = time.perf_counter()

        async def one(call: Call) -> Seen:
            if call.arrival_s is not None:
                await asyncio.sleep(max(0.0, start + call.arrival_s - time.perf_counter()))
            arrived = time.perf_counter()
            async with places:
                began = time.perf_counter() if call.arrival_s is None else arrived
                seen = await _call(http, target, call, began)
            on_end(seen)
            return seen

        return await asyncio.gather(*(one(call) for call in calls))


async def _call(http: httpx.AsyncClient, target: Target, call: Call, began: float) -> Seen:
    body = {
        "model": target.model,
        "prompt": list(call.prompt),
        "max_tokens": call.answer_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
        **target.extra,
    }
    times: list[float] = []
    tokens, error = 0, None
    try:
        async with http.stream("POST", f"{target.url}/completions", json=body) as response:
            if response.status_code != 200:
                text = (await response.aread()).decode(errors="replace")
                error = f"{response.status_code}: {text[:200]}"
            else:
                tokens, error = await _read(response, times)
    except httpx.HTTPError as broken:
        error = f"{type(broken).__name__}: {broken}"
    ended = time.perf_counter()
    gaps = tuple(later - earlier for earlier, later in pairwise(times))
    return Seen(began, times[0] if times else None, ended, tokens or len(times), gaps, error)


async def _read(response: httpx.Response, times: list[float]) -> tuple[int, str | None]:
    """Fills `times` with the arrival of each piece of text; the usage's tokens, and any error."""
    tokens = 0
    finished = False
    async for line in _events(response):
        if line == DONE:
            return tokens, None if finished else "the stream ended without a finish reason"
        event = json.loads(line)
        if "error" in event:
            return tokens, str(event["error"])[:200]
        if usage := event.get("usage"):
            tokens = int(usage["completion_tokens"])
        for choice in event.get("choices", ()):
            if choice.get("text"):
                times.append(time.perf_counter())
            finished = finished or choice.get("finish_reason") is not None
    return tokens, None if finished else "the connection closed before the answer ended"


async def _events(response: httpx.Response) -> AsyncIterator[str]:
    async for line in response.aiter_lines():
        if line.startswith("data:"):
            yield line[5:].strip()
