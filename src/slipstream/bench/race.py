"""Several models in one race: measured in alternation, compared within the noise, held against the
ceilings of this machine. `slipstream bench` prints what `race` returns.

With several models, the first runs under two names, which shows how far apart equals come out.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from slipstream.backends.batch import Program
from slipstream.bench.compare import Comparison, compare, noise_band
from slipstream.bench.offline import Speed, measure_speed
from slipstream.bench.samples import Samples
from slipstream.bench.shares import bandwidth_share, compute_share, decode_cost, prefill_cost
from slipstream.bench.workload import Workload
from slipstream.graph.cost import Cost, Size
from slipstream.machine import Ceilings

AGAIN = "the first again"


@dataclass(frozen=True)
class Entry:
    """A model in the race: its program, and the sizes of its weights for the shares."""

    name: str
    program: Program
    sizes: Mapping[str, Size]


@dataclass(frozen=True)
class Task:
    """One part of a workload: its prefill, or its decoding."""

    workload: Workload
    prefill: bool

    @property
    def name(self) -> str:
        """As the table prints it."""
        streams = self.workload.streams
        return "prefill" if self.prefill else f"decode, {streams} stream{'s'[: streams > 1]}"

    @property
    def tokens(self) -> int:
        """Tokens of one step."""
        return self.workload.prompt_tokens if self.prefill else self.workload.streams

    def cost(self, entry: Entry) -> Cost:
        """Of one step."""
        count = prefill_cost if self.prefill else decode_cost
        return count(
            entry.program.graph, entry.sizes, self.workload, entry.program.graph.kv or "bfloat16"
        )

    def samples(self, speed: Speed) -> Samples:
        """This task's part of a speed, which the workload did not leave out."""
        samples = speed.prefill if self.prefill else speed.decode
        assert samples is not None
        return samples


@dataclass(frozen=True)
class Line:
    """One measured number: a task of a model, its shares of the machine, and the comparison."""

    model: str
    task: str
    tokens_per_s: Samples
    bandwidth: float
    compute: float
    against_first: Comparison | None


@dataclass(frozen=True)
class Result:
    """All lines, and by task how far apart equals came out (empty for one model)."""

    lines: tuple[Line, ...]
    noise: Mapping[str, float]


def race(
    entries: Sequence[Entry], workloads: Sequence[Workload], repeats: int, limits: Ceilings
) -> Result:
    """Runs every workload on all entries in alternation. The entries' names must differ."""
    lines: list[Line] = []
    noise: dict[str, float] = {}
    for workload in workloads:
        speeds = measure(entries, workload, repeats)
        for task in tasks_of(workload):
            samples = {name: task.samples(speed) for name, speed in speeds.items()}
            noise |= _noise(task, samples[entries[0].name], samples.get(AGAIN))
            for entry in entries:
                against = _against(entries[0].name, entry.name, samples, noise.get(task.name))
                lines.append(_line(entry, task, samples[entry.name], limits, against))
    return Result(tuple(lines), noise)


def measure(entries: Sequence[Entry], workload: Workload, repeats: int) -> dict[str, Speed]:
    """All entries in alternation; the first of several once more, as `AGAIN`."""
    programs = {entry.name: entry.program for entry in entries}
    if len(entries) > 1:
        programs[AGAIN] = entries[0].program
    return measure_speed(
        programs,
        prompt_tokens=workload.prompt_tokens,
        decode_tokens=workload.decode_tokens,
        depth=workload.depth,
        streams=workload.streams,
        repeats=repeats,
    )


def workloads_of(workload: Workload, streams: Sequence[int]) -> list[Workload]:
    """The workload at every number of streams; the prompt is prefilled only with the first."""
    first, *more = streams
    others = [replace(workload, streams=count, prompt_tokens=0) for count in more]
    return [replace(workload, streams=first), *(others if workload.decode_tokens else [])]


def tasks_of(workload: Workload) -> Iterator[Task]:
    """Its prefill and its decoding, as far as it has them."""
    if workload.prompt_tokens:
        yield Task(workload, prefill=True)
    if workload.decode_tokens:
        yield Task(workload, prefill=False)


def _noise(task: Task, first: Samples, again: Samples | None) -> dict[str, float]:
    return {} if again is None else {task.name: noise_band(first, again)}


def _against(
    first: str, name: str, samples: Mapping[str, Samples], noise: float | None
) -> Comparison | None:
    if name == first or noise is None:
        return None
    return compare(samples[first], samples[name], noise)


def _line(
    entry: Entry, task: Task, samples: Samples, limits: Ceilings, against: Comparison | None
) -> Line:
    cost, step_s = task.cost(entry), task.tokens / samples.median
    bandwidth = bandwidth_share(cost, step_s, limits)
    compute = compute_share(cost, step_s, limits)
    return Line(entry.name, task.name, samples, bandwidth, compute, against)
