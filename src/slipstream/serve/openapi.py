"""The API document, in OpenAPI 3.1, from the routes of an application and its pydantic models.

Built when it is first asked for (`routes/document`): a server that nobody asks pays nothing.
"""

import re
from collections.abc import Iterable

from pydantic.json_schema import models_json_schema
from starlette.routing import BaseRoute, Route

from slipstream import __version__
from slipstream.serve.openapi_operations import OPERATIONS, UNLISTED, Model, Operation
from slipstream.serve.replies import Json

REF = "#/components/schemas/{model}"
ERRORS = {
    400: "The request cannot be answered as it stands",
    401: "A key is needed",
    403: "This key may not do that",
    404: "There is no such thing here",
    405: "Not with this method",
    408: "The request took too long to arrive",
    409: "Something else is going on with it",
    413: "The body is too large",
    415: "The body must be application/json",
    429: "Too much at once; see Retry-After",
    431: "The headers are too large",
    500: "The server failed",
    503: "The server is stopping, or the model is being loaded",
    504: "The answer took longer than its timeout",
    507: "There is no memory for that model",
}
HEADERS: dict[str, tuple[str, Json]] = {
    "X-Request-Timeout": (
        "Seconds for the whole answer",
        {"type": "number", "exclusiveMinimum": 0, "maximum": 86400},
    ),
    "X-Request-Priority": (
        "The lower, the earlier it runs",
        {"type": "integer", "minimum": -1000, "maximum": 1000},
    ),
}


def document(routes: Iterable[BaseRoute]) -> Json:
    """The document of all `routes`."""
    names, definitions = _schemas()
    paths: dict[str, Json] = {}
    for route in routes:
        if isinstance(route, Route):
            path = re.sub(r":\w+}", "}", route.path)
            for method in sorted((route.methods or set()) - {"HEAD"}):
                listed = OPERATIONS.get((method, path), UNLISTED)
                paths.setdefault(path, {})[method.lower()] = _operation(path, listed, names)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Slipstream", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": definitions,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _schemas() -> tuple[dict[Model, Json], Json]:
    """(each model's reference, all definitions)."""
    listed = [model for one in OPERATIONS.values() for model in (one.asked, one.answer, one.error)]
    models = sorted({model for model in listed if model}, key=lambda model: model.__name__)
    found, definitions = models_json_schema(
        [(model, "validation") for model in models], ref_template=REF
    )
    return {model: found[model, "validation"] for model in models}, definitions["$defs"]


def _operation(path: str, listed: Operation, names: dict[Model, Json]) -> Json:
    made: Json = {
        "summary": listed.summary,
        "parameters": _path_parameters(path),
        "responses": _responses(listed, names),
    }
    if listed.asked is not None:
        body = {"application/json": {"schema": names[listed.asked]}}
        made["requestBody"] = {"required": True, "content": body}
    if listed.stream is not None:
        made["parameters"] += [
            {"name": name, "in": "header", "description": words, "schema": schema}
            for name, (words, schema) in HEADERS.items()
        ]
    return made


def _path_parameters(path: str) -> list[Json]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", path)
    ]


def _responses(listed: Operation, names: dict[Model, Json]) -> Json:
    content: Json = {}
    if listed.answer is not None:
        content["application/json"] = {"schema": names[listed.answer]}
    if listed.stream is not None:
        content[listed.stream] = {"schema": {}}  # OpenAPI 3.1 has no words for events in a row
    answered: Json = {"description": "Answered", **({"content": content} if content else {})}
    refused = {"application/json": {"schema": names[listed.error]}}
    return {
        "200": answered,
        **({"202": {"description": "Begun"}} if listed.answer is None else {}),
        **{
            str(status): {"description": words, "content": refused}
            for status, words in ERRORS.items()
        },
    }
