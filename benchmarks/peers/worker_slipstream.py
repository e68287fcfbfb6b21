"""The contestant Slipstream: the native backend, one program, timed as its peers are.

Settings: {"model": path, "threads": n, "activations": "auto" | "int8" | "f32",
"kv": how pages hold keys and values, or null, "context": n}.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from protocol import CONTEXT_COMPUTED, serve

from slipstream.backends.batch import PAGE_SIZE
from slipstream.backends.native import NativeOptions, compile_native
from slipstream.bench.workload import decode_batches, prefill_batch
from slipstream.machine import forced_isa, machine
from slipstream.models.load import load

CONTEXT = 4096  # unless the task is deeper


class Slipstream:
    """One program and its KV pages."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        model = load(settings["model"])
        options = NativeOptions(
            threads=settings["threads"],
            activations=settings["activations"],
            kv_dtype=settings.get("kv"),
        )
        wishes = model.checkpoint.activations
        self.program = compile_native(model.graph, model.weights, options, settings=wishes)
        self.kv = self.program.new_kv(settings.get("context", CONTEXT) // PAGE_SIZE)
        self.vocabulary = model.graph.vocabulary

    def prefill(self, ids: Sequence[int]) -> float:
        batch = prefill_batch(_row(ids))
        start = time.perf_counter()
        self.program.step(batch, self.kv)
        return time.perf_counter() - start

    def decode(self, prompt: Sequence[int], ids: Sequence[int]) -> float:
        first = prompt[:CONTEXT_COMPUTED]
        self.program.step(prefill_batch(_row(first)), self.kv)
        computed = len(first) // PAGE_SIZE
        for page in range(-(-len(first) // PAGE_SIZE), -(-len(prompt) // PAGE_SIZE)):
            self.kv.copy_page(page % computed, page)
        batches = list(decode_batches(_row([*prompt, *ids]), len(prompt), len(ids)))
        start = time.perf_counter()
        for batch in batches:
            self.program.step(batch, self.kv)
        return time.perf_counter() - start

    def greedy(self, prompt: Sequence[int], count: int) -> list[int]:
        ids = list(prompt)
        logits = self.program.step(prefill_batch(_row(ids)), self.kv)
        for _ in range(count):
            ids.append(int(logits[-1].argmax()))
            (batch,) = decode_batches(_row(ids), len(ids) - 1, 1)
            logits = self.program.step(batch, self.kv)
        return ids[len(prompt) :]


def _row(ids: Sequence[int]) -> np.ndarray:
    return np.asarray(ids, np.int32)[None, :]


def open_engine(settings: Mapping[str, Any]) -> tuple[Slipstream, Mapping[str, Any]]:
    engine = Slipstream(settings)
    about = {
        "engine": "slipstream",
        "version": "this checkout",
        "vocabulary": engine.vocabulary,
        "system": f"{machine().describe()}, path {forced_isa() or machine().isas[-1]}",
    }
    return engine, about


if __name__ == "__main__":
    serve(open_engine)
