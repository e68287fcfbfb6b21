"""Servers as contestants: each a process on a port of its own, all speaking OpenAI's API."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from slipstream.bench import load
from slipstream.bench.client import Target

PEERS = Path(__file__).resolve().parents[1] / "peers"
sys.path.insert(0, str(PEERS))
START_S = 600.0  # vLLM imports and warms up for minutes on a slow machine


@dataclass
class Running:
    """A server process. Used as a context: started and ready within, ended after."""

    name: str
    command: Sequence[str]
    port: int
    model: str
    extra: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)

    def __enter__(self) -> "Running":
        log = Path(f"{PEERS.parents[1]}/build/peers/{self.name.replace(' ', '-')}.log").open("w")
        began = time.perf_counter()
        environment = {**os.environ, **self.environment}
        self.process = subprocess.Popen(self.command, stdout=log, stderr=log, env=environment)
        while not self._ready():
            if self.process.poll() is not None or time.perf_counter() - began > START_S:
                raise SystemExit(f"{self.name} did not start; see {log.name}")
            time.sleep(0.01)
        self.start_s = time.perf_counter() - began
        return self

    def __exit__(self, *error: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()

    @property
    def target(self) -> Target:
        """Where load goes."""
        return Target(f"http://127.0.0.1:{self.port}/v1", self.model, self.extra)

    @property
    def resident_bytes(self) -> int:
        """The memory that it holds now, and shares with nobody's page cache counted in."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024

    def _ready(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/health", timeout=1).status_code == 200
        except httpx.HTTPError:
            return False


def slipstream_server(
    model: str, threads: int, slots: int, context: int, *more: str, name: str = "slipstream"
) -> Running:
    """Ours, as this source tree has it."""
    port = free_port()
    command = [sys.executable, "-m", "slipstream.cli.main", "serve", model, "--name", "model"]
    command += ["--port", str(port), "--max-batch", str(slots), "--context", str(context)]
    command += ["--threads", str(threads), "--response-cache", "off", *more]
    source = {"PYTHONPATH": str(Path(load.__file__).parents[2])}
    return Running(name, command, port, "model", {}, source)


def llama_server(model: str, threads: int, slots: int, context: int, flash: bool) -> Running:
    """llama.cpp's, with continuous batching; each slot gets `context` positions.

    No prompt cache: every prompt of a load is new, for all contestants.
    """
    from environment import llama_programs  # noqa: PLC0415  beside this folder, on sys.path

    port = free_port()
    command = [str(llama_programs("llama-server") / "llama-server"), "-m", model]
    command += ["--port", str(port), "-t", str(threads), "-np", str(slots)]
    command += ["-c", str(context * slots), "-fa", "on" if flash else "off", "--no-webui"]
    name = f"llama-server, flash attention {'on' if flash else 'off'}"
    return Running(name, command, port, "model", {"cache_prompt": False})


def vllm_server(python: Path, model: str, threads: int, slots: int, context: int) -> Running:
    """vLLM's CPU server, of the environment that has `python`; a Hugging Face folder, in bfloat16
    or as its own quantization says. README.md tells how to get one that starts.
    """
    port = free_port()
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    command += ["--served-model-name", "model", "--port", str(port), "--max-num-seqs", str(slots)]
    command += [
        "--max-model-len",
        str(context),
        "--dtype",
        "bfloat16",
        "--no-enable-prefix-caching",
        "--enforce-eager",  # its compilation was not seen to end on two cores
    ]
    environment = {
        "OMP_NUM_THREADS": str(threads),
        "VLLM_CPU_KVCACHE_SPACE": "2",  # GiB
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": "",
    }
    return Running("vLLM", command, port, "model", {}, environment)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
