"""The command line: `slipstream VERB …`. Each verb is a file, imported only when it is called.

Errors made for users are one line on stderr and an exit code; Ctrl-C is 130. ``--help`` imports
nothing but this file.
"""

import functools
import gc
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NoReturn

import slipstream
from slipstream.cli.lean_dataclasses import compile_late
from slipstream.errors import SlipstreamError

# Objects before the first garbage collection, and between later ones. A start makes hundreds of
# thousands that all stay: looking through them again and again took 7 % of the time to the first
# token of `generate`, and more of that of `serve`. A server ends its start itself: each request
# leaves 3 KB in cycles, 1.7 MB every 500 requests, until the first collection.
COLLECT_FIRST = 500_000
COLLECT_LATER = (2_000, 10, 10)
INTERRUPTED = 130  # 128 + SIGINT, as shells say it
USAGE = 2


@dataclass(frozen=True)
class Verb:
    """Where a verb lives, and what the help says of it."""

    module: str
    summary: str
    example: str


VERBS: dict[str, Verb] = {
    "pull": Verb(
        "slipstream.cli.pull",
        "Fetch a model into the cache, verified.",
        "slipstream pull smollm2:135m",
    ),
    "inspect": Verb(
        "slipstream.cli.inspect",
        "Show what a model is made of, and what it costs on this machine.",
        "slipstream inspect smollm2:135m --measure",
    ),
    "generate": Verb(
        "slipstream.cli.generate",
        "Answer one prompt.",
        'slipstream generate smollm2:135m -p "Why is the sky blue?"',
    ),
    "chat": Verb(
        "slipstream.cli.chat",
        "Talk with a model.",
        "slipstream chat",
    ),
    "serve": Verb(
        "slipstream.cli.serve",
        "Serve a model over HTTP, as OpenAI's API.",
        "slipstream serve smollm2:135m --port 8000",
    ),
    "batch": Verb(
        "slipstream.cli.batch",
        "Answer a file of requests; goes on after a kill.",
        "slipstream batch in.jsonl -o out.jsonl",
    ),
    "optimize": Verb(
        "slipstream.cli.optimize",
        "Find the fastest form of a model within your limits, prove it, write it.",
        'slipstream optimize smollm2:135m --limit "kl<0.02" -o OUT',
    ),
    "quantize": Verb(
        "slipstream.cli.quantize",
        "Carry out one recipe of your own, written with its proof.",
        "slipstream quantize smollm2:135m --bits 4 --group 64 --method gptq -o OUT",
    ),
    "prune": Verb(
        "slipstream.cli.prune",
        "Make a model smaller: fewer blocks, heads, neurons, channels or weights.",
        "slipstream prune smollm2:135m --neurons 0.2 --blocks 2 --bits 8 -o OUT",
    ),
    "verify": Verb(
        "slipstream.cli.verify",
        "Check an artifact: every file's hash, and what it answers.",
        "slipstream verify OUT",
    ),
    "distill": Verb(
        "slipstream.cli.distill",
        "Teach a smaller student what a model says; heal what pruning broke.",
        "slipstream distill smollm2:135m --blocks 3 --text wiki.txt -o OUT",
    ),
    "export": Verb(
        "slipstream.cli.export",
        "Write a model for llama.cpp, Ollama, onnxruntime and others.",
        "slipstream export smollm2:135m --to gguf --type q4_k_m -o model.gguf",
    ),
    "evaluate": Verb(
        "slipstream.cli.evaluate",
        "Measure a model's perplexity, or its distance from the original.",
        "slipstream evaluate OUT --baseline smollm2:135m",
    ),
    "bench": Verb(
        "slipstream.cli.bench",
        "Measure how fast models run here.",
        "slipstream bench OUT smollm2:135m",
    ),
    "bench kernels": Verb(
        "slipstream.cli.bench_kernels",
        "Time every kernel beside this machine's ceilings.",
        "slipstream bench kernels smollm2:135m --plot roofline.html",
    ),
    "load": Verb(
        "slipstream.cli.load",
        "Put load on a server, ours or another's, and show what its clients see.",
        "slipstream load http://127.0.0.1:8000 --concurrency 1,8,32",
    ),
}


