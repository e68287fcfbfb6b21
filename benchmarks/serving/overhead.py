"""What HTTP and its scheduling cost: the server beside the bare engine, the same work, in turns.

    python benchmarks/serving/overhead.py                        # about five minutes
    python benchmarks/serving/overhead.py --concurrency 1,8,32 --rounds 5

Every round gives the same prompts and lengths to three: the engine alone in a process of its own
(`offline_worker.py`), the server with streamed answers, the server with whole answers. Counted is
the time from the first call to the last answer, prompts included. The client (`lean_client.py`)
runs on the same cores: what little it takes is part of the cost shown, and is shown apart. The
second table is processor time of each process, which other work on the machine disturbs less; the
engine's threads spin while they wait for each other, so it is not all work.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from lean_client import rate
from run import path_of
from servers import slipstream_server

from slipstream.bench import load
from slipstream.bench.compare import compare
from slipstream.bench.load import Call, random_calls
from slipstream.bench.samples import Samples
from slipstream.machine import machine, thread_count

HERE = Path(__file__).resolve().parent
ALONE, STREAMED, WHOLE = "engine alone", "streamed", "whole"
Measured = dict[str, list[tuple[float, float, float]]]  # tokens/s; s of processor, of the client's


class Offline:
    """The engine in a process of its own."""

    def __init__(self, settings: list[Any]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "offline_worker.py"), json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env={"PYTHONPATH": str(Path(load.__file__).parents[2])},
        )
        self._reply()

    def rate(self, calls: list[Call], at_once: int) -> float:
        """Tokens per second."""
        asked = {
            "prompts": [call.prompt for call in calls],
            "answer": calls[0].answer_tokens,
            "at_once": at_once,
        }
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(asked) + "\n")
        reply = self._reply()
        return float(reply["tokens"] / reply["seconds"])

    def _reply(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        reply: dict[str, Any] = json.loads(self.process.stdout.readline())
        return reply


def main() -> None:
    options = read_options()
    model = path_of(options.model)
    offline = Offline([model, options.threads, 32, 1024])
    print(f"{options.model} on {machine().describe()}, {options.rounds} rounds in alternation")
    print("\n| at once | engine alone, tokens/s | streamed | ÷ alone | whole | ÷ alone |")
    print("|---|---:|---:|---|---:|---|")
    used: dict[int, Measured] = {}
    with slipstream_server(model, options.threads, 32, 1024) as server:
        ways: dict[str, tuple[int, Callable[[list[Call], int], float]]] = {
            ALONE: (offline.process.pid, offline.rate),
            STREAMED: (server.process.pid, lambda c, n: rate(server.target, c, n, stream=True)),
            WHOLE: (server.process.pid, lambda c, n: rate(server.target, c, n, stream=False)),
        }
        for at_once in map(int, options.concurrency.split(",")):
            used[at_once] = measure(ways, options, at_once)
            print(rates_row(at_once, used[at_once]), flush=True)
    print(
        "\n| at once | processor time, µs a token: engine alone | streamed | its client | whole |"
    )
    print("|---|---:|---:|---:|---:|")
    for at_once, found in used.items():
        print(processor_row(at_once, found))


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="smollm2:135m", help="a GGUF, or a shape: 1B-Q4_0")
    parser.add_argument("--threads", type=int, default=thread_count())
    parser.add_argument("--concurrency", default="1,4,8,16,32")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--answer", type=int, default=64)
    return parser.parse_args()


def measure(ways: Any, options: argparse.Namespace, at_once: int) -> Measured:
    """Everyone has the same calls in each round; who begins moves on by one. One round warms up.

    The prompts of whole answers are others: the server has cached those of the streamed ones.
    """
    found: Measured = {name: [] for name in ways}
    names = list(ways)
    for turn in range(options.rounds + 1):
        work = (2 * at_once, options.prompt, options.answer)
        for place in range(len(names)):
            name = names[(turn + place) % len(names)]
            pid, run = ways[name]
            seed = 100 * turn + at_once + 1_000_000 * (name == WHOLE)
            calls = random_calls(*work, seed=seed)
            before, mine = processor_s(pid), time.process_time()
            tokens_per_s = run(calls, at_once)
            spent = processor_s(pid) - before, time.process_time() - mine
            if turn:
                tokens = len(calls) * options.answer
                found[name].append((tokens_per_s, spent[0] / tokens, spent[1] / tokens))
    return found


def processor_s(pid: int) -> float:
    """What all threads of a process have used so far."""
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def rates_row(at_once: int, found: Measured) -> str:
    """A line of the first table."""
    alone, streamed, whole = (Samples(tuple(one[0] for one in runs)) for runs in found.values())
    ratios = compare(alone, streamed), compare(alone, whole)
    return f"| {at_once} | {alone} | {streamed} | {ratios[0]} | {whole} | {ratios[1]} |"


def processor_row(at_once: int, found: Measured) -> str:
    """A line of the second table."""
    cells = [median(one[1] for one in runs) for runs in found.values()]
    cells.insert(2, median(one[2] for one in found[STREAMED]))
    return f"| {at_once} | " + " | ".join(f"{1e6 * cell:,.0f}" for cell in cells) + " |"


if __name__ == "__main__":
    main()
