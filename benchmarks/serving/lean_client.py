"""A client that costs next to nothing, for what is measured beside it on the same cores.

One thread, plain sockets kept open, no JSON but for the usage at the end: 10 to 20 us for each
piece of text, where `slipstream.bench.client` (httpx) takes some 300.
"""

import json
import selectors
import socket
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from slipstream.bench.client import Target
from slipstream.bench.load import Call

END = b"data: [DONE]\n\n\r\n0\r\n\r\n"
USAGE = b'"completion_tokens":'
TAIL = 4096  # of an answer: holds its usage


@dataclass
class Line:
    """A connection, and what has come of its answer."""

    socket: socket.socket
    seen: bytes = field(default=b"")


def rate(target: Target, calls: Sequence[Call], at_once: int, *, stream: bool) -> float:
    """Tokens per second of all calls, `at_once` at a time: one ends, the next begins."""
    waiting = deque(_request(target, call, stream) for call in calls)
    where = urlsplit(target.url)
    tokens = 0
    with selectors.DefaultSelector() as ready:
        start = time.perf_counter()
        for _ in range(min(at_once, len(waiting))):
            line = Line(socket.create_connection((where.hostname, where.port)))
            line.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            ready.register(line.socket, selectors.EVENT_READ, line)
            line.socket.sendall(waiting.popleft())
        while ready.get_map():
            for key, _ in ready.select():
                done = _read(key.data, stream)
                tokens += done
                if done and waiting:
                    key.data.socket.sendall(waiting.popleft())
                elif done:
                    ready.unregister(key.data.socket)
                    key.data.socket.close()
        return tokens / (time.perf_counter() - start)


def _request(target: Target, call: Call, stream: bool) -> bytes:
    body: dict[str, object] = {
        "model": target.model,
        "prompt": list(call.prompt),
        "max_tokens": call.answer_tokens,
        "temperature": 0,
        "ignore_eos": True,
        **target.extra,
    }
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    written = json.dumps(body).encode()
    path = urlsplit(target.url).path + "/completions"
    head = (
        f"POST {path} HTTP/1.1\r\nhost: {urlsplit(target.url).netloc}\r\n"
        "content-type: application/json\r\ncache-control: no-store\r\n"
        f"content-length: {len(written)}\r\n\r\n"
    )
    return head.encode() + written


def _read(line: Line, stream: bool) -> int:
    """What has come; the tokens of the answer once it is complete, before that 0."""
    data = line.socket.recv(65536)
    if not data:
        raise SystemExit(f"the server closed a connection after {line.seen[-200:]!r}")
    line.seen = (line.seen + data)[-TAIL:] if stream else line.seen + data
    if not (line.seen.endswith(END) if stream else _is_whole(line.seen)):
        return 0
    seen, line.seen = line.seen, b""
    if USAGE not in seen:
        raise SystemExit(f"the server refused: {seen[:500]!r}")
    return int(seen.rpartition(USAGE)[2].partition(b",")[0])


def _is_whole(seen: bytes) -> bool:
    head, _, body = seen.partition(b"\r\n\r\n")
    length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return bool(length) and len(body) >= int(length[0].partition(b":")[2])