def main(arguments: list[str] | None = None) -> NoReturn:
    """Entry point: runs the verb that the arguments name, and exits."""
    words = sys.argv[1:] if arguments is None else arguments
    if not words or words[0] in ("--help", "-h", "help"):
        print(help_text())
        sys.exit(0)
    if words[0] in ("--version", "-V"):
        print(f"slipstream {slipstream.__version__}")
        sys.exit(0)
    count = 2 if " ".join(words[:2]) in VERBS else 1  # of words in the verb
    if count == 1 and words[0] not in VERBS:
        _fail(unknown(words[0]), USAGE)
    run_verb(" ".join(words[:count]), words[count:])


def run_verb(name: str, words: list[str]) -> NoReturn:
    """Imports the verb and hands it its words; ends the process with the verb's exit code."""
    put_off_collecting()
    compile_late()
    guarded(_run)(name, words)
    sys.exit(0)


def put_off_collecting() -> None:
    """Lets the start go by before garbage is collected; what it left is never looked at again."""

    def settle(phase: str, info: dict[str, int]) -> None:
        if phase == "stop":
            gc.callbacks.remove(settle)
            if gc.get_threshold()[0] == COLLECT_FIRST:  # else it has begun already
                begin_collecting()

    if gc.get_threshold()[0] == COLLECT_FIRST:
        return  # asked for already
    gc.set_threshold(COLLECT_FIRST, *COLLECT_LATER[1:])
    gc.callbacks.append(settle)


def begin_collecting() -> None:
    """Ends the start: what is there is never looked at again, what comes is collected."""
    gc.freeze()
    gc.set_threshold(*COLLECT_LATER)


def _run(name: str, words: list[str]) -> None:
    from slipstream.machine import pass_over_pydantic_plugins  # noqa: PLC0415  as typer

    pass_over_pydantic_plugins()
    import typer  # noqa: PLC0415  here, so that --help does not pay for it

    from slipstream.cli.lean_command import LeanCommand  # noqa: PLC0415  it imports typer

    verb = VERBS[name]
    command = import_module(verb.module).command
    epilog = None if "Example" in (command.__doc__ or "") else f"Example: {verb.example}"
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(name, cls=LeanCommand, epilog=epilog)(guarded(command))
    app(args=words, prog_name=f"slipstream {name}")


def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, ending the process as the command line promises whatever it raises on purpose."""

    @functools.wraps(function)
    def run(*args: Any, **more: Any) -> Any:
        try:
            return function(*args, **more)
        except SlipstreamError as error:
            _fail(str(error), error.exit_code)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)
        except BrokenPipeError:  # the reader of our output left, as `head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)

    return run


def help_text() -> str:
    """The table of verbs."""
    width = max(map(len, VERBS))
    rows = [f"  {name:<{width}}  {verb.summary}" for name, verb in VERBS.items()]
    return "\n".join(
        [
            "usage: slipstream VERB …",
            "",
            "Large language models as fast as this machine allows, within the loss you allow.",
            "",
            *rows,
            "",
            "slipstream VERB --help says more; slipstream --version says which one this is.",
            f"example: {VERBS['generate'].example}",
        ]
    )


def unknown(word: str) -> str:
    """What to say of a verb that does not exist."""
    import difflib  # noqa: PLC0415  only for mistakes

    close = difflib.get_close_matches(word, VERBS, n=1)
    hint = f"did you mean {close[0]!r}?" if close else "see slipstream --help"
    return f"there is no verb {word!r}; {hint}"


def _fail(message: str, code: int) -> NoReturn:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
