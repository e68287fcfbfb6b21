"""`slipstream serve`: a model behind OpenAI's API."""

import json
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from slipstream.checkpoint.sources import resolve
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
    queue: Annotated[int, typer.Option(min=0, help="requests that may wait")] = 128,
    max_prompt: Annotated[int | None, typer.Option(min=1, help="tokens of a prompt")] = None,
    max_answer: Annotated[int | None, typer.Option(min=1, help="tokens of an answer")] = None,
    threads: Threads = None,
    as_json: Annotated[bool, typer.Option("--json", help="log every request as JSON")] = False,
) -> None:
    """Serve a model over HTTP: /v1/chat/completions, /v1/completions, /v1/models, /metrics.

    SIGTERM or Ctrl-C: no new requests, those under way are answered, then it ends.
    """
    options = EngineOptions(
        max_batch=max_batch,
        context=context,
        kv_memory_bytes=None if kv_memory is None else kv_memory * 10**6,
        threads=threads,
    )
    resolve(model)  # has a progress bar of its own
    with ThreadPoolExecutor(1) as pool:  # the model loads while the HTTP stack is imported
        opening = pool.submit(Engine.open, model, options)
        app, admission, run = (
            import_module(f"slipstream.serve.{part}") for part in ("app", "admission", "run")
        )
        with waiting(f"loading {model}"):
            engine = opening.result()
    limits = admission.AdmissionLimits(
        queue=queue, max_prompt_tokens=max_prompt, max_answer_tokens=max_answer
    )
    served = name or served_name(model)
    run.run_server(
        app.make_app(engine, name=served, limits=limits),
        run.Address(host, port),
        lambda url: _say_ready(served, url, as_json),
        json_logs=as_json,
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
