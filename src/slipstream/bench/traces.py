"""Recorded traffic as load: arrivals and lengths of real requests, scaled to a machine.

Reads the public traces of Azure (CSV) and Mooncake (JSON lines). The texts are not in them: prompts
are random ids; requests of Mooncake that share pages of their prompts share those ids here too.
"""

import csv
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from pathlib import Path

from slipstream.bench.load import TOKEN_IDS, Call
from slipstream.errors import FileFormatError

SEEDS = 2**40  # pieces and requests of a trace are fewer
MOONCAKE_PAGE = 512  # prompt tokens that one of its hash ids stands for


@dataclass(frozen=True)
class Recorded:
    """One recorded request; `shared` names the pieces of its prompt, equal where they are equal."""

    arrival_s: float
    prompt_tokens: int
    answer_tokens: int
    shared: tuple[int, ...] = ()


def read_trace(path: Path, count: int) -> list[Recorded]:
    """The first `count` requests, the first at second 0. FileFormatError if it is no such trace."""
    try:
        rows = _azure(path) if path.suffix == ".csv" else _mooncake(path)
        recorded = list(islice(rows, count))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileFormatError(f"{path} is not a trace of Azure or Mooncake: {error}") from error
    if not recorded:
        raise FileFormatError(f"{path} holds no requests")
    start = recorded[0].arrival_s
    return [replace(one, arrival_s=one.arrival_s - start) for one in recorded]


def calls_of(
    recorded: list[Recorded], *, pace: float, prompt_max: int, answer_max: int, seed: int = 0
) -> list[Call]:
    """Calls at `pace` times the recorded speed, lengths cut to what the served model can take.

    Another `seed` gives other ids, so that no cache knows them from a load before.
    """
    return [
        Call(
            prompt=_prompt(one, index, seed)[:prompt_max],
            answer_tokens=max(1, min(one.answer_tokens, answer_max)),
            arrival_s=one.arrival_s / pace,
        )
        for index, one in enumerate(recorded)
    ]


def _prompt(one: Recorded, index: int, seed: int) -> tuple[int, ...]:
    first = seed * SEEDS
    ids: list[int] = []
    for piece in one.shared:
        ids += _random_ids(first + piece, min(MOONCAKE_PAGE, one.prompt_tokens - len(ids)))
    own = max(one.prompt_tokens, 1) - len(ids)
    return tuple(ids + _random_ids(first + SEEDS - 1 - index, own))


def _random_ids(seed: int, count: int) -> list[int]:
    draw = random.Random(seed)
    return [draw.randrange(*TOKEN_IDS) for _ in range(max(count, 0))]


def _azure(path: Path) -> Iterator[Recorded]:
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            stamp = datetime.fromisoformat(row["TIMESTAMP"][:26]).timestamp()
            yield Recorded(stamp, int(row["ContextTokens"]), int(row["GeneratedTokens"]))


def _mooncake(path: Path) -> Iterator[Recorded]:
    with path.open() as file:
        for line in file:
            row = json.loads(line)
            shared = tuple(int(piece) for piece in row["hash_ids"])
            yield Recorded(
                row["timestamp"] / 1000, int(row["input_length"]), int(row["output_length"]), shared
            )
