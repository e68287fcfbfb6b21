"""How the contest talks to a contestant: one JSON object per line, on stdin and stdout.

A worker process holds one engine with the model loaded and answers one command at a time; between
commands it waits on stdin, so only one contestant ever works. This file needs nothing but the
standard library, since it runs in every contestant's own environment.

    {"do": "prefill", "ids": [...]}                    → {"seconds": 0.31}
    {"do": "decode", "prompt": [...], "ids": [...]}    → {"seconds": 0.87}   the prompt is not timed
    {"do": "greedy", "prompt": [...], "count": 16}     → {"ids": [...]}

Decoding behind a long context costs the same whatever stands there. So a contestant whose cache can
be written computes only the first CONTEXT_COMPUTED positions of it, and repeats their keys and
values: 8,000 positions of a model of a billion would take minutes in each round.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

CONTEXT_COMPUTED = 512


class Engine(Protocol):
    """What a contestant can do; each call begins with an empty cache."""

    def prefill(self, ids: Sequence[int]) -> float:
        """Seconds to process `ids` in one go, up to the logits of the last."""
        ...

    def decode(self, prompt: Sequence[int], ids: Sequence[int]) -> float:
        """Seconds to process `ids` one at a time after `prompt`, each up to its logits."""
        ...

    def greedy(self, prompt: Sequence[int], count: int) -> list[int]:
        """The `count` most likely next tokens: shows that all contestants run the same model."""
        ...


def serve(open_engine: Callable[[Mapping[str, Any]], tuple[Engine, Mapping[str, Any]]]) -> None:
    """Opens the engine with the settings in the first argument, then answers until stdin ends.

    The first line out is what the engine says of itself. Whatever a library prints on stdout goes
    to stderr instead, so that replies stay readable.
    """
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    engine, about = open_engine(json.loads(sys.argv[1]))
    print(json.dumps(about), file=replies)
    for line in sys.stdin:
        print(json.dumps(_answer(engine, json.loads(line))), file=replies)


def _answer(engine: Engine, command: Mapping[str, Any]) -> dict[str, Any]:
    match command["do"]:
        case "prefill":
            return {"seconds": engine.prefill(command["ids"])}
        case "decode":
            return {"seconds": engine.decode(command["prompt"], command["ids"])}
        case "greedy":
            return {"ids": engine.greedy(command["prompt"], command["count"])}
        case unknown:
            raise ValueError(f"unknown command {unknown!r}")
