"""``/health``, ``/ready``, ``/metrics``, ``/state``: what operators and their programs read."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from slipstream.errors import RequestError
from slipstream.serve.catalog import Served
from slipstream.serve.metrics import CONTENT_TYPE, exposition
from slipstream.serve.replies import Json
from slipstream.serve.server import Server


def routes(server: Server) -> list[Route]:
    """Health, readiness, metrics, and the state that the page shows."""

    async def health(http: Request) -> Response:
        """Whether the process works: an orchestrator restarts it otherwise."""
        alive = all(served.service.alive for served in server.catalog)
        return JSONResponse({"status": "ok" if alive else "stopping"}, 200 if alive else 503)

    async def ready(http: Request) -> Response:
        """Whether to send requests here."""
        status = "draining" if server.traffic.draining else "ok" if server.ready else "not ready"
        return JSONResponse({"status": status}, 200 if server.ready else 503)

    async def metrics(http: Request) -> Response:
        models = [served.metrics.registry for served in server.catalog]
        return Response(exposition([server.metrics.registry, *models]), media_type=CONTENT_TYPE)

    async def state(http: Request) -> Response:
        """Figures of every model; with ``?check=1`` the engines' books are checked first."""
        check = http.query_params.get("check", "0")
        if check not in ("0", "1"):
            raise RequestError("check must be 0 or 1")
        models = [await _state(served, check == "1") for served in server.catalog]
        return JSONResponse(
            {
                "ready": server.ready,
                "draining": server.traffic.draining,
                "requests_open": server.traffic.requests_open,
                "connections_open": server.traffic.connections_open,
                "models": models,
            }
        )

    return [
        Route("/health", health),
        Route("/ready", ready),
        Route("/metrics", metrics),
        Route("/state", state),
    ]


async def _state(served: Served, check: bool) -> Json:
    seen = served.service.snapshot()
    found: Json = {
        "model": served.name,
        "version": served.version,
        "running": seen.running,
        "waiting": seen.waiting,
        "batch": served.engine.settings.limits.max_batch,
        "queue": served.limits.queue,
        "weight_bytes": getattr(served.engine.program, "resident_bytes", None),
        "kv_bytes": served.engine.kv.size_bytes,
        "kv_pages": seen.pages_total,
        "kv_pages_used": seen.pages_used,
        "kv_pages_cached": seen.pages_cached,
        "prefix_queries": seen.prefix_queries_total,
        "prefix_hits": seen.prefix_hits_total,
        "prompt_tokens": seen.prompt_tokens_total,
        "generation_tokens": seen.answer_tokens_total,
    }
    if check:
        await served.service.call(lambda engine: engine.check())
        found["balanced"] = True
    return found
