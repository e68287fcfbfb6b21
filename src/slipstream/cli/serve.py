"""`slipstream serve`: a model behind OpenAI's API."""

import json
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from slipstream.checkpoint.sources import resolve
from slipstream.cli import serve_options
from slipstream.cli.answering import Context, ModelArgument, Threads, waiting
from slipstream.engine.engine import Engine
from slipstream.engine.options import EngineOptions


def command(  # noqa: PLR0917  each argument is an option of the command line
    model: ModelArgument,
    host: Annotated[str, typer.Option(help="0.0.0.0 lets other machines in")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one")] = 8000,
    name: Annotated[str | None, typer.Option(help="the model's name in requests")] = None,
    max_batch: Annotated[int, typer.Option(min=1, help="requests that run at once")] = 32,
    context: Context = None,
    kv_memory: Annotated[int | None, typer.Option(min=1, help="MB of KV pages")] = None,
    threads: Threads = None,
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
    log_prompts: serve_options.LogPrompts = False,
    as_json: Annotated[bool, typer.Option("--json", help="log every request as JSON")] = False,
) -> None:
    """Serve a model over HTTP: /v1/chat/completions, /v1/completions, /v1/models, /metrics.

    SIGTERM or Ctrl-C: new requests are refused, those under way are answered, then it ends.
    """
    given = serve_options.Operations(
        queue, max_prompt, max_answer, max_body, timeout, connections,
        api_keys, rpm, tpm, concurrent, cors, otlp, log_prompts,
    )  # fmt: skip
    options = EngineOptions(
        max_batch=max_batch,
        context=context,
        kv_memory_bytes=None if kv_memory is None else kv_memory * 10**6,
        threads=threads,
    )
    resolve(model)  # has a progress bar of its own
    with ThreadPoolExecutor(1) as pool:  # the model loads while the HTTP stack is imported
        opening = pool.submit(Engine.open, model, options)
        app, run = (import_module(f"slipstream.serve.{part}") for part in ("app", "run"))
        limits = serve_options.limits_of(given)
        doors = serve_options.doors_of(given, limits)
        address = serve_options.address_of(host, port, uds, tls_cert, tls_key)
        with waiting(f"loading {model}"):
            engine = opening.result()
    served = name or served_name(model)
    run.run_server(
        app.make_app(engine, name=served, limits=limits, **doors),
        address,
        lambda url: _say_ready(served, url, as_json),
        json_logs=as_json,
        drain_timeout_s=drain_timeout,
    )


def served_name(model: str) -> str:
    """What clients call the model: the name it was asked for by, or the last part of its path."""
    path = Path(model)
    return (
        path.resolve().stem if path.is_file() else path.resolve().name if path.exists() else model
    )


def _say_ready(name: str, url: str, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"event": "ready", "model": name, "url": url}), flush=True)
    else:
        print(f"{name} is served at {url}/v1 (Ctrl-C stops)", flush=True)
