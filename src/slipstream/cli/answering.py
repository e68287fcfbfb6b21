"""What `generate` and `chat` share: opening an engine, running one answer, saying how fast it was.

Text goes to stdout, everything about it to stderr.
"""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Annotated, Any

import typer

from slipstream.checkpoint.sources import resolve
from slipstream.engine.answer import Completion, Delta, Timings, fold
from slipstream.engine.engine import Engine
from slipstream.engine.options import Activations, EngineOptions
from slipstream.engine.request import Request
from slipstream.formats.kv import KVType

ModelArgument = Annotated[str, typer.Argument(help="a name (see `pull`), a file or a folder")]
Temperature = Annotated[float, typer.Option(min=0, help="0: always the most likely token")]
TopK = Annotated[int, typer.Option(min=0, help="draw from the k most likely (0: all)")]
TopP = Annotated[float, typer.Option(help="draw from the fewest that reach this probability")]
MinP = Annotated[float, typer.Option(help="draw from those at least this likely, relatively")]
Seed = Annotated[int | None, typer.Option(min=0, help="the same seed draws the same tokens")]
Threads = Annotated[int | None, typer.Option(min=1, help="default: all usable cores")]
Context = Annotated[int | None, typer.Option(min=2, help="most tokens of prompt and answer")]
ActivationsChoice = Annotated[
    Activations,
    typer.Option(
        "--activations",
        help="int8 is faster, f32 nearer; auto: int8 where it is meant; bf16 for bfloat16 weights",
    ),
]
KVChoice = Annotated[
    KVType | None,
    typer.Option("--kv", help="how keys and values are stored; default: as the model says"),
]
Json = Annotated[bool, typer.Option("--json", help="print JSON instead of text")]

CONTROLS = {
    code: "\ufffd" for code in (*range(32), 127, *range(128, 160)) if chr(code) not in "\n\t"
}


def open_engine(
    model: str,
    context: int | None,
    threads: int | None,
    activations: Activations = "auto",
    kv: KVType | None = None,
) -> Engine:
    """An engine for one answer at a time; fetching and loading show their progress."""
    resolve(model)  # has a progress bar of its own
    options = EngineOptions(
        max_batch=1, context=context, threads=threads, activations=activations, kv_dtype=kv
    )
    with waiting(f"loading {model}"):
        return Engine.open(model, options)


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Shows a spinner on stderr, if somebody is there to see it."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console  # noqa: PLC0415  only for terminals

    with Console(stderr=True).status(what):
        yield


class Interrupt:
    """While entered, Ctrl-C sets `asked` instead of tearing a step apart."""

    asked = False

    def __enter__(self) -> "Interrupt":
        self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *exception: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True


@dataclass(frozen=True)
class Outcome:
    """What became of one answer."""

    completion: Completion
    interrupted: bool


def answer(engine: Engine, request: Request, show: Callable[[str], None]) -> Outcome:
    """Runs one request to its end or to Ctrl-C, showing text as it comes."""
    deltas: list[Delta] = []
    engine.submit(request)
    with Interrupt() as interrupt:
        while not engine.idle:
            if interrupt.asked:
                last = engine.cancel(request.id)
                deltas += [last] if last else []
                break
            for delta in engine.step():
                deltas.append(delta)
                show(delta.text)
    return Outcome(fold(request.prompt_ids, deltas), interrupt.asked)


def show_text(text: str) -> None:
    """Writes to stdout at once; to a terminal without what could control it."""
    sys.stdout.write(text.translate(CONTROLS) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def say_speed(timings: Timings) -> None:
    """One line on stderr, dim on a terminal."""
    line = (
        f"[{timings.prompt_tokens} prompt tokens at {timings.prefill_tokens_per_s:.1f}/s, "
        f"{timings.answer_tokens} tokens at {timings.decode_tokens_per_s:.1f}/s, "
        f"first after {timings.first_token_latency_s:.2f} s]"
    )
    print(f"\x1b[2m{line}\x1b[0m" if sys.stderr.isatty() else line, file=sys.stderr, flush=True)


def report(engine: Engine, outcome: Outcome) -> dict[str, Any]:
    """An outcome as JSON."""
    completion, timings = outcome.completion, outcome.completion.timings
    return {
        "model": engine.name,
        "text": completion.text,
        "finish": completion.finish,
        "ids": list(completion.ids),
        "prompt_tokens": timings.prompt_tokens,
        "answer_tokens": timings.answer_tokens,
        "first_token_s": round(timings.first_token_latency_s, 6),
        "prefill_tokens_per_s": round(timings.prefill_tokens_per_s, 3),
        "decode_tokens_per_s": round(timings.decode_tokens_per_s, 3),
    }
