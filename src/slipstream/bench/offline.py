"""How fast programs run: prefill and decode, in alternation, without a server.

`cli/bench.py`, the search and `benchmarks/peers` measure here. The contestants take turns within
each round (A B A B …), so that a machine that slows down slows all of them; every sample is kept.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from slipstream.backends.batch import KV, Program
from slipstream.bench.samples import Samples
from slipstream.bench.workload import Workload, decode_batches, prefill_batch

Clock = Callable[[], float]


@dataclass(frozen=True)
class Speed:
    """Tokens per second. `decode` counts the tokens of all `streams` together.

    A part that the workload leaves out is None.
    """

    prefill: Samples | None
    decode: Samples | None
    streams: int

    def as_json(self) -> dict[str, object]:
        """Summaries and raw samples."""
        return {
            "streams": self.streams,
            "prefill_tokens_per_s": self.prefill.as_json() if self.prefill else None,
            "decode_tokens_per_s": self.decode.as_json() if self.decode else None,
        }


@dataclass
class Contestant:
    """A program with KV pages for a workload, and the seconds it has taken so far."""

    program: Program
    workload: Workload
    clock: Clock = time.perf_counter
    prefill_s: list[float] = field(default_factory=list)
    decode_s: list[float] = field(default_factory=list)
    kv: KV = field(init=False)

    def __post_init__(self) -> None:
        self.kv = self.program.new_kv(self.workload.page_count)
        self.ids = self.workload.ids(self.program.graph.vocabulary)

    def turn(self) -> None:
        """Runs the workload once and notes how long it took."""
        if self.workload.prompt_tokens:
            self.prefill_s.append(self.prefill())
        if self.workload.decode_tokens:
            self.decode_s.append(self.decode())

    def prefill(self) -> float:
        """Seconds for the first stream's prompt in one step."""
        batch = prefill_batch(self.ids[:1, : self.workload.prompt_tokens])
        start = self.clock()
        self.program.step(batch, self.kv)
        return self.clock() - start

    def decode(self) -> float:
        """Seconds to decode in all streams; the context before it is not timed."""
        depth, steps = self.workload.depth, self.workload.decode_tokens
        self.program.step(prefill_batch(self.ids[:, :depth]), self.kv)
        batches = list(decode_batches(self.ids[:, : depth + steps], depth, steps))
        start = self.clock()
        for batch in batches:
            self.program.step(batch, self.kv)
        return self.clock() - start

    def forget(self) -> None:
        """Drops the samples: what came before was warming up."""
        self.prefill_s.clear()
        self.decode_s.clear()

    def speed(self) -> Speed:
        """The tokens per second of all turns so far."""
        work = self.workload
        prefill, decode = tuple(self.prefill_s), tuple(self.decode_s)
        return Speed(
            prefill=Samples(prefill).rates(work.prompt_tokens) if prefill else None,
            decode=Samples(decode).rates(work.decode_tokens * work.streams) if decode else None,
            streams=work.streams,
        )


def measure_speed(
    programs: Mapping[str, Program],
    *,
    prompt_tokens: int = 512,
    decode_tokens: int = 64,
    depth: int = 8,
    repeats: int = 5,
    streams: int = 1,
    clock: Clock = time.perf_counter,
) -> dict[str, Speed]:
    """The speed of every program, from `repeats` rounds in alternation after one unmeasured round.

    Decoding begins behind `depth` tokens of context. ValueError for counts that make no workload.
    """
    if repeats < 1:
        raise ValueError("at least one repeat is needed")
    workload = Workload(prompt_tokens, decode_tokens, depth, streams)
    contestants = {name: Contestant(item, workload, clock) for name, item in programs.items()}
    take_turns(list(contestants.values()), rounds=1)
    for contestant in contestants.values():
        contestant.forget()
    take_turns(list(contestants.values()), rounds=repeats)
    return {name: contestant.speed() for name, contestant in contestants.items()}


def take_turns(contestants: list[Contestant], rounds: int) -> None:
    """Rounds in which everyone has one turn; who begins moves on by one each round."""
    for start in range(rounds):
        for place in range(len(contestants)):
            contestants[(start + place) % len(contestants)].turn()
