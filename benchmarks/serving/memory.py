"""What a server's resident memory is made of: weights, KV pages, and the rest.

    python benchmarks/serving/memory.py                    # 32 at once, about two minutes
    python benchmarks/serving/memory.py --model 1B-Q4_0

The goal is a rest of at most 150 MB under load: Python, its libraries, the tokenizer, the buffers
of a step. KV pages count as far as they have been written; the pool is larger. `run.py` shows the
same account beside its tables.
"""

import argparse
import json
import re
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from servers import Running, slipstream_server

from slipstream.bench.client import run_load
from slipstream.bench.load import random_calls
from slipstream.machine import machine, thread_count

EVERY_S = 0.1
KV_SLACK = 4 * 2**20  # what the allocator adds to the pool to align it
MAPPING = re.compile(r"[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \S+ *(.*)")


@dataclass(frozen=True)
class Mapping:
    """A mapping of /proc/PID/smaps. `path` is empty for anonymous memory."""

    path: str
    size_bytes: int
    resident_bytes: int


@dataclass(frozen=True)
class Account:
    """Resident bytes of one process at one moment."""

    weights: int
    kv: int
    rest: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.kv + self.rest

    def __str__(self) -> str:
        parts = (self.total, self.weights, self.kv, self.rest)
        total, weights, kv, rest = (f"{part / 1e6:,.0f}" for part in parts)
        return f"{total} MB resident: weights {weights}, KV pages {kv}, the rest {rest}"


def mappings(smaps: str) -> Iterator[Mapping]:
    """The mappings of the text of a smaps file."""
    path, size = "", 0
    for line in smaps.splitlines():
        if found := MAPPING.fullmatch(line):
            path = found[1]
        elif line.startswith("Size:"):
            size = int(line.split()[1]) * 1024
        elif line.startswith("Rss:"):
            yield Mapping(path, size, int(line.split()[1]) * 1024)


def account(smaps: str, weight_bytes: int, kv_bytes: int) -> Account:
    """Weights are the mapped file that holds them packed, or anonymous: then all of them count.

    KV pages are in the one anonymous mapping of their pool's size. ValueError where there is none
    or several.
    """
    found = list(mappings(smaps))
    packed = [one.resident_bytes for one in found if one.path.endswith(".packed")]
    pools = [
        one.resident_bytes
        for one in found
        if not one.path and kv_bytes <= one.size_bytes <= kv_bytes + KV_SLACK
    ]
    if len(pools) != 1:
        raise ValueError(f"{len(pools)} mappings could be the KV pool of {kv_bytes} bytes")
    weights = sum(packed) or weight_bytes
    total = sum(one.resident_bytes for one in found)
    return Account(weights, pools[0], total - weights - pools[0])


def account_of(server: Running) -> Account:
    """What our running server holds now."""
    url = f"http://127.0.0.1:{server.port}/state"
    with urllib.request.urlopen(url) as answer:
        (model,) = json.load(answer)["models"]
    smaps = Path(f"/proc/{server.process.pid}/smaps").read_text()
    return account(smaps, model["weight_bytes"], model["kv_bytes"])


def account_told(server: Running) -> str:
    """The account in words, or why there is none."""
    try:
        return str(account_of(server))
    except (OSError, ValueError) as error:
        return f"parts not known: {error}"


def most_while_loaded(server: Running, options: argparse.Namespace) -> Account:
    """The account with the largest rest of all that were taken during the load."""
    seen, over = [account_of(server)], threading.Event()

    def watch() -> None:
        while not over.wait(EVERY_S):
            seen.append(account_of(server))

    watcher = threading.Thread(target=watch)
    watcher.start()
    for turn in range(options.rounds):
        calls = random_calls(options.at_once, options.prompt, options.answer, seed=turn)
        run_load(server.target, calls, options.at_once)
    over.set()
    watcher.join()
    return max(seen, key=lambda one: one.rest)


def main() -> None:
    from run import path_of  # noqa: PLC0415  it shows accounts itself

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="smollm2:135m", help="a GGUF, or a shape: 1B-Q4_0")
    parser.add_argument("--threads", type=int, default=thread_count())
    parser.add_argument("--at-once", type=int, default=32)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--answer", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    model = path_of(options.model)
    with slipstream_server(model, options.threads, options.at_once, options.context) as server:
        print(f"{options.model} on {machine().describe()}, {options.at_once} at once")
        print(f"- before any request: {account_of(server)}")
        print(f"- under load: {most_while_loaded(server, options)}")


if __name__ == "__main__":
    main()
