"""What all handlers share: the catalog of models and the limits. Built by `app.make_app`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

from slipstream.serve.admission import AdmissionLimits
from slipstream.serve.catalog import Catalog
from slipstream.serve.refusal import refusal_of


class Server:
    """One application's state."""

    def __init__(self, catalog: Catalog, limits: AdmissionLimits) -> None:
        self.catalog = catalog
        self.limits = limits

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Runs the engines while the application runs; answers what is open, then stops."""
        self.catalog.start()
        yield
        await self.catalog.stop()

    async def refuse(self, http: Request, error: Exception) -> Response:
        """Any exception as OpenAI's error object."""
        refusal = refusal_of(error)
        for served in self.catalog:
            served.metrics.count_refused(refusal.status)
            break
        return refusal.response()
