"""What all handlers share: the catalog of models and the limits. Built by `app.make_app`."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

from slipstream.serve.admin_key import AdminKey
from slipstream.serve.admission import AdmissionLimits
from slipstream.serve.catalog import Catalog
from slipstream.serve.keys import KeyRing
from slipstream.serve.metrics import ServerMetrics
from slipstream.serve.refusal import refusal_of
from slipstream.serve.response_cache_metrics import CacheCollector
from slipstream.serve.tracing import Tracer
from slipstream.serve.traffic import Traffic


class Worker(Protocol):
    """Something that runs while the server does, besides its engines."""

    def start(self) -> None:
        """Begins, in the running event loop; the engines run already."""
        ...

    async def stop(self) -> None:
        """Ends, while the engines still run."""
        ...


class Server:
    """One application's state; routes may add `workers`."""

    def __init__(
        self,
        catalog: Catalog,
        limits: AdmissionLimits,
        *,
        keyring: KeyRing | None = None,
        cors_origins: Sequence[str] = (),
        tracer: Tracer | None = None,
        state_folder: Path | None = None,
        admin_key: AdminKey | None = None,
    ) -> None:
        self.catalog = catalog
        self.limits = limits
        self.keyring = keyring or KeyRing(limits.accounts)
        self.cors_origins = cors_origins
        self.tracer = tracer or Tracer()
        self.state_folder = state_folder  # what is to outlive the process; None: nothing
        self.admin_key = admin_key
        self.workers: list[Worker] = []
        self.traffic = Traffic()
        self.metrics = ServerMetrics(self.traffic)
        if catalog.cache is not None:
            self.metrics.registry.register(CacheCollector(catalog.cache))

    @property
    def ready(self) -> bool:
        """Whether requests are taken and every model answers."""
        models = list(self.catalog)
        alive = bool(models) and all(served.service.alive for served in models)
        return alive and not self.traffic.draining

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Runs the engines while the application runs; answers what is open, then stops."""
        self.catalog.start()
        for worker in self.workers:
            worker.start()
        yield
        for worker in self.workers:
            await worker.stop()
        await self.catalog.stop()
        self.tracer.close()

    async def refuse(self, http: Request, error: Exception) -> Response:
        """Any exception as OpenAI's error object."""
        refusal = refusal_of(error)
        self.metrics.count_refused(refusal.status)
        return refusal.response()
