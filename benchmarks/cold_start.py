"""Seconds from the start of a process to its first token, and to the end of `--help`.

python benchmarks/cold_start.py    # with the interpreter that has Slipstream installed
"""

import json
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

SLIPSTREAM = str(Path(sys.executable).with_name("slipstream"))
MODEL = "smollm2:135m"
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def generate_s() -> float:
    start = time.perf_counter()
    words = [SLIPSTREAM, "generate", MODEL, "-p", "Hello", "-n", "8"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None and process.stdout.read(1)
    seconds = time.perf_counter() - start
    process.wait()
    return seconds


def serve_s(port: int) -> float:
    start = time.perf_counter()
    process = subprocess.Popen([SLIPSTREAM, "serve", MODEL, "--port", str(port)], **QUIET)
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.01)
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    headers = {"Content-Type": "application/json"}
    urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers)).read()
    seconds = time.perf_counter() - start
    process.terminate()
    process.wait()
    return seconds


def help_s() -> float:
    start = time.perf_counter()
    subprocess.run([SLIPSTREAM, "--help"], check=True, **QUIET)
    return time.perf_counter() - start


if __name__ == "__main__":
    generate_s()  # brings the files into the page cache
    for name, samples in {
        "generate": [generate_s() for _ in range(5)],
        "serve": [serve_s(8100 + i) for i in range(4)],
        "--help": [help_s() for _ in range(5)],
    }.items():
        low, high = min(samples), max(samples)
        print(f"{name:9} {statistics.median(samples):.2f} s ({low:.2f} … {high:.2f})")
