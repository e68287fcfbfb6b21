"""What is kept, under which key, and that a store which fails costs nothing but the benefit."""

import asyncio
import contextlib
import dataclasses
import math
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time

import pytest
from fakes import FakeProgram, fake_engine
from hypothesis import given, settings
from hypothesis import strategies as st
from live_server import run_async
from resp_server import fake_redis

from slipstream.engine.answer import Delta
from slipstream.engine.request import SamplingParams
from slipstream.engine.sampler import TokenLogprob
from slipstream.serve.response_cache import Part, ResponseCache, pack, unpack
from slipstream.serve.response_cache_key import is_deterministic, key_of, model_identity
from slipstream.serve.response_cache_redis import RedisStore
from slipstream.serve.response_cache_sqlite import SQLiteStore

MB = 2**20
ENGINE = fake_engine(FakeProgram(257))
ANSWER = [Delta(7, (1, 2), "ab"), Delta(7, (3,), "c", finish="stop", stopped_by=3)]


def request_of(prompt="Hi", *, engine=ENGINE, **params):
    return engine.request(prompt, SamplingParams(**params))


def key(prompt="Hi", *, model="m", adapter="", **params):
    return key_of(model, request_of(prompt, **params), adapter)


def test_equal_requests_have_one_key_whoever_asks_and_whenever():
    first = request_of("Hi", max_tokens=5)
    later = dataclasses.replace(
        request_of("Hi", max_tokens=5), priority=3, key="alice", deadline_s=1.0, leader=first.id
    )
    assert key_of("m", first) == key_of("m", later)


def test_a_greedy_request_has_no_seed_and_choices_of_it_are_one():
    assert key(max_tokens=5, seed=1) == key(max_tokens=5, seed=2) == key(max_tokens=5)
    siblings = ENGINE.requests("Hi", SamplingParams(max_tokens=5, n=3))
    assert len({key_of("m", sibling) for sibling in siblings}) == 1
    drawn = ENGINE.requests("Hi", SamplingParams(max_tokens=5, n=3, seed=1, temperature=1))
    assert len({key_of("m", sibling) for sibling in drawn}) == 3


def test_whole_numbers_and_fractions_are_the_same_numbers():
    assert key(temperature=1, seed=1) == key(temperature=1.0, seed=1)


OTHERS = [
    {"prompt": "Ho"},
    {"model": "other"},
    {"adapter": "a"},
    {"max_tokens": 6},
    {"temperature": 0.5, "seed": 1},
    {"temperature": 0.5, "seed": 2},
    {"temperature": 0.5, "seed": 2, "top_p": 0.9},
    {"temperature": 0.5, "seed": 2, "top_k": 9},
    {"temperature": 0.5, "seed": 2, "min_p": 0.1},
    {"temperature": 0.5, "seed": 2, "typical_p": 0.1},
    {"stop": ("x",)},
    {"stop_ids": {9}},
    {"ignore_eos": True},
    {"logprobs": True},
    {"logprobs": True, "top_logprobs": 2},
    {"repetition_penalty": 1.1},
    {"presence_penalty": 1.0},
    {"frequency_penalty": 1.0},
    {"logit_bias": {3: 1.0}},
    {"logit_bias": {3: 2.0}},
    {"allowed_ids": {1, 2}},
    {"bad_words": ("no",)},
    {"min_tokens": 2},
]


def test_whatever_changes_the_answer_changes_the_key():
    keys = [key(**{"max_tokens": 5, **one}) for one in [{}, *OTHERS]]
    assert len(set(keys)) == len(keys)


def test_every_parameter_is_in_the_key_or_said_elsewhere():
    tried = {name for one in OTHERS for name in one} | {"seed", "n"}
    # prompt_logprobs, skip_special, grammar and beam_width go through the same generic path
    generic = {"prompt_logprobs", "skip_special", "grammar", "beam_width"}
    missing = {field.name for field in dataclasses.fields(SamplingParams)} - tried - generic
    assert not missing, f"say in OTHERS that these change the answer: {missing}"


