"""``/v1/files``: upload, list, look at, download and delete the files of batches."""

import asyncio
import shutil
from collections.abc import AsyncGenerator
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from slipstream.errors import RequestError
from slipstream.serve.batch_desk import BatchDesk
from slipstream.serve.caller import caller_of
from slipstream.serve.file_store import StoredFile
from slipstream.serve.paging import page_of, query_of
from slipstream.serve.routes.batches import desk_of
from slipstream.serve.server import Server

FILE_BYTES = 512 << 20  # OpenAI's limit of a batch's input is 200 MB
UPLOAD_S = 600.0
FIELDS = {"file", "purpose"}
LISTED_MAX = 10_000


def routes(server: Server) -> list[Route]:
    """Files of the caller's account."""

    def asked(http: Request) -> tuple[BatchDesk, StoredFile]:
        desk = desk_of(server)
        return desk, desk.files.get(http.path_params["file"], caller_of(http).account)

    async def upload(http: Request) -> Response:
        desk, account = desk_of(server), caller_of(http).account
        kind = http.headers.get("content-type", "")
        if not kind.startswith("multipart/form-data"):
            raise HTTPException(415, "send multipart/form-data with the fields purpose and file")
        async with asyncio.timeout(UPLOAD_S):
            form = await _form(http)
        try:
            return JSONResponse((await _kept(desk, form, account)).card())
        finally:
            await form.close()

    async def listed(http: Request) -> Response:
        query = query_of(http, {"limit", "after", "order", "purpose"})
        found = desk_of(server).files.listed(caller_of(http).account, query.get("purpose"))
        if query.get("order", "desc") not in ("asc", "desc"):
            raise RequestError("order must be asc or desc")
        if query.get("order") == "asc":
            found.reverse()
        return JSONResponse(page_of([file.card() for file in found], query, LISTED_MAX, LISTED_MAX))

    async def one(http: Request) -> Response:
        return JSONResponse(asked(http)[1].card())

    async def content(http: Request) -> Response:
        desk, file = asked(http)
        return FileResponse(desk.files.content(file), media_type="application/octet-stream")

    async def delete(http: Request) -> Response:
        desk, file = asked(http)
        if desk.uses(file):
            raise HTTPException(409, "a batch is reading this file; cancel the batch first")
        desk.files.delete(file)
        return JSONResponse({"id": file.id, "object": "file", "deleted": True})

    path = "/v1/files/{file}"
    return [
        Route("/v1/files", upload, methods=["POST"]),
        Route("/v1/files", listed, methods=["GET"]),
        Route(path, one, methods=["GET"]),
        Route(path, delete, methods=["DELETE"]),
        Route(path + "/content", content, methods=["GET"]),
    ]


async def _form(http: Request) -> Any:
    """The parts of a body of at most FILE_BYTES; large files go to the disk as they come."""
    from starlette.formparsers import (  # noqa: PLC0415  only when a file comes
        MultiPartException,
        MultiPartParser,
    )

    parser = MultiPartParser(http.headers, _bounded(http), max_files=1, max_fields=8)
    try:
        return await parser.parse()
    except (MultiPartException, KeyError) as error:
        words = error.message if isinstance(error, MultiPartException) else "no boundary"
        raise RequestError(f"the form cannot be read: {words}") from error


async def _bounded(http: Request) -> AsyncGenerator[bytes]:
    size = 0
    async for part in http.stream():
        size += len(part)
        if size > FILE_BYTES:
            raise HTTPException(413, f"a file may have {FILE_BYTES >> 20} MiB")
        yield part


async def _kept(desk: BatchDesk, form: Any, account: str) -> StoredFile:
    names = [name for name, _ in form.multi_items()]
    for name in names:
        if name not in FIELDS or names.count(name) > 1:
            raise RequestError(f"Unrecognized or repeated form field: {name[:60]}")
    file, purpose = form.get("file"), form.get("purpose")
    if purpose != "batch":
        raise RequestError("purpose must be batch: files are kept for batches only")
    if file is None or isinstance(file, str):
        raise RequestError("the form has no file in its field file")
    with desk.files.draft() as (file_id, path):
        await asyncio.to_thread(_copy, file.file, path)
        name = file.filename or "upload.jsonl"
        return desk.files.keep(file_id, name, "batch", account)


def _copy(source: Any, path: Any) -> None:
    source.seek(0)
    with path.open("wb") as out:
        shutil.copyfileobj(source, out, 1 << 20)
