"""As much of Redis as a cache needs, within the test's process: GET, SET with PX, HELLO refused."""

import asyncio
import threading
import time
from contextlib import contextmanager


class FakeRedis:
    """A server of the RESP protocol on a free port; `stop` makes it unreachable."""

    def __init__(self):
        self.values = {}
        self.commands = []
        self.deaf = False  # takes commands and never answers

    async def serve(self, reader, writer):
        try:
            while True:
                count = int((await reader.readline())[1:])
                words = []
                for _ in range(count):
                    length = int((await reader.readline())[1:])
                    words.append((await reader.readexactly(length + 2))[:-2])
                self.commands.append(words[0].upper())
                if self.deaf:
                    await asyncio.sleep(60)
                writer.write(self.answer(words))
                await writer.drain()
        except (asyncio.IncompleteReadError, ValueError, ConnectionError):
            writer.close()

    def answer(self, words):
        command = words[0].upper()
        if command == b"GET":
            value, expires = self.values.get(words[1], (None, None))
            if value is None or (expires is not None and expires <= time.monotonic()):
                return b"$-1\r\n"
            return b"$%d\r\n%s\r\n" % (len(value), value)
        if command == b"SET":
            options = [word.upper() for word in words[3:]]
            lives = int(words[4 + options.index(b"PX")]) / 1000 if b"PX" in options else None
            self.values[words[1]] = (words[2], None if lives is None else time.monotonic() + lives)
            return b"+OK\r\n"
        return b"+OK\r\n" if command in {b"CLIENT", b"SELECT"} else b"-ERR unknown command\r\n"


@contextmanager
def fake_redis():
    """Yields (url, server)."""
    fake, loop = FakeRedis(), asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    starting = asyncio.start_server(fake.serve, "127.0.0.1", 0)
    server = asyncio.run_coroutine_threadsafe(starting, loop).result(5)
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"redis://127.0.0.1:{port}/0", fake
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
