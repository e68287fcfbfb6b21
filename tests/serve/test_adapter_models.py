"""Real adapters on a real engine, asked for by name over HTTP, together in one batch."""

import asyncio
import sys
from pathlib import Path

import httpx
import pytest
from fakes import ByteTokenizer
from live_server import live, run_async

sys.path.insert(0, str(Path(__file__).parent.parent / "backends"))

from adapter_worlds import random_adapter, tiny_model

from slipstream.backends.native import NativeOptions, compile_native, native_module
from slipstream.engine.engine import Engine
from slipstream.engine.options import EngineOptions, resolve
from slipstream.errors import MachineError
from slipstream.machine import machine
from slipstream.serve.admission import AdmissionLimits
from slipstream.serve.app import make_server_app
from slipstream.serve.catalog import Catalog, Served
from slipstream.serve.response_cache_open import open_cache
from slipstream.serve.server import Server

try:
    native_module()
except MachineError:
    pytest.skip("the native kernels were not built", allow_module_level=True)

SHAPES = {
    f"model.layers.{layer}.self_attn.{part}_proj": shape
    for layer in (0, 1)
    for part, shape in {"q": (80, 64), "v": (40, 64), "o": (64, 80)}.items()
}


@run_async
async def test_base_and_adapters_answer_each_for_itself(tmp_path):
    graph, weights = tiny_model("llama")
    settings = resolve(EngineOptions(context=512, max_batch=8), graph, machine())
    engine = Engine(compile_native(graph, weights, NativeOptions(1)), ByteTokenizer(), settings)
    limits = AdmissionLimits()
    cache = open_cache(str(tmp_path / "cache.sqlite"))
    catalog = Catalog([Served("base", engine, limits)], cache=cache)
    for name, seed in (("a", 1), ("b", 2)):
        base = catalog.choose("base")
        catalog.adapters.load_now(name, random_adapter(SHAPES, seed, size=1.0), base)
    with live(make_server_app(Server(catalog, limits))) as url:
        async with httpx.AsyncClient(base_url=url, timeout=20) as client:

            async def ask(name):
                body = {"model": name, "prompt": list(range(1, 90)), "max_tokens": 12}
                reply = await client.post(
                    "/v1/completions", json={**body, "temperature": 0, "ignore_eos": True}
                )
                return reply.headers["x-slipstream-cache"], reply.json()["choices"][0]["text"]

            first = await asyncio.gather(*map(ask, ("base", "a", "b")))
            again = await asyncio.gather(*map(ask, ("base", "a", "b")))
    assert [outcome for outcome, _ in first + again] == ["miss"] * 3 + ["hit"] * 3
    assert [text for _, text in first] == [text for _, text in again]
    assert len({text for _, text in first}) == 3
