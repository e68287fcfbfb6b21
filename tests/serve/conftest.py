"""Servers over a fake engine, on a free port of 127.0.0.1."""

import sys
from pathlib import Path

import httpx
import pytest
from openai import OpenAI

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "engine")]

from fakes import FakeProgram, fake_engine, parrot  # noqa: E402
from live_server import SlowProgram, live  # noqa: E402

from slipstream.serve.admission import AdmissionLimits  # noqa: E402
from slipstream.serve.app import make_app  # noqa: E402


@pytest.fixture(scope="session")
def app():
    """Always answers `Hello, wörld!`; one application for all tests that change nothing."""
    return make_app(
        fake_engine(FakeProgram(257, parrot("Hello, wörld!")), context=256), name="fake"
    )


@pytest.fixture(scope="session")
def url(app):
    with live(app) as address:
        yield address


@pytest.fixture(scope="session")
def http(url):
    with httpx.Client(base_url=url, timeout=10) as client:
        yield client


@pytest.fixture(scope="session")
def openai(url):
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def gated():
    """(URL, program, engine) of a server that moves only when `program.gate` is released."""
    program = SlowProgram(257, parrot("abcdefghij" * 20))
    engine = fake_engine(program, max_batch=2)
    with live(make_app(engine, name="fake", limits=AdmissionLimits(queue=1))) as address:
        yield address, program, engine
        for _ in range(1000):
            program.gate.release()
