"""Routes that are imported by their first request answer as if they had been there all the time."""

import httpx
import pytest
from fakes import FakeProgram, fake_engine, parrot
from live_server import live

from slipstream.serve.app import complete, make_app


def fresh():
    return make_app(fake_engine(FakeProgram(257, parrot("Hello"))), name="fake")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/version", 200),
        ("GET", "/openapi.json", 200),
        ("POST", "/api/version", 405),
        ("GET", "/v1/responses/none", 404),
        ("GET", "/v1/batches", 400),
        ("GET", "/nothing/here", 404),
        ("GET", "/v1/chat/completions", 405),
    ],
)
def test_the_first_request_is_answered_as_the_second(method, path, status):
    with live(fresh()) as url:
        answers = [httpx.request(method, url + path) for _ in range(2)]
    whole = fresh()
    complete(whole)
    with live(whole) as url:
        answers.append(httpx.request(method, url + path))
    assert {answer.status_code for answer in answers} == {status}
    assert len({answer.content for answer in answers}) == 1


def test_completing_twice_adds_nothing():
    app = fresh()
    few = len(app.routes)
    complete(app)
    all_routes = len(app.routes)
    complete(app)
    assert few < all_routes == len(app.routes)
