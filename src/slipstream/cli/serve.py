"""`slipstream serve`: a model behind OpenAI's API."""

import json
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Annotated

import typer

from slipstream.checkpoint.sources import resolve
from slipstream.cli import serve_models, serve_options
from slipstream.cli.answering import ActivationsChoice, Context, KVChoice, Threads, waiting
from slipstream.cli.main import begin_collecting
from slipstream.engine.engine import Engine
from slipstream.engine.options import Batching, EngineOptions


def command(  # noqa: PLR0917  each argument is an option of the command line
    model: serve_models.First = None,
    host: Annotated[str, typer.Option(help="0.0.0.0 lets other machines in")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one")] = 8000,
    name: Annotated[str | None, typer.Option(help="the model's name in requests")] = None,
    more: serve_models.More = None,
    adapter: serve_models.Adapters = None,
    tool_format: serve_models.ToolFormats = None,
    response_cache: serve_models.CacheAt = None,
    response_cache_mb: serve_models.CacheMB = 256,
    response_cache_ttl: serve_models.CacheTTL = 7 * 86_400.0,
    admin_key_file: serve_models.AdminKeyFile = None,
    max_batch: Annotated[int, typer.Option(min=1, help="requests that run at once")] = 32,
    token_budget: Annotated[int | None, typer.Option(min=1, help="rows of one step")] = None,
    batching: Annotated[Batching, typer.Option(help="when requests join a batch")] = "continuous",
    max_wait: Annotated[float, typer.Option(min=0, help="seconds a dynamic batch waits")] = 0.05,
    prefix_cache: Annotated[bool, typer.Option(help="keep pages of prompts")] = True,
    context: Context = None,
    kv_memory: Annotated[int | None, typer.Option(min=1, help="MB of KV pages")] = None,
    threads: Threads = None,
    verify: serve_options.Verify = True,
    activations: ActivationsChoice = "auto",
    kv: KVChoice = None,
    queue: serve_options.Queue = 128,
    max_prompt: serve_options.MaxPrompt = None,
    max_answer: serve_options.MaxAnswer = None,
    max_body: serve_options.MaxBody = 4.0,
    timeout: serve_options.Timeout = None,
    drain_timeout: serve_options.DrainTimeout = None,
    connections: serve_options.Connections = 1024,
    api_keys: serve_options.ApiKeys = None,
    rpm: serve_options.Rpm = None,
    tpm: serve_options.Tpm = None,
    concurrent: serve_options.Concurrent = None,
    cors: serve_options.Cors = None,
    uds: serve_options.Uds = None,
    tls_cert: serve_options.TlsCert = None,
    tls_key: serve_options.TlsKey = None,
    otlp: serve_options.Otlp = None,
    state: serve_options.State = None,
    log_prompts: serve_options.LogPrompts = False,
    as_json: Annotated[bool, typer.Option("--json", help="log every request as JSON")] = False,
) -> None:
    """Serve models over HTTP: /v1/chat/completions, /v1/completions, /v1/models, /metrics.

    SIGTERM or Ctrl-C: new requests are refused, those under way are answered, then it ends.
    """
    given = serve_options.Operations(
        queue, max_prompt, max_answer, max_body, timeout, connections,
        api_keys, rpm, tpm, concurrent, cors, otlp, log_prompts,
    )  # fmt: skip
    options = EngineOptions(
        max_batch=max_batch,
        token_budget=token_budget,
        batching=batching,
        max_wait_s=max_wait,
        prefix_cache=prefix_cache,
        context=context,
        kv_dtype=kv,
        kv_memory_bytes=None if kv_memory is None else kv_memory * 10**6,
        threads=threads,
        activations=activations,
        verify=verify,
    )
    specs = serve_models.specs_of(model, name, more)
    first, *_ = [resolve(spec.source) for spec in specs]  # has a progress bar of its own
    cache = serve_models.CacheChoice(response_cache, response_cache_mb, response_cache_ttl)
    with ThreadPoolExecutor(1) as pool:  # the model loads while the HTTP stack is imported
        opening = pool.submit(Engine.open, specs[0].source, options)
        app, run = (import_module(f"slipstream.serve.{part}") for part in ("app", "run"))
        limits = serve_options.limits_of(given)
        doors = serve_options.doors_of(given, limits)
        doors["state_folder"] = state
        address = serve_options.address_of(host, port, uds, tls_cert, tls_key)
        doors |= serve_models.admin_doors(admin_key_file)
        with waiting(f"loading {', '.join(spec.source for spec in specs)}"):
            catalog = serve_models.catalog_of(
                specs, first, opening, options=options, limits=limits, cache=cache
            )
        serve_models.set_tool_formats(catalog, tool_format)
        serve_models.add_adapters(catalog, adapter)
        del opening  # it would hold an engine that may be unloaded
    names = ", ".join(dict.fromkeys(spec.name for spec in specs))
    run.run_server(
        app.make_server_app(app.Server(catalog, limits, **doors)),
        address,
        lambda url: _say_ready(names, url, as_json),
        json_logs=as_json,
        drain_timeout_s=drain_timeout,
    )


def _say_ready(name: str, url: str, as_json: bool) -> None:
    begin_collecting()
    if as_json:
        print(json.dumps({"event": "ready", "model": name, "url": url}), flush=True)
    else:
        print(f"{name} is served at {url}/v1 (Ctrl-C stops)", flush=True)