def test_settings_that_change_bits_change_the_model():
    settings_ = ENGINE.settings
    same = dataclasses.replace(settings_, threads=7, page_counts=(99,), context=17)
    assert model_identity("c", settings_) == model_identity("c", same)
    for change in ({"kv_dtype": "bfloat16"}, {"activations": "int8"}, {"backend": "native"}):
        other = dataclasses.replace(settings_, **change)
        assert model_identity("c", settings_) != model_identity("c", other)
    assert model_identity("c", settings_) != model_identity("d", settings_)


def test_only_greedy_and_seeded_requests_are_deterministic():
    assert is_deterministic(request_of().params)
    assert is_deterministic(request_of(temperature=1, seed=5).params)
    assert not is_deterministic(request_of(temperature=1).params)
    siblings = ENGINE.requests("Hi", SamplingParams(temperature=1, n=2))
    assert not any(is_deterministic(sibling.params) for sibling in siblings)


numbers = st.floats(allow_nan=False, width=32)
logprobs = st.builds(
    TokenLogprob,
    st.integers(0, 2**31),
    numbers,
    st.lists(st.tuples(st.integers(0, 9), numbers), max_size=3).map(tuple),
)
deltas = st.builds(
    Delta,
    st.just(0),
    st.lists(st.integers(0, 2**31), max_size=3).map(tuple),
    st.text(max_size=5),
    st.lists(logprobs, max_size=2).map(tuple),
    st.none(),
    st.none(),
    st.none(),
    st.none() | st.lists(logprobs, max_size=2).map(tuple),
)
ends = st.tuples(st.sampled_from(["stop", "length"]), st.none() | st.text() | st.integers(0, 9))


@given(st.lists(deltas, min_size=1, max_size=5), ends)
@settings(deadline=None, max_examples=80)
def test_what_is_packed_comes_back_to_the_last_bit(parts, end):
    finish, stopped_by = end
    parts[-1] = dataclasses.replace(parts[-1], finish=finish, stopped_by=stopped_by)
    assert unpack(pack(parts)) == parts


@given(st.binary(max_size=200), st.integers(0, 100))
@settings(deadline=None)
def test_damaged_bytes_are_refused_and_nothing_else(noise, at):
    whole = pack(ANSWER)
    for value in (noise, whole[:at], whole[:at] + noise + whole[at + len(noise) :]):
        with contextlib.suppress(ValueError):
            assert unpack(value) == [dataclasses.replace(d, request_id=0) for d in ANSWER]


def test_every_field_of_a_delta_is_kept_or_belongs_to_its_request():
    own = {"request_id", "timings", "error"}
    assert {field.name for field in dataclasses.fields(Delta)} == {*Part._fields, *own}


def test_minus_infinity_is_kept():
    delta = Delta(0, (1,), "a", (TokenLogprob(1, -math.inf),), "length")
    assert unpack(pack([delta])) == [delta]


def store(path, *, limit=4 * MB, ttl_s=None, **more):
    return SQLiteStore(path, limit_bytes=limit, ttl_s=ttl_s, **more)


@run_async
async def test_an_answer_survives_a_restart(tmp_path):
    cache = ResponseCache(store(tmp_path / "deep" / "cache.sqlite"))
    assert await cache.find("k") is None
    await cache.keep("k", ANSWER)
    await cache.close()
    again = ResponseCache(store(tmp_path / "deep" / "cache.sqlite"))
    assert await again.find("k") == [dataclasses.replace(d, request_id=0) for d in ANSWER]
    assert (again.stats.hits, again.stats.misses, cache.stats.kept) == (1, 0, 1)
    assert 0 < again.size_bytes < MB
    assert (tmp_path / "deep" / "cache.sqlite").stat().st_mode & 0o077 == 0
    await again.close()


@run_async
async def test_nothing_is_opened_before_it_is_needed(tmp_path):
    cache = ResponseCache(store(tmp_path / "cache.sqlite"))
    await cache.close()
    assert not list(tmp_path.iterdir())


