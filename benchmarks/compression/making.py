"""How either side compresses one dense folder, each in a process of its own; `peers.py` calls it.

A process tells its seconds (of the clock and of the processor) and its peak memory, libraries
included. What was made is kept beside what was ordered. A peer's is made again only if the method,
the weights or the text differ; ours is made anew, unless the caller takes what an earlier run made.
"""

import hashlib
import json
import multiprocessing
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks" / "peers"))
from environment import Peer, python_of  # noqa: E402

from slipstream.checkpoint.artifact import write_artifact  # noqa: E402
from slipstream.cli.compress_session import compile_exact  # noqa: E402
from slipstream.compress.carry_out import carry_out  # noqa: E402
from slipstream.compress.chain import read_chain  # noqa: E402
from slipstream.compress.work import Edition  # noqa: E402
from slipstream.models.load import load  # noqa: E402
from slipstream.models.model import Model  # noqa: E402
from slipstream.optimize.write import whole_tensors  # noqa: E402

TORCH = "torch==2.13.0"
LLM_COMPRESSOR = Peer("llm-compressor", "llmcompressor==0.14.0.1", beside=(TORCH,))
AUTO_ROUND = Peer("auto-round", "auto-round==0.16.1", beside=(TORCH,))
INT4 = "bits = 4\ngroup = 64\n"
OURS = {
    "rtn": f'[[pass]]\nmethod = "rtn"\n{INT4}',
    "gptq": f'[[pass]]\nmethod = "gptq"\n{INT4}',
    "awq": f'[[pass]]\nmethod = "awq"\n{INT4}',
    "sparsegpt": '[[pass]]\nmethod = "sparsegpt"\nsparsity = 0.5\n',
    "wanda": '[[pass]]\nmethod = "wanda"\nsparsity = 0.5\n',
    "signround": f'[[pass]]\nmethod = "signround"\n{INT4}',
}


@dataclass(frozen=True)
class Task:
    """One method on one model, with so many threads."""

    model: str
    chunks: str
    method: str
    out: str
    threads: int
    dtype: str = "float32"  # that a peer computes in; ours reads what is stored
    light: bool = False  # AutoRound's recipe of that name: 50 steps instead of 200


@dataclass(frozen=True)
class Told:
    """What a process told of its work; peak memory is that of the process."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int


def peer_of(method: str) -> Peer:
    """Whose implementation stands against ours."""
    return AUTO_ROUND if method == "signround" else LLM_COMPRESSOR


def make_ours(task: Task, take_kept: bool = False) -> Told:
    """In a process of its own, so that the peak is that of this method."""
    made, wanted = Path(f"{task.out}-made.json"), {"chain": OURS[task.method], **_inputs(task)}
    kept = _kept(task, made, wanted) if take_kept else None
    if kept is not None:
        return kept
    shutil.rmtree(task.out, ignore_errors=True)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        told = pool.apply(compress, (task,))
    made.write_text(json.dumps({"wanted": wanted, "told": asdict(told)}))
    return told


def compress(task: Task) -> Told:
    """Our side; the time is that of compressing, as theirs is."""
    model = load(task.model)
    edition = Edition(model.checkpoint.config, model.graph, model.weights)
    chain = read_chain(OURS[task.method])
    began, worked = time.perf_counter(), time.process_time()
    run = Path(task.out + "-run")
    shutil.rmtree(run, ignore_errors=True)
    after = carry_out(chain, edition, compile_exact, np.load(task.chunks), run)
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - worked
    peak = peak_bytes()
    write(model, after, Path(task.out))
    shutil.rmtree(run)
    return Told(seconds, cpu_seconds, peak)


def peak_bytes() -> int:
    """Of this process. `ru_maxrss` would not do: it begins at what the parent held at the fork."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def make_theirs(task: Task, python: Path | None = None) -> Told:
    """The peer, with its own interpreter (made at need, or given); kept from an earlier run."""
    peer = peer_of(task.method)
    made, order = Path(f"{task.out}-made.json"), Path(f"{task.out}-order.json")
    wanted = {"peer": peer.requirement, **_inputs(task)}
    kept = _kept(task, made, wanted)
    if kept is not None:
        return kept
    shutil.rmtree(task.out, ignore_errors=True)
    order.write_text(json.dumps(asdict(task)))
    worker = Path(__file__).with_name(f"worker_{peer.name.replace('-', '_')}.py")
    command = [str(python or python_of(peer)), str(worker), str(order)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{peer.requirement} failed at {task.method}; its own words are above")
    told = Told(**json.loads(done.stdout.strip().splitlines()[-1]))
    made.write_text(json.dumps({"wanted": wanted, "told": asdict(told)}))
    return told


def _kept(task: Task, made: Path, wanted: dict[str, str]) -> Told | None:
    """What an earlier process told, if it was given the same."""
    if not made.exists() or not Path(task.out).exists():
        return None
    earlier = json.loads(made.read_text())
    return Told(**earlier["told"]) if earlier["wanted"] == wanted else None


def _inputs(task: Task) -> dict[str, str]:
    """The weights and the text, by their hash, and what else decides."""
    digest = hashlib.sha256()
    for path in (*sorted(Path(task.model).glob("*.safetensors")), Path(task.chunks)):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    given = {"method": task.method, "threads": str(task.threads), "dtype": task.dtype}
    given |= {"light": "yes"} if task.light and task.method == "signround" else {}
    return {"inputs": digest.hexdigest()[:16], **given}


def dense_folder(model: Model, folder: Path) -> Path:
    """The original as a Hugging Face folder, which both sides read."""
    edition = Edition(model.checkpoint.config, model.graph, model.weights)
    return folder if folder.exists() else write(model, edition, folder)


def write(model: Model, edition: Edition, folder: Path) -> Path:
    """An edition as a folder; only its weights count here."""
    named = {name: edition.weights[name] for name in edition.graph.weight_names()}
    return write_artifact(
        folder,
        config=edition.config,
        tensors=whole_tensors(named),
        tokenizer=model.tokenizer,
        chat_template=None,
        manifest={},
        activations={},
    )
