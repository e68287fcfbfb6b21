"""What an HTTP exchange has chosen stays up until the exchange is over.

Between the choice of a model and the end of its answer lie tokenizing, queueing and streaming; a
model version that is being taken down waits for all of it. `Leases` is the ASGI middleware that
ends an exchange, `lease` is called by the catalog when it chooses.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar

from starlette.types import ASGIApp, Receive, Scope, Send


class Held:
    """What one HTTP exchange holds."""

    def __init__(self) -> None:
        self._stack: ExitStack | None = ExitStack()

    def hold(self, what: AbstractContextManager[object]) -> None:
        """Enters `what` until the exchange ends; tasks that outlive it hold nothing."""
        if self._stack is not None:
            self._stack.enter_context(what)

    def end(self) -> None:
        """Leaves everything."""
        stack, self._stack = self._stack, None
        if stack is not None:
            stack.close()


_held: ContextVar[Held | None] = ContextVar("held", default=None)


def lease(what: AbstractContextManager[object]) -> None:
    """Enters `what` until the current HTTP exchange ends; outside of one it does nothing."""
    held = _held.get()
    if held is not None:
        held.hold(what)


@contextmanager
def exchange() -> Iterator[None]:
    """While entered, leases taken by this task and its children are held."""
    held = Held()
    token = _held.set(held)
    try:
        yield
    finally:
        _held.reset(token)
        held.end()


class Leases:
    """Lets each HTTP exchange hold what it chooses."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with exchange():
            await self._app(scope, receive, send)
