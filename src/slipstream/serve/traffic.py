"""What is on the road: requests under way, connections, and whether the server takes more.

The middleware counts requests, the protocol connections; the runner drains until all is quiet.
"""

from collections.abc import Iterator
from contextlib import contextmanager


class Traffic:
    """One server's traffic; it belongs to the event loop."""

    def __init__(self) -> None:
        self.requests_open = 0
        self.requests_total = 0
        self.connections_open = 0
        self.connections_refused = 0
        self.connections_dropped = 0  # they sent or read too slowly
        self.draining = False

    @contextmanager
    def request(self) -> Iterator[None]:
        """Counts a request while it is under way."""
        self.requests_open += 1
        self.requests_total += 1
        try:
            yield
        finally:
            self.requests_open -= 1
