"""How much memory a model takes at its peak, measured in a process of its own.

A process that has compiled one model already, or measured another, cannot say; so `peak_memory`
starts a fresh interpreter that runs this file, does the workload once, and reports.
"""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from slipstream.backends.native import NativeOptions, compile_native
from slipstream.bench.offline import Contestant
from slipstream.bench.workload import Workload
from slipstream.errors import SlipstreamError
from slipstream.models.load import load


def peak_memory_bytes(model: str, options: NativeOptions, workload: Workload) -> int:
    """The peak resident bytes of a process that loads `model` and runs `workload` once."""
    job = json.dumps(
        {"model": model, "options": asdict(options), "workload": asdict(workload)},
    )
    command = [sys.executable, "-m", "slipstream.bench.memory", job]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise SlipstreamError(f"{model} could not be measured alone: {reason}")
    return int(done.stdout.split()[-1])


def own_peak_bytes() -> int:
    """The largest resident size this process has had."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise SlipstreamError("this system does not say how much memory a process has taken")


def main(job_text: str) -> None:
    """Runs the job that `peak_memory_bytes` describes; prints the bytes."""
    job = json.loads(job_text)
    model = load(job["model"])
    options = NativeOptions(**job["options"])
    wishes = model.activations
    program = compile_native(model.graph, model.weights, options, settings=wishes)
    Contestant(program, Workload(**job["workload"])).turn()
    print(own_peak_bytes())


if __name__ == "__main__":
    main(sys.argv[1])
