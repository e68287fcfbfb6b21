"""What the clients of `soak.py` do to a server, one function a kind of misbehavior.

Each talks HTTP over a raw socket, so that it can be as slow, rude or wrong as it likes, and returns
an outcome: "answered", "refused", "left" (we went away), or "FAULT …" with what was wrong.
"""

import asyncio
import json
import random
import socket
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

PATIENCE_S = 300.0
WORDS = ["river", "stone", "cloud", "paper", "engine", "garden", "winter", "letter", "music"]
REFUSALS = (400, 401, 404, 405, 408, 413, 415, 422, 429, 503, 504)


class Fault(Exception):
    """The server did something that it must not."""


@dataclass(frozen=True)
class Target:
    """The server under test."""

    host: str
    port: int
    model: str
    context: int


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes = b""
    events: list[Any] = field(default_factory=list)


def prompt(dice: random.Random, words: int) -> str:
    return " ".join(dice.choice(WORDS) for _ in range(words))


def chat_body(target: Target, dice: random.Random, **more: Any) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": target.model,
        "messages": [{"role": "user", "content": prompt(dice, dice.randint(1, 60))}],
        "max_tokens": dice.randint(1, 24),
        "temperature": dice.choice([0, 0, 0.7, 1.2]),
    }
    extras: list[dict[str, Any]] = [
        {"n": 2, "temperature": 0.9},
        {"logprobs": True, "top_logprobs": 3},
        {"stop": ["a", "e"]},
        {"seed": dice.randint(0, 3)},
        {"top_p": 0.8, "top_k": 20, "frequency_penalty": 0.5},
        {"response_format": {"type": "json_object"}},
        {"priority": dice.randint(-5, 5)},
    ]
    if dice.random() < 0.4:
        body |= dice.choice(extras)
    return body | more


def request_bytes(path: str, body: bytes, headers: str = "") -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: soak\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n{headers}\r\n"
    )
    return head.encode() + body


@asynccontextmanager
async def connection(target: Target, buffer: int | None = None):  # type: ignore[no-untyped-def]
    link = socket.socket()
    if buffer is not None:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    link.setblocking(False)
    await asyncio.get_running_loop().sock_connect(link, (target.host, target.port))
    reader, writer = await asyncio.open_connection(sock=link, limit=buffer or 2**16)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def read_head(reader: asyncio.StreamReader) -> Reply:
    try:
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
    except asyncio.IncompleteReadError as error:
        raise Fault(f"closed after {len(error.partial)} bytes, without an answer") from error
    except ConnectionError as error:
        raise Fault(f"connection reset without an answer: {error}") from error
    first, *lines = head.decode("latin-1").strip().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return Reply(int(first.split(" ")[1]), headers)


async def read_reply(reader: asyncio.StreamReader) -> Reply:
    reply = await read_head(reader)
    try:
        rest = await asyncio.wait_for(reader.read(-1), PATIENCE_S)
    except ConnectionError as error:
        raise Fault(f"reset in the middle of an answer: {error}") from error
    reply.body = unchunked(rest) if "transfer-encoding" in reply.headers else rest
    return reply


def unchunked(data: bytes) -> bytes:
    whole = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        length = int(size, 16)
        if not length:
            return whole
        whole, data = whole + data[:length], data[length + 2 :]
    raise Fault("the answer was cut off")


def judged(reply: Reply, *, streamed: bool = False) -> str:
    """Answered or refused, in words; a Fault otherwise."""
    if reply.status == 200 and not streamed:
        json.loads(reply.body)
        return "answered"
    if reply.status == 200:
        lines = [line for line in reply.body.decode().split("\n\n") if line]
        if not lines or lines[-1] != "data: [DONE]":
            raise Fault(f"a stream without an end: {reply.body[-200:]!r}")
        last = [json.loads(line[6:]) for line in lines[:-1]]
        return "refused" if last and "error" in last[-1] else "answered"
    if reply.status not in REFUSALS:
        raise Fault(f"status {reply.status}: {reply.body[:300]!r}")
    error = json.loads(reply.body)["error"]
    if not (error if isinstance(error, str) else error["message"]):  # Ollama's shape, or OpenAI's
        raise Fault(f"status {reply.status} without words")
    if reply.status == 429 and int(reply.headers["retry-after"]) < 1:
        raise Fault("429 without Retry-After")
    return "refused"


async def send(target: Target, data: bytes, *, streamed: bool = False) -> str:
    async with connection(target) as (reader, writer):
        writer.write(data)
        return judged(await read_reply(reader), streamed=streamed)


async def whole(target: Target, dice: random.Random) -> str:
    body = json.dumps(chat_body(target, dice)).encode()
    return await send(target, request_bytes("/v1/chat/completions", body))


async def streamed(target: Target, dice: random.Random) -> str:
    body = json.dumps(chat_body(target, dice, stream=True)).encode()
    return await send(target, request_bytes("/v1/chat/completions", body), streamed=True)


async def completion(target: Target, dice: random.Random) -> str:
    prompts = [prompt(dice, dice.randint(1, 30)) for _ in range(dice.randint(1, 3))]
    body = {"model": target.model, "prompt": prompts, "max_tokens": dice.randint(1, 16)}
    return await send(target, request_bytes("/v1/completions", json.dumps(body).encode()))


