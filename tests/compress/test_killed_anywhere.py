"""A chain of passes that is stopped at random moments, again and again, ends with the same bits.

A moment is a file that takes its name, or a stage that is compiled: whatever lies between two of
them leaves nothing behind. `test_stream` kills a process in earnest; here every moment can be met.
"""

import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slipstream.compress.carry_out import carry_out
from slipstream.compress.chain import read_chain
from slipstream.compress.work import Edition
from slipstream.formats.tensor import DenseTensor, arrays_of

sys.path.insert(0, str(Path(__file__).parent))
import tiny_llama

CHAIN = """
[[pass]]
method = "drop_neurons"
share = 0.25
multiple = 8
[[pass]]
method = "wanda"
owl = true
[[pass]]
method = "gptq"
bits = 4
group = 16
sweeps = 1
[[pass]]
method = "kv_cache"
format = "int4"
center = true
"""


class Killed(BaseException):
    """As a signal would, it passes every `except Exception`."""


class Moments:
    """Counts down to the moment of death."""

    def __init__(self) -> None:
        self.left = sys.maxsize
        self.seen = 0

    def pass_by(self, do: Callable[..., Any]) -> Callable[..., Any]:
        """`do`, with a moment before it and one after it."""

        def doing(*given: Any) -> Any:
            self.tick()
            result = do(*given)
            self.tick()
            return result

        return doing

    def tick(self) -> None:
        self.seen += 1
        self.left -= 1
        if self.left < 0:
            raise Killed


def bits_of(edition: Edition) -> dict[str, list[bytes]]:
    """Every array of every weight."""
    found = {}
    for name in edition.graph.weight_names():
        tensor = edition.weights[name]
        parts = [tensor.data] if isinstance(tensor, DenseTensor) else arrays_of(tensor).values()
        found[name] = [np.ascontiguousarray(part).tobytes() for part in parts]
    return found


@pytest.mark.parametrize("seed", range(2))
def test_killed_at_random_moments_it_ends_with_the_same_bits(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, moments = random.Random(seed), Moments()
    compiling = moments.pass_by(tiny_llama.compile_plain)
    monkeypatch.setattr(os, "replace", moments.pass_by(os.replace))
    edition, chain = tiny_llama.edition(), read_chain(CHAIN)
    chunks = tiny_llama.drive(tmp_path).chunks
    whole = carry_out(chain, edition, compiling, chunks, tmp_path / "whole")
    total, deaths, after = moments.seen, 0, None
    while after is None:
        moments.left = draw.randrange(1, total) if deaths < 4 else sys.maxsize
        try:
            after = carry_out(chain, edition, compiling, chunks, tmp_path / "killed")
        except Killed:
            deaths += 1
    assert deaths >= 1 and total > 50
    assert dict(after.config) == dict(whole.config) and bits_of(after) == bits_of(whole)
