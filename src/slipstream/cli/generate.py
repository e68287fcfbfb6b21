"""`slipstream generate`: one prompt, one answer, streamed to stdout."""

import json
import sys
from typing import Annotated

import typer

from slipstream.cli.answering import (
    ActivationsChoice,
    Context,
    Json,
    KVChoice,
    MinP,
    ModelArgument,
    Seed,
    Temperature,
    Threads,
    TopK,
    TopP,
    answer,
    open_engine,
    report,
    say_speed,
    show_text,
)
from slipstream.cli.main import INTERRUPTED
from slipstream.engine.engine import Engine, Prompt
from slipstream.engine.request import SamplingParams


def command(  # noqa: PLR0917  each argument is an option of the command line
    model: ModelArgument,
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="the prompt; - reads stdin")],
    max_tokens: Annotated[int, typer.Option("--max-tokens", "-n", min=1)] = 256,
    temperature: Temperature = 0.0,
    top_k: TopK = 0,
    top_p: TopP = 1.0,
    min_p: MinP = 0.0,
    seed: Seed = None,
    stop: Annotated[list[str] | None, typer.Option(help="end before this string")] = None,
    raw: Annotated[bool, typer.Option(help="continue the text; no chat template")] = False,
    context: Context = None,
    threads: Threads = None,
    activations: ActivationsChoice = "auto",
    kv: KVChoice = None,
    as_json: Json = False,
) -> None:
    """Answer one prompt, streaming; tokens per second go to stderr.

    A model with a chat template gets the prompt as a user's turn; --raw has it continue the text.
    """
    text = sys.stdin.read() if prompt == "-" else prompt
    params = SamplingParams(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        max_tokens=max_tokens,
        stop=tuple(stop or ()),
        seed=seed,
    )
    engine = open_engine(model, context, threads, activations, kv)
    request = engine.request(prompt_of(engine, text, raw), params)
    outcome = answer(engine, request, (lambda text: None) if as_json else show_text)
    if as_json:
        print(json.dumps(report(engine, outcome), ensure_ascii=False))
    else:
        show_text("\n")
        say_speed(outcome.completion.timings)
    if outcome.interrupted:
        raise typer.Exit(INTERRUPTED)


def prompt_of(engine: Engine, text: str, raw: bool) -> Prompt:
    """The text as a user's turn where the model knows turns, else as it stands."""
    if raw or engine.tokenizer.chat is None:
        return text
    return engine.chat_ids([{"role": "user", "content": text}])
