"""The response cache and single flight as clients see them: headers, streams, directives, metrics."""

import asyncio
import re

import httpx
import pytest
from fakes import FakeProgram, fake_engine, parrot
from live_server import SlowProgram, live, run_async
from openai import OpenAI

from slipstream.errors import UnsupportedError
from slipstream.serve.admission import AdmissionLimits
from slipstream.serve.app import make_server_app
from slipstream.serve.catalog import Catalog, Served
from slipstream.serve.response_cache_open import default_path, open_cache
from slipstream.serve.server import Server

CHAT = {"model": "fake", "messages": [{"role": "user", "content": "Hi"}], "temperature": 0}
PLAIN = {"model": "fake", "prompt": "x>", "temperature": 0}


def app_of(path, text="Hello, wörld!", **more):
    engine = fake_engine(FakeProgram(257, parrot(text)), context=256)
    limits = AdmissionLimits()
    served = Served("fake", engine, limits, content="abc", **more)
    catalog = Catalog([served], cache=open_cache(str(path)) if path else None)
    return make_server_app(Server(catalog, limits)), engine


@pytest.fixture
def cached(tmp_path):
    """(client, engine) of a server with a cache of its own."""
    app, engine = app_of(tmp_path / "responses.sqlite")
    with live(app) as url, httpx.Client(base_url=url, timeout=10) as client:
        yield client, engine


def ask(client, body=CHAT, path="/v1/chat/completions", headers=None, **change):
    reply = client.post(path, json={**body, **change}, headers=headers)
    assert reply.status_code == 200, reply.text
    return reply


def outcome(reply):
    return reply.headers["x-slipstream-cache"]


def bare(body):
    """A reply without what belongs to it alone."""
    return {key: value for key, value in body.items() if key not in ("id", "created", "usage")}


def test_a_repeat_is_a_hit_and_equal_and_the_engine_rests(cached):
    client, engine = cached
    first, second = ask(client), ask(client)
    assert (outcome(first), outcome(second)) == ("miss", "hit")
    assert bare(first.json()) == bare(second.json()) and first.json()["id"] != second.json()["id"]
    assert second.json()["usage"]["completion_tokens"] == 15
    assert engine.snapshot().answer_tokens_total == 15


def test_what_was_streamed_answers_whole_and_the_other_way_round(cached):
    client, engine = cached
    streamed = ask(client, stream=True)
    whole = ask(client)
    again = ask(client, stream=True)
    assert [outcome(one) for one in (streamed, whole, again)] == ["miss", "hit", "hit"]
    assert whole.json()["choices"][0]["message"]["content"] == "Hello, wörld!"
    unnamed = re.compile(r'"(id|created)":[^,]*,')
    assert unnamed.sub("", streamed.text) == unnamed.sub("", again.text)
    assert engine.snapshot().answer_tokens_total == 15


def test_the_same_prompt_in_another_api_is_the_same_request(cached):
    client, _ = cached
    chat = ask(client, max_tokens=5)
    plain = ask(client, PLAIN, "/v1/completions", prompt="<user>Hi\n<assistant>", max_tokens=5)
    assert (outcome(chat), outcome(plain)) == ("miss", "hit")
    assert plain.json()["choices"][0]["text"] == "Hello"


def test_logprobs_come_back_and_are_part_of_the_question(cached):
    client, _ = cached
    asked = {"logprobs": True, "top_logprobs": 3, "max_tokens": 4}
    first, second, other = ask(client, **asked), ask(client, **asked), ask(client, max_tokens=4)
    assert [outcome(one) for one in (first, second, other)] == ["miss", "hit", "miss"]
    assert first.json()["choices"] == second.json()["choices"]


def test_a_seed_makes_a_draw_repeatable_and_without_one_it_is_drawn_again(cached):
    client, _ = cached
    seeded = [ask(client, temperature=1, seed=7) for _ in range(2)]
    drawn = [ask(client, temperature=1) for _ in range(2)]
    assert [outcome(one) for one in seeded + drawn] == ["miss", "hit", "bypass", "bypass"]


def test_no_store_neither_reads_nor_writes(cached):
    client, engine = cached
    silent = {"Cache-Control": "no-store"}
    assert outcome(ask(client, headers=silent)) == "bypass"
    assert outcome(ask(client)) == "miss"  # nothing had been written
    assert outcome(ask(client, headers=silent)) == "bypass"  # and nothing is read
    assert engine.snapshot().answer_tokens_total == 45


def test_no_cache_computes_afresh_and_writes(cached):
    client, engine = cached
    fresh = {"Cache-Control": "max-age=0, no-cache"}
    assert [outcome(ask(client, headers=fresh)) for _ in range(2)] == ["miss", "miss"]
    assert outcome(ask(client)) == "hit"
    assert engine.snapshot().answer_tokens_total == 30


def test_choices_of_one_greedy_request_share_one_computation(cached):
    client, engine = cached
    first = ask(client, n=3, max_tokens=5)
    assert [c["message"]["content"] for c in first.json()["choices"]] == ["Hello"] * 3
    assert outcome(first) == "miss" and engine.snapshot().answer_tokens_total == 5
    assert outcome(ask(client, n=2, max_tokens=5)) == "hit"