async def other(target: Target, dice: random.Random) -> str:
    path, body = dice.choice(
        [
            ("/tokenize", {"model": target.model, "prompt": prompt(dice, 20)}),
            ("/v1/embeddings", {"model": target.model, "input": prompt(dice, 20)}),
            ("/v1/responses", {"model": target.model, "input": "Hi", "max_output_tokens": 16}),
        ]
    )
    return await send(target, request_bytes(path, json.dumps(body).encode()))


async def cancels(target: Target, dice: random.Random) -> str:
    body = json.dumps(chat_body(target, dice, max_tokens=200)).encode()
    async with connection(target) as (_, writer):
        writer.write(request_bytes("/v1/chat/completions", body))
        await asyncio.sleep(dice.random() * 1.5)
    return "left"


async def leaves(target: Target, dice: random.Random) -> str:
    body = json.dumps(chat_body(target, dice, max_tokens=200, stream=True)).encode()
    async with connection(target) as (reader, writer):
        writer.write(request_bytes("/v1/chat/completions", body))
        reply = await read_head(reader)
        if reply.status != 200:
            reply.body = await reader.read(-1)
            return judged(reply)
        await reader.read(dice.randint(1, 4000))
    return "left"


async def reads_slowly(target: Target, dice: random.Random) -> str:
    body = chat_body(target, dice, max_tokens=120, stream=True, logprobs=True, top_logprobs=20)
    body.pop("response_format", None)
    async with connection(target, buffer=2048) as (reader, writer):
        writer.write(request_bytes("/v1/chat/completions", json.dumps(body).encode()))
        for _ in range(dice.randint(5, 30)):
            await asyncio.sleep(0.2)
            if not await asyncio.wait_for(reader.read(512), PATIENCE_S):
                return "answered"
    return "left"


async def sends_slowly(target: Target, dice: random.Random) -> str:
    data = request_bytes("/v1/completions", json.dumps(chat_body(target, dice)).encode())
    async with connection(target) as (_, writer):
        for start in range(0, dice.randint(1, len(data)), 40):
            writer.write(data[start : start + 40])
            await asyncio.sleep(0.05)
    return "left"


async def overlong(target: Target, dice: random.Random) -> str:
    text = prompt(dice, target.context * dice.randint(1, 4))
    body = json.dumps(chat_body(target, dice, messages=[{"role": "user", "content": text}]))
    outcome = await send(target, request_bytes("/v1/chat/completions", body.encode()))
    if outcome != "refused":
        raise Fault("a prompt longer than the context was answered")
    return outcome


async def hurries(target: Target, dice: random.Random) -> str:
    body = json.dumps(chat_body(target, dice, max_tokens=200, stream=dice.random() < 0.5))
    head = f"X-Request-Timeout: {dice.random():.3f}\r\n"
    is_stream = '"stream": true' in body
    data = request_bytes("/v1/chat/completions", body.encode(), head)
    return await send(target, data, streamed=is_stream)


def broken(data: bytes, dice: random.Random) -> bytes:
    """`data` with a few of its bytes changed, removed, repeated or cut."""
    result = bytearray(data)
    for _ in range(dice.randint(1, 6)):
        at = dice.randrange(len(result) or 1)
        choice = dice.randrange(4)
        if choice == 0 and result:
            result[at] = dice.randrange(256)
        elif choice == 1:
            del result[at : at + dice.randint(1, 20)]
        elif choice == 2:
            result[at:at] = result[at : at + 20] * dice.randint(1, 50)
        else:
            result[at:at] = bytes(dice.randrange(256) for _ in range(8))
    return bytes(result)


async def bad_body(target: Target, dice: random.Random) -> str:
    good = json.dumps(chat_body(target, dice)).encode()
    bad = dice.choice([broken(good, dice), good[: dice.randrange(len(good))], b"[" * 50_000])
    paths = ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"]
    paths += ["/tokenize", "/detokenize", "/api/chat", "/v1/batches", "/v1/files"]
    return await send(target, request_bytes(dice.choice(paths), bad))


async def bad_bytes(target: Target, dice: random.Random) -> str:
    """Bytes that may be no HTTP at all: words or a closed connection are both right."""
    good = request_bytes("/v1/completions", json.dumps(chat_body(target, dice)).encode())
    noise = bytes(dice.randrange(256) for _ in range(dice.randint(1, 400)))
    async with connection(target) as (reader, writer):
        writer.write(dice.choice([broken(good, dice), noise, broken(good[:100], dice)]))
        if writer.can_write_eof() and dice.random() < 0.5:
            writer.write_eof()
        try:
            head = await asyncio.wait_for(reader.read(65536), 2)
        except (TimeoutError, ConnectionError):
            return "left"
    if head and int(head.split(b" ", 2)[1]) not in (200, *REFUSALS, 499):
        raise Fault(f"wrong bytes were answered with {head[:300]!r}")
    return "refused" if head else "left"


Kind = Callable[[Target, random.Random], Awaitable[str]]
KINDS: dict[Kind, int] = {
    whole: 30,
    streamed: 20,
    completion: 10,
    other: 5,
    cancels: 8,
    leaves: 8,
    reads_slowly: 2,
    sends_slowly: 2,
    overlong: 4,
    hurries: 3,
    bad_body: 5,
    bad_bytes: 3,
}