@run_async
async def test_answers_that_were_cut_short_are_not_kept(tmp_path):
    cache = ResponseCache(store(tmp_path / "cache.sqlite"))
    for finish in ("cancelled", "timeout"):
        await cache.keep("k", [Delta(1, (), "", finish=finish)])
    assert await cache.find("k") is None and cache.stats.kept == 0
    await cache.close()


class Clock:
    now = 1_000_000.0

    def __call__(self):
        return self.now


@run_async
async def test_an_answer_expires(tmp_path):
    clock = Clock()
    kept = store(tmp_path / "cache.sqlite", ttl_s=60, clock=clock)
    await kept.put("k", b"value")
    clock.now += 59
    assert await kept.get("k") == b"value"
    clock.now += 1
    assert await kept.get("k") is None
    await kept.put("other", b"value")
    await kept.close()
    with sqlite3.connect(tmp_path / "cache.sqlite") as file:
        assert file.execute("SELECT key FROM responses").fetchall() == [("other",)]


@run_async
async def test_the_least_recently_used_goes_first_and_the_file_stays_within_its_limit(tmp_path):
    clock, path = Clock(), tmp_path / "cache.sqlite"
    kept = store(path, limit=MB, clock=clock)
    await kept.put("dear", b"d" * 1000)
    for number in range(1500):
        clock.now += 60
        await kept.put(f"k{number}", os.urandom(1000))
        assert await kept.get("dear") is not None
        if number % 100 == 0:
            assert kept.size_bytes <= MB
    assert await kept.get("k0") is None and await kept.get("k1499") is not None
    assert path.stat().st_size <= 1.2 * MB
    await kept.close()


@run_async
async def test_what_is_too_large_is_passed_over(tmp_path):
    kept = store(tmp_path / "cache.sqlite", limit=MB)
    await kept.put("small", b"s")
    await kept.put("large", b"l" * MB)
    assert await kept.get("large") is None and await kept.get("small") == b"s"
    await kept.close()


@run_async
async def test_a_lower_limit_holds_from_the_start(tmp_path):
    path = tmp_path / "cache.sqlite"
    kept = store(path)
    for number in range(300):
        await kept.put(f"k{number}", os.urandom(10_000))
    await kept.close()
    assert path.stat().st_size > 2 * MB
    smaller = store(path, limit=MB)
    await smaller.get("k0")
    assert smaller.size_bytes <= MB
    await smaller.close()
    assert path.stat().st_size <= 1.2 * MB


@run_async
async def test_a_damaged_file_is_set_aside_and_said(tmp_path, caplog):
    path = tmp_path / "cache.sqlite"
    first = store(path)
    for number in range(100):
        await first.put(f"k{number}", os.urandom(1000))
    await first.close()
    content = bytearray(path.read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)
    path.write_bytes(content)
    cache = ResponseCache(store(path))
    for number in range(100):
        assert await cache.find(f"k{number}") is None
    await cache.keep("k", ANSWER)
    assert await cache.find("k") is not None
    assert "is damaged" in caplog.text
    (aside,) = tmp_path.glob("cache.sqlite.damaged-*")
    assert aside.read_bytes() == bytes(content)
    await cache.close()


@run_async
async def test_a_file_that_is_no_database_is_set_aside(tmp_path):
    path = tmp_path / "cache.sqlite"
    path.write_bytes(b"these are no pages" * 1000)
    cache = ResponseCache(store(path))
    await cache.keep("k", ANSWER)
    assert await cache.find("k") is not None
    await cache.close()
    assert list(tmp_path.glob("*.damaged-*"))


@run_async
async def test_another_programs_database_is_left_alone(tmp_path, caplog):
    path = tmp_path / "mine.sqlite"
    with sqlite3.connect(path) as mine:
        mine.execute("CREATE TABLE responses (precious TEXT)")
    before = path.read_bytes()
    cache = ResponseCache(store(path))
    await cache.keep("k", ANSWER)
    assert await cache.find("k") is None and cache.stats.failures == 2
    assert "another program's database" in caplog.text and path.read_bytes() == before
    await cache.close()