def test_the_openai_client_notices_nothing(cached):
    client, _ = cached
    with OpenAI(base_url=f"{client.base_url}/v1", api_key="none", max_retries=0) as openai:
        texts = []
        for _ in range(2):
            stream = openai.chat.completions.create(
                **CHAT, stream=True, stream_options={"include_usage": True}
            )
            *chunks, last = list(stream)
            texts.append("".join(c.choices[0].delta.content or "" for c in chunks))
            assert last.usage.completion_tokens == 15
        raw = openai.chat.completions.with_raw_response.create(**CHAT)
    assert texts == ["Hello, wörld!"] * 2
    assert raw.headers["x-slipstream-cache"] == "hit"
    assert raw.headers["x-slipstream-model"] == "fake:1"


def test_hits_misses_and_size_are_in_the_metrics(cached):
    client, _ = cached
    ask(client), ask(client), ask(client, temperature=1)
    text = client.get("/metrics").text
    while "slipstream:response_cache_kept_total 0.0" in text:  # written while others are answered
        text = client.get("/metrics").text
    for line in (
        "slipstream:response_cache_hits_total 1.0",
        "slipstream:response_cache_misses_total 1.0",
        "slipstream:response_cache_kept_total 1.0",
        "slipstream:response_cache_failures_total 0.0",
        'slipstream:response_cache_total{model_name="fake",outcome="hit",version="1"} 1.0',
        'slipstream:response_cache_total{model_name="fake",outcome="bypass",version="1"} 1.0',
    ):
        assert line in text, line
    assert re.search(r"^slipstream:response_cache_size_bytes [1-9]", text, re.MULTILINE)


def test_answers_outlive_the_server(tmp_path):
    for expected in ("miss", "hit"):
        app, engine = app_of(tmp_path / "responses.sqlite")
        with live(app) as url, httpx.Client(base_url=url) as client:
            assert outcome(ask(client)) == expected
    assert engine.snapshot().answer_tokens_total == 0


def test_another_model_does_not_find_them(tmp_path):
    app, _ = app_of(tmp_path / "responses.sqlite")
    with live(app) as url, httpx.Client(base_url=url) as client:
        ask(client)
    app, _ = app_of(tmp_path / "responses.sqlite", text="Bye")
    next(iter(app.state.server.catalog))._identity += "other"
    with live(app) as url, httpx.Client(base_url=url) as client:
        reply = ask(client)
    assert outcome(reply) == "miss" and reply.json()["choices"][0]["message"]["content"] == "Bye"


def test_without_a_cache_equal_requests_still_fly_together():
    app, _ = app_of(None)
    with live(app) as url, httpx.Client(base_url=url) as client:
        assert [outcome(ask(client)) for _ in range(2)] == ["miss", "miss"]


@run_async
async def test_equal_requests_at_once_are_computed_once(tmp_path):
    app, engine = app_of(tmp_path / "responses.sqlite", text="abcdefgh" * 10)
    with live(app) as url:
        async with httpx.AsyncClient(base_url=url, timeout=20) as client:
            asked = [client.post("/v1/chat/completions", json=CHAT) for _ in range(20)]
            replies = await asyncio.gather(*asked)
    outcomes = [outcome(reply) for reply in replies]
    assert outcomes.count("miss") == 1 and set(outcomes) <= {"miss", "shared", "hit"}
    assert len({reply.json()["choices"][0]["message"]["content"] for reply in replies}) == 1
    assert engine.snapshot().answer_tokens_total == 81


@run_async
async def test_what_is_known_needs_no_place_in_a_full_queue(tmp_path):
    program = SlowProgram(257, parrot("Hi"))
    limits = AdmissionLimits(queue=0)
    served = Served("fake", fake_engine(program, max_batch=1), limits, content="abc")
    catalog = Catalog([served], cache=open_cache(str(tmp_path / "responses.sqlite")))
    with live(make_server_app(Server(catalog, limits))) as url:
        async with httpx.AsyncClient(base_url=url, timeout=20) as client:

            def post(prompt, headers=None, **more):
                body = {**PLAIN, "prompt": prompt, **more}
                return client.post("/v1/completions", json=body, headers=headers)

            program.gate.release(3)
            assert outcome(await post("known>")) == "miss"
            first = asyncio.create_task(post("under way>"))
            while served.service.requests_open == 0:
                await asyncio.sleep(0.01)
            assert outcome(await post("known>")) == "hit"
            assert outcome(await post("known>", stream=True)) == "hit"
            second = asyncio.create_task(post("under way>"))
            no_store = {"Cache-Control": "no-store"}
            for refused in (
                await post("new>"),
                await post("new>", stream=True),
                await post("new>", temperature=1),
                await post("known>", no_store),
                await post("known>", {"Cache-Control": "no-cache"}),
            ):
                assert refused.status_code == 429 and int(refused.headers["retry-after"]) >= 1
            program.gate.release(3)
            replies = await asyncio.gather(first, second)
    assert [reply.status_code for reply in replies] == [200, 200]
    assert outcome(replies[0]) == "miss" and outcome(replies[1]) in ("shared", "hit")


def test_the_usual_place_is_in_the_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SLIPSTREAM_CACHE", str(tmp_path))
    assert default_path() == tmp_path / "responses.sqlite"
    assert open_cache("off") is None and open_cache() is not None
    assert not list(tmp_path.iterdir()), "nothing is opened before it is needed"


def test_what_is_no_cache_is_refused_at_the_start(monkeypatch):
    with pytest.raises(UnsupportedError, match="memcached:// is no response cache"):
        open_cache("memcached://localhost")
    monkeypatch.setattr("slipstream.serve.response_cache_open.find_spec", lambda name: None)
    with pytest.raises(UnsupportedError, match=r"pip install 'slipstream\[redis\]'"):
        open_cache("redis://localhost")
