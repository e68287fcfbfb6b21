"""A server under faults: does it answer or refuse everybody, and is nothing left behind?

    python benchmarks/soak.py                                 # 10,000 requests, full for 10 minutes
    python benchmarks/soak.py --requests 500 --minutes 1          # a short one
    python benchmarks/soak.py --requests 500 --minutes 1 --fake   # no model: the server alone

Starts `slipstream serve` in a process of its own, sends it requests of every kind in
`soak_clients.py`, holds its queue full, samples its memory and its open files all the while, lets
it come to rest, checks its books, and stops it with SIGTERM. Writes the figures as JSON and prints
a table; ends with 1 if anything is not as it must be.
"""

import argparse
import asyncio
import json
import random
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from soak_clients import KINDS, Fault, Kind, Target, chat_body, request_bytes, send

from slipstream.bench.records import write_record
from slipstream.machine import machine

ROOT = Path(__file__).resolve().parent.parent
QUEUE, BATCH, CONTEXT, KV_MB = 16, 8, 1024, 96
LEAK_BYTES = 32 * 2**20  # what memory may grow by between the middle and the end
LEAK_FILES = 4
SERVE = [sys.executable, "-m", "slipstream.cli.main", "serve"]


@dataclass
class Soak:
    """What has been seen."""

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    samples: list[dict[str, float]] = field(default_factory=list)
    full: Counter[str] = field(default_factory=Counter)  # while the queue was held full
    storm_s: float = 0.0


def start(arguments: argparse.Namespace) -> tuple[subprocess.Popen[str], Target]:
    """The server process, ready."""
    if arguments.fake:
        given = {"step_s": 0.002, "limits": {"queue": QUEUE}}
        command = [sys.executable, str(ROOT / "tests/serve/fake_server.py"), json.dumps(given)]
    else:
        command = [*SERVE, arguments.model, "--name", "soak", "--port", "0", "--json"]
        command += ["--queue", str(QUEUE), "--max-batch", str(BATCH), "--context", str(CONTEXT)]
        command += ["--kv-memory", str(KV_MB), *arguments.serve]
    log = Path(arguments.out).with_suffix(".log").open("w")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    assert line, f"the server did not start; see {log.name}"
    url = line if arguments.fake else json.loads(line)["url"]
    host, port = url.removeprefix("http://").split(":")
    return process, Target(host, int(port), "fake" if arguments.fake else "soak", CONTEXT)


def state(target: Target, query: str = "") -> dict[str, Any]:
    url = f"http://{target.host}:{target.port}/state{query}"
    with urllib.request.urlopen(url, timeout=60) as reply:
        found: dict[str, Any] = json.load(reply)
    return found


def sample(process: subprocess.Popen[str]) -> dict[str, float]:
    """Resident bytes, open files and threads of the server."""
    folder = Path(f"/proc/{process.pid}")
    lines = (folder / "status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return {
        "at_s": time.monotonic(),
        "rss_bytes": int(fields["VmRSS"].split()[0]) * 1024,
        "files": len(list((folder / "fd").iterdir())),
        "threads": int(fields["Threads"]),
    }


def open_files(process: subprocess.Popen[str]) -> list[str]:
    """What the server's open files are, for whoever looks for a leak."""
    return sorted(str(one.readlink()) for one in Path(f"/proc/{process.pid}/fd").iterdir())


async def watch(soak: Soak, process: subprocess.Popen[str]) -> None:
    while True:
        soak.samples.append(sample(process))
        await asyncio.sleep(0.5)


async def one(soak: Soak, target: Target, kind: Kind, seed: str) -> None:
    try:
        outcome = await kind(target, random.Random(seed))
    except Fault as error:
        outcome = "FAULT"
        soak.faults.append(f"{seed} {kind.__name__}: {error}")
    except Exception as error:
        outcome = "FAULT"
        soak.faults.append(f"{seed} {kind.__name__}: {error!r}")
    soak.outcomes[f"{kind.__name__} {outcome}"] += 1


async def storm(soak: Soak, target: Target, arguments: argparse.Namespace) -> None:
    """So many requests of every kind, so many at once."""
    kinds, weights = list(KINDS), list(KINDS.values())
    dice = random.Random(arguments.seed)
    todo = iter(range(arguments.requests))

    async def worker() -> None:
        for number in todo:
            kind = dice.choices(kinds, weights)[0]
            await one(soak, target, kind, f"{arguments.seed}-{number}")

    await asyncio.gather(*(worker() for _ in range(arguments.clients)))


