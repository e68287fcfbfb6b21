"""Connections that are slow, odd or too many, over raw sockets."""

import asyncio
import json
import socket
import time

import httpx
import pytest
from fakes import FakeProgram, fake_engine, parrot
from live_server import live, run_async

from slipstream.serve.admission import AdmissionLimits
from slipstream.serve.app import make_app
from slipstream.serve.run import Address, listen

LIMITS = AdmissionLimits(
    header_timeout_s=0.5, body_timeout_s=0.5, write_timeout_s=0.5, connections=8, header_bytes=8192
)
BODY = json.dumps({"model": "fake", "prompt": "x>", "max_tokens": 3}).encode()


@pytest.fixture(scope="module")
def served():
    engine = fake_engine(FakeProgram(257, parrot("Hello")), context=4096)
    app = make_app(engine, name="fake", limits=LIMITS)
    with live(app) as url:
        yield url, app, engine


@pytest.fixture
def address(served):
    host, port = served[0].removeprefix("http://").split(":")
    return host, int(port)


def head(length, path="/v1/completions"):
    return (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {length}\r\n\r\n"
    ).encode()


def until_closed(connection, seconds=10):
    """All that comes until the server closes; fails if it does not."""
    connection.settimeout(seconds)
    received = b""
    try:
        while part := connection.recv(65536):
            received += part
    except ConnectionResetError:
        pass
    return received


def test_a_connection_that_asks_nothing_is_closed(address):
    with socket.create_connection(address) as connection:
        assert until_closed(connection) == b""


def test_headers_that_drip_in_are_not_waited_for(address):
    with socket.create_connection(address) as connection:
        started = time.monotonic()
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            for byte in b"GET /health HTTP/1.1\r\nX: " + b"a" * 1000:
                connection.send(bytes([byte]))
                time.sleep(0.02)
        assert time.monotonic() - started < 10


def test_the_second_request_of_a_connection_has_its_clock_too(address):
    with socket.create_connection(address) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        connection.settimeout(5)
        received = b""
        while not received.endswith(b"}"):
            received += connection.recv(65536)
        connection.sendall(b"GET /hea")
        assert until_closed(connection) == b""


def test_a_body_that_does_not_come_is_refused_in_words(address):
    with socket.create_connection(address) as connection:
        connection.sendall(head(len(BODY)) + BODY[:10])
        received = until_closed(connection)
    assert received.startswith(b"HTTP/1.1 408") and b"did not arrive within 0.5 s" in received


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        b"GET / HTTQ/1.1\r\n\r\n",
        b"\r\n\r\nnonsense\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -4\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000,
    ],
)
def test_what_is_not_http_is_answered_in_words_and_closed(address, data):
    with socket.create_connection(address) as connection:
        connection.sendall(data)
        received = until_closed(connection)
    status, _, rest = received.partition(b"\r\n")
    assert status == b"HTTP/1.1 400 Bad Request"
    body = json.loads(rest.partition(b"\r\n\r\n")[2])
    assert "HTTP/1.1" in body["error"]["message"]


def test_a_chunk_that_is_wrong_ends_the_connection(address, served):
    with socket.create_connection(address) as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
        )
        assert until_closed(connection).startswith(b"HTTP/1.1 400")
    assert httpx.get(f"{served[0]}/health").status_code == 200


def test_too_many_connections_are_told_so(address, served):
    app = served[1]
    held = [socket.create_connection(address) for _ in range(LIMITS.connections)]
    try:
        for one in held:  # each is known to be open once it is answered
            one.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            one.settimeout(5)
            assert b"200" in one.recv(4096)
        with socket.create_connection(address) as late:
            assert until_closed(late).startswith(b"HTTP/1.1 503")
    finally:
        for one in held:
            one.close()
    end = time.monotonic() + 10
    while app.state.server.traffic.connections_open:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_client_that_does_not_read_is_dropped_and_frees_its_pages():
    engine = fake_engine(FakeProgram(257, parrot("y" * 2000)), context=4000, max_batch=2)
    app = make_app(engine, name="fake", limits=LIMITS)
    asked = {"model": "fake", "prompt": "x>", "max_tokens": 2000, "stream": True, "logprobs": 5}
    body = json.dumps(asked).encode()
    with live(app, send_buffer=4096) as url:
        host, port = url.removeprefix("http://").split(":")
        deaf = socket.socket()
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect((host, int(port)))
        with deaf:
            deaf.sendall(head(len(body)) + body)
            traffic, end = app.state.server.traffic, time.monotonic() + 30
            while not traffic.connections_dropped:
                assert time.monotonic() < end, "the deaf client is still served"
                time.sleep(0.05)
        while not engine.idle:
            assert time.monotonic() < end
            time.sleep(0.01)
        assert engine.snapshot().pages_used == 0 and traffic.connections_open == 0


@run_async
async def test_what_is_written_is_sent_at_once():
    accepted = asyncio.get_running_loop().create_future()

    class Accepting(asyncio.Protocol):
        def connection_made(self, transport):
            accepted.set_result(transport.get_extra_info("socket"))

    listener = listen(Address(port=0))
    async with await asyncio.get_running_loop().create_server(Accepting, sock=listener):
        with socket.create_connection(listener.getsockname()):
            connection = await asyncio.wait_for(accepted, 10)
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
