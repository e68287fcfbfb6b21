"""Who takes part: Slipstream in its settings, and each peer in those that may be its best."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from contest import Task, Worker
from environment import KEPT, LLAMA_CPP, OPENVINO, TRANSFORMERS, python_of, vllm_python

from slipstream.bench import samples
from slipstream.machine import machine

US = "slipstream"
TWIN = "slipstream again"
UBATCHES = (128, 256, 512)


def context_of(options: argparse.Namespace) -> int:
    """Positions that every contestant makes room for: whole pages, 4096 or more."""
    needed = max(options.prompt, options.depth + options.decode)
    return max(4096, -(-needed // 1024) * 1024)


def contestants(options: argparse.Namespace, model: str, prefill: Task) -> list[Worker]:
    """Ours first, then every peer that was asked for."""
    us = [_ours(name, kv, model, options) for name, kv in _names_of_us(options)]
    return [*us, *_peers(options, model, prefill)]


def _names_of_us(options: argparse.Namespace) -> Sequence[tuple[str, str]]:
    """(name, pages) of each of ours: as it comes, perhaps again, and with other pages."""
    plain = [(US, ""), (TWIN, "")] if options.twice else [(US, "")]
    return [*plain, *((f"{US}, {kv} pages", kv) for kv in options.kv.split(",") if kv)]


def _ours(name: str, kv: str, model: str, options: argparse.Namespace) -> Worker:
    settings = {
        "model": model,
        "threads": options.threads,
        "activations": options.activations,
        "kv": kv or None,
        "context": context_of(options),
    }
    imported_from = {"PYTHONPATH": str(Path(samples.__file__).parents[2])}
    return Worker(name, Path(sys.executable), "worker_slipstream.py", settings, imported_from)


def _peers(options: argparse.Namespace, model: str, prefill: Task) -> list[Worker]:
    """Every peer that was asked for, in each of the settings that may be its best."""
    makers: dict[str, Callable[[], list[Worker]]] = {
        "llama.cpp": lambda: [
            _llama(_llama_settings(flash, model, options, prefill)) for flash in (True, False)
        ],
        "openvino": lambda: [_openvino(model, options, backend) for backend in ("PA", "SDPA")],
        "transformers": lambda: [
            _transformers(model, options, compiled) for compiled in (False, True)
        ],
        "vllm": lambda: [_vllm(model, options)],
    }
    names = [name for name in options.peers.split(",") if name]
    for name in names:
        if name not in makers:
            raise SystemExit(f"there is no peer {name!r}; choose among {', '.join(makers)}")
    return [worker for name in names for worker in makers[name]()]


def _llama(settings: Mapping[str, Any]) -> Worker:
    name = f"llama.cpp, flash attention {'on' if settings['flash'] else 'off'}"
    return Worker(name, python_of(LLAMA_CPP), "worker_llama_cpp.py", settings)


def _llama_settings(
    flash: bool, model: str, options: argparse.Namespace, prefill: Task
) -> dict[str, Any]:
    """llama.cpp's settings with the `ubatch` that makes its prefill fastest here."""
    base = {
        "model": model,
        "threads": options.threads,
        "flash": flash,
        "context": context_of(options),
    }
    if options.short:
        return {**base, "ubatch": 512}
    best = {}
    for ubatch in UBATCHES:
        with _llama({**base, "ubatch": ubatch}) as worker:
            times = [worker.ask(**prefill.command)["seconds"] for _ in range(4)]
            best[ubatch] = min(times[1:])
    return {**base, "ubatch": min(best, key=best.__getitem__)}


def _openvino(model: str, options: argparse.Namespace, backend: str) -> Worker:
    settings = {"model": model, "threads": options.threads, "backend": backend}
    name = f"OpenVINO GenAI, {'paged' if backend == 'PA' else 'stateful'} attention"
    return Worker(name, python_of(OPENVINO), "worker_openvino.py", settings)


def _float_type() -> str:
    """What torch multiplies fastest here: bfloat16 has instructions of its own since AVX-512."""
    return "bfloat16" if "avx512" in machine().isas else "float32"


def _transformers(model: str, options: argparse.Namespace, compiled: bool) -> Worker:
    settings = {
        "model": model,
        "threads": options.threads,
        "dtype": _float_type(),
        "compile": compiled,
        "kept": str(KEPT),
    }
    name = f"transformers {_float_type()}{', torch.compile' if compiled else ''}"
    return Worker(name, python_of(TRANSFORMERS), "worker_transformers.py", settings)


def _vllm(model: str, options: argparse.Namespace) -> Worker:
    settings = {
        "model": model,
        "threads": options.threads,
        "dtype": _float_type(),
        "context": context_of(options),
        "kept": str(KEPT),
    }
    environment = {
        "OMP_NUM_THREADS": str(options.threads),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_KVCACHE_SPACE": "2",  # GiB
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine in the process that times its steps
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": "",
    }
    name = f"vLLM {_float_type()}"
    return Worker(name, vllm_python(), "worker_vllm.py", settings, environment)