@run_async
async def test_a_place_that_cannot_be_written_costs_only_the_benefit(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    cache = ResponseCache(store(tmp_path / "file" / "cache.sqlite"))
    await cache.keep("k", ANSWER)
    assert await cache.find("k") is None
    assert "so answers are computed" in caplog.text
    await cache.close()


@run_async
async def test_servers_that_start_at_once_may_share_a_file(tmp_path):
    stores = [store(tmp_path / "c.sqlite") for _ in range(5)]
    values = {f"k{n}": b"v%d" % n * 200 for n in range(30)}
    jobs = [stores[n % 5].put(f"k{n % 30}", values[f"k{n % 30}"]) for n in range(120)]
    await asyncio.gather(*jobs)
    for one in stores:
        for key_, value in values.items():
            assert await one.get(key_) == value
        await one.close()


WRITER = """
import asyncio, os, sys
from pathlib import Path
from slipstream.serve.response_cache_sqlite import SQLiteStore
async def main():
    store = SQLiteStore(Path(sys.argv[1]), limit_bytes=2**24, ttl_s=None)
    for n in range(10**6):
        await store.put(f"k{n}", b"%d" % n * 500)
        print(n, flush=True)
asyncio.run(main())
"""


@run_async
async def test_what_was_kept_survives_kill_9(tmp_path):
    path = tmp_path / "cache.sqlite"
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
    )
    last = -1
    while last < 50:
        last = int(writer.stdout.readline())
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    kept = store(path, limit=2**24)
    for n in range(last + 1):
        assert await kept.get(f"k{n}") == b"%d" % n * 500
    await kept.close()
    assert not list(tmp_path.glob("*.damaged-*"))


@pytest.fixture(params=["fake", "redis-server"])
def redis_url(request, tmp_path):
    pytest.importorskip("redis")
    if request.param == "fake":
        with fake_redis() as (url, _):
            yield url
        return
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    socket = tmp_path / "redis.sock"
    server = subprocess.Popen(
        ["redis-server", "--port", "0", "--unixsocket", str(socket), "--save", ""],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
    )
    for _ in range(200):
        if socket.exists():
            break
        time.sleep(0.02)
    yield f"unix://{socket}"
    server.terminate()
    server.wait()


@run_async
async def _kept_in_redis(url):
    cache = ResponseCache(RedisStore(url, ttl_s=60))
    assert await cache.find("k") is None
    await cache.keep("k", ANSWER)
    assert await cache.find("k") == [dataclasses.replace(d, request_id=0) for d in ANSWER]
    assert cache.stats.failures == 0
    await cache.close()
    brief = ResponseCache(RedisStore(url, ttl_s=0.05))
    await brief.keep("brief", ANSWER)
    assert await brief.find("brief") is not None
    await asyncio.sleep(0.1)
    assert await brief.find("brief") is None
    await brief.close()


def test_redis_keeps_answers_and_lets_them_expire(redis_url):
    _kept_in_redis(redis_url)


@run_async
async def test_a_redis_that_is_away_is_asked_once_and_then_left_alone(caplog):
    pytest.importorskip("redis")
    cache = ResponseCache(RedisStore("redis://127.0.0.1:1/0", ttl_s=None))
    for _ in range(50):
        assert await cache.find("k") is None
        await cache.keep("k", ANSWER)
    assert cache.stats.failures == 1 and "so answers are computed" in caplog.text
    await cache.close()


@run_async
async def test_a_redis_that_does_not_answer_is_not_waited_for():
    pytest.importorskip("redis")
    with fake_redis() as (url, server):
        cache = ResponseCache(RedisStore(url, ttl_s=None))
        server.deaf = True
        async with asyncio.timeout(5):
            assert await cache.find("k") is None
        assert cache.stats.failures == 1
        await cache.close()
