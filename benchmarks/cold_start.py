"""Seconds from the start of a process to its first token, its processor time and its memory.

    python benchmarks/cold_start.py [--model MODEL] [--starts 5]   # where Slipstream is installed
    python benchmarks/peers/shapes.py 1B Q4_0                      # a model of a billion, then
    python benchmarks/cold_start.py --model build/peers/shapes/1B-Q4_0.gguf

Every row is a new process over a warm page cache. "nothing kept" packs the weights anew, as a first
start does (SLIPSTREAM_PACKED_MB=0); the others map what an earlier start kept. Bytecode is cached,
as an installed package has it.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

PARSER = argparse.ArgumentParser(description="From the start of a process to its first token.")
PARSER.add_argument("--model", default="smollm2:135m", help="a name, a file or a folder")
PARSER.add_argument("--starts", type=int, default=5, help="processes of each row")
OPTIONS = PARSER.parse_args()
MODEL = OPTIONS.model
BYTECODE = tempfile.TemporaryDirectory()  # of a checkout whose environment forbids to write it
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ["PYTHONPYCACHEPREFIX"] = BYTECODE.name
COMMAND = [str(Path(sys.executable).with_name("slipstream"))]
if not Path(COMMAND[0]).exists():  # a checkout, run with PYTHONPATH=src
    COMMAND = [sys.executable, "-m", "slipstream.cli.main"]
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
NOTHING_KEPT = {**os.environ, "SLIPSTREAM_PACKED_MB": "0"}
GENERATE = [*COMMAND, "generate", MODEL, "-p", "Hello", "-n", "8"]


@dataclass(frozen=True)
class Start:
    """One process, up to its first token."""

    seconds: float
    cpu_s: float
    resident_mb: float


def generate(env: dict[str, str] | None = None) -> Start:
    begun = time.perf_counter()
    process = subprocess.Popen(GENERATE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env)
    assert process.stdout is not None and process.stdout.read(1)
    return _finish(process, begun)


def serve(env: dict[str, str] | None = None) -> Start:
    port = _free_port()
    begun = time.perf_counter()
    command = [*COMMAND, "serve", MODEL, "--name", "it", "--port", str(port)]
    process = subprocess.Popen(command, env=env, **QUIET)
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        assert process.poll() is None, "the server ended"
        time.sleep(0.01)
    body = {"model": "it", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    headers = {"Content-Type": "application/json"}
    urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers)).read()
    return _finish(process, begun)


def help_text() -> Start:
    begun = time.perf_counter()
    process = subprocess.Popen([*COMMAND, "--help"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.read()
    return _finish(process, begun)


def _finish(process: subprocess.Popen, begun: float) -> Start:
    seconds = time.perf_counter() - begun
    ticks = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    status = Path(f"/proc/{process.pid}/status").read_text()
    resident = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")]
    process.terminate()
    process.wait()
    cpu_s = sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
    return Start(seconds, cpu_s, (resident or [0])[0] / 1024)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main() -> None:
    subprocess.run(GENERATE, check=True, **QUIET)  # warms the page cache, keeps packed weights
    serve()  # and compiles what only a server imports
    for name, start in {
        "generate": generate,
        "serve": serve,
        "generate, nothing kept": lambda: generate(NOTHING_KEPT),
        "serve, nothing kept": lambda: serve(NOTHING_KEPT),
        "--help": help_text,
    }.items():
        found = [start() for _ in range(OPTIONS.starts)]
        seconds = [one.seconds for one in found]
        cpu_s, resident = (
            statistics.median(values)
            for values in ([one.cpu_s for one in found], [one.resident_mb for one in found])
        )
        print(
            f"{name:23} {statistics.median(seconds):.2f} s ({min(seconds):.2f} … "
            f"{max(seconds):.2f}), processor {cpu_s:.2f} s, resident {resident:.0f} MiB",
            flush=True,
        )


if __name__ == "__main__":
    main()
