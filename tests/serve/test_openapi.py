"""The API document: complete, and kept by the server under hostile requests."""

import json

import httpx
import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from live_server import live
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS
from speakers import HERMES, speaker
from starlette.routing import Route

from slipstream.serve.admission import AdmissionLimits
from slipstream.serve.app import complete, make_app
from slipstream.serve.openapi import document
from slipstream.serve.openapi_operations import OPERATIONS

CALL = 'See: <tool_call>{"name": "f", "arguments": {}}</tool_call>'
TURNS = [{"role": "user", "content": "Hi"}]
TOOLS = [{"type": "function", "function": {"name": "f"}}]


@pytest.fixture(scope="module")
def app():
    return make_app(speaker(CALL, HERMES, context=512), name="fake")


@pytest.fixture(scope="module")
def http(app):
    with live(app) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client


def test_every_route_is_in_the_document(app):
    complete(app)
    made = document(app.routes)
    paths = {route.path.replace(":path", "") for route in app.routes if isinstance(route, Route)}
    assert set(made["paths"]) == paths
    listed = {(m.upper(), path) for path, item in made["paths"].items() for m in item}
    assert set(OPERATIONS) <= listed, "a described route is not served"
    text = json.dumps(made)
    references = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert references <= set(made["components"]["schemas"])


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": TURNS, "tools": TOOLS, "logprobs": True}),
        ("/v1/chat/completions", {"messages": TURNS, "n": 2, "prompt_logprobs": 1}),
        ("/v1/completions", {"prompt": ["a\x01", "b\x01"], "logprobs": 2, "echo": True}),
        ("/v1/responses", {"input": "Hi", "tools": [{"type": "function", "name": "f"}]}),
        ("/tokenize", {"messages": TURNS, "return_token_strs": True}),
        ("/detokenize", {"tokens": [72, 105]}),
        ("/api/chat", {"messages": TURNS, "tools": TOOLS, "stream": False, "logprobs": True}),
        ("/api/generate", {"prompt": "Hi", "stream": False}),
        ("/api/generate", {"prompt": ""}),
        ("/api/show", {}),
        ("/v1/models", None),
        ("/v1/models/fake", None),
        ("/api/tags", None),
        ("/api/version", None),
    ],
)
def test_answers_and_refusals_have_the_documented_shapes(http, path, body):
    made = http.get("/openapi.json").json()
    if body is None:
        reply = http.get(path)
        item = made["paths"][path.replace("/fake", "/{model}")]["get"]
    else:
        item = made["paths"][path]["post"]
        reply = http.post(path, json={"model": "fake", **body})
        refused = http.post(path, json={"model": "nobody", "nonsense": 1})
        assert refused.status_code == 400
        _holds(made, item, refused)
    assert reply.status_code == 200, reply.text
    _holds(made, item, reply)


def _holds(made, item, reply):
    content = item["responses"][str(reply.status_code)]["content"]
    schema = content["application/json"]["schema"]
    jsonschema.validate(reply.json(), {**schema, "components": made["components"]})


KEPT = ("status_code_conformance", "content_type_conformance", "response_schema_conformance")
SEED = 20261121


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The document as schemathesis reads it, of a server whose answers are short."""
    limits = AdmissionLimits(timeout_s=5)
    engine = speaker("Hello", HERMES, context=128)
    state = tmp_path_factory.mktemp("state")
    with live(make_app(engine, name="fake", limits=limits, state_folder=state)) as url:
        yield schemathesis.openapi.from_url(f"{url}/openapi.json")
    engine.check()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": TURNS}),
        ("/v1/completions", {"prompt": "Hi"}),
        ("/v1/responses", {"input": "Hi"}),
        ("/api/chat", {"messages": TURNS}),
        ("/api/generate", {"prompt": "Hi"}),
    ],
)
def test_streams_keep_the_document(drawn, path, body):
    case = drawn[path]["POST"].Case(
        body={"model": "fake", "stream": True, **body}, media_type="application/json"
    )
    response = case.call(timeout=30)
    assert response.status_code == 200 and response.headers["content-type"] != "application/json"
    case.validate_response(response, checks=_kept())


def _kept():
    checks = [check for check in CHECKS.get_all() if check.__name__ in KEPT]
    assert len(checks) == len(KEPT)
    return checks


@pytest.mark.slow
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_the_server_keeps_its_document_whatever_is_sent(drawn, mode):
    """Requests drawn from the document, as it says or not; most are for the model there is."""
    seen = set()

    def holds(case):
        if isinstance(case.body, dict) and "model" in case.body and mode is GenerationMode.POSITIVE:
            case.body["model"] = "fake"
        response = case.call(timeout=30)
        assert response.status_code != 500, (case.body, response.text)
        case.validate_response(response, checks=_kept())
        seen.add((case.operation.path, response.status_code))

    for found in drawn.exclude(path_regex="^/(admin|page|$)").get_all_operations():
        operation = found.ok()
        if mode is GenerationMode.NEGATIVE and not operation.body:
            continue  # nothing that could be wrong
        strategy = operation.as_strategy(generation_mode=mode)
        settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))(
            seed(SEED)(given(case=strategy)(holds))
        )()
    statuses = {status for path, status in seen if path == "/v1/chat/completions"}
    assert 400 in statuses if mode is GenerationMode.NEGATIVE else statuses, statuses
