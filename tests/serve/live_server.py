"""An app behind a real socket, and a program that moves only when a test lets it."""

import asyncio
import functools
import socket
import threading
from contextlib import contextmanager

from fakes import FakeProgram

from slipstream.serve import run as doors
from slipstream.serve.run import Address, Runner, config_for, listen, url_of


def run_async(test):
    """Runs a test that is a coroutine."""

    @functools.wraps(test)
    def run(*args, **more):
        asyncio.run(test(*args, **more))

    return run


@contextmanager
def live(app, send_buffer=None):
    """The app behind a real socket; yields its URL. `send_buffer`: bytes the kernel may hold."""
    address, ready = Address(port=0), threading.Event()
    doors.LAST_CALL_S = min(doors.LAST_CALL_S, 0.05)  # for clients as near as these
    listener = listen(address)
    if send_buffer is not None:  # connections inherit it
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    server = Runner(config_for(app, app.state.server, address), app.state.server, ready.set, 10)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    assert ready.wait(10), "the server did not start"
    try:
        yield url_of(listener)
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive(), "the server did not stop"


class SlowProgram(FakeProgram):
    """Each step waits for `gate`, so that a test decides when the engine moves."""

    def __init__(self, *args, **more):
        super().__init__(*args, **more)
        self.gate = threading.Semaphore(0)

    def step(self, batch, kv):
        assert self.gate.acquire(timeout=10), "the test forgot to open the gate"
        return super().step(batch, kv)
