"""Many prompts at once, whole answers back: what `Engine.generate` does, with a progress bar.

Everything is queued before the first step, so the engine's batch is full from the start.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from slipstream.engine.answer import Completion, Delta, fold
from slipstream.engine.beam import search
from slipstream.engine.intake import Prompt
from slipstream.engine.request import SamplingParams
from slipstream.engine.streams import DeltaStream

if TYPE_CHECKING:
    from slipstream.engine.engine import Engine


def generate(
    engine: "Engine",
    prompts: Sequence[Prompt],
    params: SamplingParams,
    *,
    progress: bool,
    adapter: str | None = None,
) -> list[Completion]:
    """Completions in the prompts' order, `params.n` of each; interrupted, it leaves nothing."""
    if params.beam_width > 1:
        return [beam for prompt in prompts for beam in search(engine, prompt, params, adapter)]
    requests = [
        request
        for prompt in prompts
        for request in engine.requests(prompt, params, adapter=adapter)
    ]
    with ExitStack() as stack:
        show = stack.enter_context(_bar(engine, len(requests))) if progress else _nothing
        streams = [stack.enter_context(DeltaStream(engine, request)) for request in requests]
        return [fold(stream.request.prompt_ids, _shown(stream, show)) for stream in streams]


def _shown(stream: DeltaStream, show: Callable[[], None]) -> Iterator[Delta]:
    for delta in stream:
        show()
        yield delta


def _nothing() -> None:
    pass


@contextmanager
def _bar(engine: "Engine", total: int) -> Iterator[Callable[[], None]]:
    """A bar of finished requests, and tokens per second; yields what redraws it."""
    from rich.progress import (  # noqa: PLC0415  30 ms that only a bar should cost
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}")
    finished, tokens = engine.stats.finished, engine.stats.answer_tokens
    with Progress(*columns, TimeRemainingColumn()) as bar:
        task = bar.add_task("", total=total, speed="")

        def show() -> None:
            seconds = bar.tasks[0].elapsed or 0.0
            rate = (engine.stats.answer_tokens - tokens) / seconds if seconds > 0 else 0.0
            done = engine.stats.finished - finished
            bar.update(task, completed=done, speed=f"{rate:.0f} tokens/s")

        yield show
        bar.update(task, completed=total)
