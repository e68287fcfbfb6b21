"""Contestants in worker processes, one at work at a time, and their rounds in alternation."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROUNDS_MIN = 5  # with fewer an interval of ratios says nothing
SETTLE_S = 0.05  # after another contestant's turn, its threads stop spinning and go to sleep


@dataclass
class Worker:
    """One contestant: a persistent process that answers the commands of `protocol.py`."""

    name: str
    python: Path
    script: str
    settings: Mapping[str, Any]
    environment: Mapping[str, str] = field(default_factory=dict)

    def __enter__(self) -> "Worker":
        self.process = subprocess.Popen(
            [str(self.python), self.script, json.dumps(self.settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            cwd=HERE,
            env={**os.environ, **self.environment},
        )
        self.about: dict[str, Any] = self._reply()
        return self

    def __exit__(self, *error: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def ask(self, **command: Any) -> dict[str, Any]:
        """Sends one command and waits for its answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        return self._reply()

    def _reply(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with status {self.process.wait()}, see above")
        return json.loads(line)

    @property
    def resident_bytes(self) -> int:
        """The most memory that it has held; 0 where the system does not say."""
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return 0
        peaks = [line for line in status.splitlines() if line.startswith("VmHWM:")]
        return int(peaks[0].split()[1]) * 1024 if peaks else 0


@dataclass(frozen=True)
class Task:
    """What everyone does in a turn: tokens and the command that times them."""

    name: str
    tokens: int
    command: Mapping[str, Any]


def tasks(ids: Sequence[int], prompt: int, decode: int, depth: int) -> tuple[Task, Task]:
    """Decoding `decode` tokens behind `depth`, and a prompt of `prompt` tokens in one go."""
    behind, after = list(ids[:depth]), list(ids[depth : depth + decode])
    return (
        Task("decode", decode, {"do": "decode", "prompt": behind, "ids": after}),
        Task("prefill", prompt, {"do": "prefill", "ids": list(ids[:prompt])}),
    )


def turns(workers: Sequence[Worker], rounds: int) -> Iterator[Worker]:
    """Everyone once per round; who begins moves on by one."""
    for start in range(rounds):
        for place in range(len(workers)):
            yield workers[(start + place) % len(workers)]


def measure(
    workers: Sequence[Worker],
    todo: Sequence[Task],
    rounds: int,
    seconds: float | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, dict[str, list[float]]]:
    """Tokens per second by task and contestant, one sample per round after one that warms up.

    After `seconds` no round begins, but ROUNDS_MIN are always measured: rounds are whole.
    """
    began = clock()
    rates: dict[str, dict[str, list[float]]] = {t.name: {w.name: [] for w in workers} for t in todo}
    for count, worker in enumerate(turns(workers, rounds + 1)):
        if sys.stderr.isatty():
            print(f"\rround {count // len(workers)} of {rounds} ", end="", file=sys.stderr)
        fresh = count % len(workers) == 0 and count // len(workers) > min(rounds, ROUNDS_MIN)
        if fresh and seconds is not None and clock() - began > seconds:
            break
        for task in todo:
            time.sleep(SETTLE_S)
            seconds = worker.ask(**task.command)["seconds"]
            if count >= len(workers):
                rates[task.name][worker.name].append(task.tokens / seconds)
    return rates
