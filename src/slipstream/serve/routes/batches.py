"""``/v1/batches``: files of requests, answered in the background.

They need a state folder (`slipstream serve --state DIR`); without one they are refused in words.
"""

from typing import Annotated, Literal, get_args

from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from slipstream.errors import UnsupportedError
from slipstream.serve.admission import read_json
from slipstream.serve.batch_answers import RouteAnswers
from slipstream.serve.batch_desk import BatchDesk
from slipstream.serve.batch_lines import URLS
from slipstream.serve.batch_record import BatchRecord
from slipstream.serve.caller import caller_of
from slipstream.serve.openai import Strict
from slipstream.serve.paging import page_of, query_of
from slipstream.serve.server import Server

PRIORITY = 100  # live requests have 0 and go first
LISTED, LISTED_MAX = 20, 100

Endpoint = Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings"]
assert get_args(Endpoint) == URLS


class NewBatch(Strict):
    """The body of ``POST /v1/batches``."""

    input_file_id: str
    endpoint: Endpoint
    completion_window: Literal["24h"]
    metadata: (
        Annotated[
            dict[
                Annotated[str, Field(max_length=64)],
                Annotated[str, Field(max_length=512)],
            ],
            Field(max_length=16),
        ]
        | None
    ) = None


def routes(server: Server) -> list[Route]:
    """Batches of the caller's account."""
    if server.state_folder is not None:
        desk = BatchDesk(
            server.state_folder,
            lambda account: RouteAnswers(server, account=account, priority=PRIORITY),
        )
        server.workers.append(desk)

    def asked(http: Request) -> tuple[BatchDesk, BatchRecord]:
        desk = desk_of(server)
        return desk, desk.get(http.path_params["batch"], caller_of(http).account)

    async def create(http: Request) -> Response:
        desk = desk_of(server)
        wanted = NewBatch.model_validate(await read_json(http, server.limits))
        file = desk.files.get(wanted.input_file_id, caller_of(http).account)
        return JSONResponse(desk.create(file, wanted.endpoint, wanted.metadata).card())

    async def listed(http: Request) -> Response:
        query = query_of(http, {"limit", "after"})
        cards = [one.card() for one in desk_of(server).listed(caller_of(http).account)]
        return JSONResponse(page_of(cards, query, LISTED, LISTED_MAX))

    async def one(http: Request) -> Response:
        return JSONResponse(asked(http)[1].card())

    async def cancel(http: Request) -> Response:
        desk, record = asked(http)
        desk.cancel(record)
        return JSONResponse(record.card())

    path = "/v1/batches/{batch}"
    return [
        Route("/v1/batches", create, methods=["POST"]),
        Route("/v1/batches", listed, methods=["GET"]),
        Route(path, one, methods=["GET"]),
        Route(path + "/cancel", cancel, methods=["POST"]),
    ]


def desk_of(server: Server) -> BatchDesk:
    """The server's batches. UnsupportedError: it keeps none."""
    for worker in server.workers:
        if isinstance(worker, BatchDesk):
            return worker
    raise UnsupportedError(
        "this server keeps no files or batches; start it with --state DIR to have them"
    )
