"""What HTTP and its scheduling cost: the server beside the bare engine, the same work, in turns.

    python benchmarks/serving/overhead.py            # about three minutes

The client runs on the same cores as the server, so its own time is part of the cost shown.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from run import NO_CACHES, path_of
from servers import slipstream_server

from slipstream.bench import load
from slipstream.bench.client import run_load
from slipstream.bench.compare import compare
from slipstream.bench.load import Call, random_calls, summary
from slipstream.bench.samples import Samples
from slipstream.machine import machine, thread_count

HERE = Path(__file__).resolve().parent


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
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="smollm2:135m", help="a GGUF, or a shape: 1B-Q4_0")
    parser.add_argument("--threads", type=int, default=thread_count())
    parser.add_argument("--concurrency", default="1,4,8,16,32")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--answer", type=int, default=64)
    options = parser.parse_args()
    model = path_of(options.model)
    offline = Offline([model, options.threads, 32, 1024])
    print(f"{options.model} on {machine().describe()}, {options.rounds} rounds in alternation")
    print("| at once | engine alone, tokens/s | served, tokens/s | served ÷ alone |")
    print("|---|---:|---:|---|")
    with slipstream_server(model, options.threads, 32, 1024, *NO_CACHES) as server:
        for at_once in map(int, options.concurrency.split(",")):
            alone, served = [], []
            for turn in range(options.rounds + 1):
                work = (2 * at_once, options.prompt, options.answer)
                calls = random_calls(*work, seed=100 * turn + at_once)
                alone.append(offline.rate(calls, at_once))
                calls = random_calls(*work, seed=-100 * turn - at_once - 1)
                served.append(summary(run_load(server.target, calls, at_once)).tokens_per_s)
            first, second = Samples(tuple(alone[1:])), Samples(tuple(served[1:]))
            print(f"| {at_once} | {first} | {second} | {compare(first, second)} |", flush=True)


if __name__ == "__main__":
    main()