async def hold_full(soak: Soak, target: Target, minutes: float) -> None:
    """More clients than places, each back at once: the queue is full all the time."""
    end = time.monotonic() + minutes * 60

    async def holder(number: int) -> None:
        dice = random.Random(number)
        while time.monotonic() < end:
            body = json.dumps(chat_body(target, dice, max_tokens=100, stream=True)).encode()
            data = request_bytes("/v1/chat/completions", body)
            try:
                outcome = await send(target, data, streamed=True)
            except Exception as error:
                outcome = "FAULT"
                soak.faults.append(f"full {number}: {error!r}")
            soak.full[outcome] += 1
            if outcome == "refused":
                await asyncio.sleep(dice.random())

    await asyncio.gather(*(holder(number) for number in range((QUEUE + BATCH) * 2)))


async def at_rest(target: Target) -> dict[str, Any]:
    """The state once nothing runs, its books checked."""
    for _ in range(600):
        seen = await asyncio.to_thread(state, target)
        busy = sum(model["running"] + model["waiting"] for model in seen["models"])
        if not busy and seen["requests_open"] == 1:
            break
        await asyncio.sleep(0.1)
    return await asyncio.to_thread(state, target, "?check=1")


async def run(arguments: argparse.Namespace) -> dict[str, Any]:
    process, target = start(arguments)
    soak, started_s = Soak(), time.monotonic()
    watcher = asyncio.create_task(watch(soak, process))
    try:
        await storm(soak, target, arguments)
        soak.storm_s = time.monotonic() - started_s
        await hold_full(soak, target, arguments.minutes)
        rest = await at_rest(target)
        await asyncio.sleep(2)
        last = sample(process)
        files = open_files(process)
        watcher.cancel()
        process.send_signal(signal.SIGTERM)
        code = await asyncio.to_thread(process.wait, 60)
    finally:
        process.kill()
    return {**settings(arguments), **report(soak, rest, last, code), "files": files}


def settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """What was run, and where."""
    return {
        "machine": machine().describe(),
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "model": "fake" if arguments.fake else arguments.model,
        "queue_full_minutes": arguments.minutes,
        "seed": arguments.seed,
    }


def report(soak: Soak, rest: dict[str, Any], last: dict[str, float], code: int) -> dict[str, Any]:
    """The figures, and whether they are as they must be."""
    rss = [one["rss_bytes"] for one in soak.samples]
    quarter = max(1, len(rss) // 4)
    middle, final = statistics.median(rss[quarter : 2 * quarter]), statistics.median(rss[-quarter:])
    files_first = soak.samples[0]["files"]
    pages = sum(model["kv_pages_used"] for model in rest["models"])
    checks = {
        "no fault": not soak.faults,
        "no page held": pages == 0,
        "books balance": all(model.get("balanced") for model in rest["models"]),
        "memory flat": final - middle < LEAK_BYTES,
        "files closed": last["files"] - files_first <= LEAK_FILES,
        "ended with 0": code == 0,
    }
    totals: Counter[str] = Counter()
    for name, count in soak.outcomes.items():
        totals[name.split()[1]] += count
    return {
        "requests": sum(soak.outcomes.values()),
        "seconds": round(soak.storm_s, 1),
        "outcomes": dict(sorted(totals.items())),
        "kinds": dict(sorted(soak.outcomes.items())),
        "while_full": dict(soak.full),
        "rss_middle_mb": round(middle / 1e6, 1),
        "rss_final_mb": round(final / 1e6, 1),
        "rss_peak_mb": round(max(rss) / 1e6, 1),
        "files_first": files_first,
        "files_peak": max(one["files"] for one in soak.samples),
        "files_last": last["files"],
        "threads_peak": max(one["threads"] for one in soak.samples),
        "kv_pages_used_at_rest": pages,
        "checks": checks,
        "faults": soak.faults[:50],
    }


def table(found: dict[str, Any]) -> str:
    """The figures, as they go into a document."""
    rows = [(name, found[name]) for name in ("model", "requests", "seconds", "queue_full_minutes")]
    rows += list(found["outcomes"].items())
    rows += [(f"while full: {name}", count) for name, count in found["while_full"].items()]
    rows += [(name, found[name]) for name in found if name.startswith(("rss", "files_", "kv"))]
    rows += [(name, "yes" if good else "NO") for name, good in found["checks"].items()]
    return "\n".join(["| what | figure |", "|---|---|", *(f"| {a} | {b} |" for a, b in rows)])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--minutes", type=float, default=10, help="the queue is held full")
    parser.add_argument("--clients", type=int, default=16, help="at once")
    parser.add_argument("--model", default="smollm2:135m")
    parser.add_argument("--fake", action="store_true", help="a fake engine instead of a model")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", default="soak.json")
    parser.add_argument("--serve", nargs="*", default=[], help="more options of `slipstream serve`")
    arguments = parser.parse_args()
    found = asyncio.run(run(arguments))
    write_record(found, Path(arguments.out), ROOT)
    print(table(found))
    for fault in found["faults"]:
        print(fault, file=sys.stderr)
    return 0 if all(found["checks"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
