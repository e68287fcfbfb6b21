"""The contestant llama.cpp, through the C interface that llama-cpp-python exposes.

Timed as llama-bench does it: whole `llama_decode` calls, no sampling, the cache cleared before. A
context of more than CONTEXT_COMPUTED positions repeats its first ones (llama_state.py).
Settings: {"model": path, "threads": n, "flash": bool, "ubatch": n,
"context": n}.
"""

import ctypes
import time
from collections.abc import Mapping, Sequence
from typing import Any

import llama_cpp as ll
from llama_state import stretched
from protocol import CONTEXT_COMPUTED, serve

CONTEXT = 4096  # unless the task is deeper


class LlamaCpp:
    """One model and one context."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        quiet = ll.llama_log_callback(lambda level, text, data: None)
        self.quiet = quiet  # the library keeps the pointer, so it must live as long
        ll.llama_log_set(quiet, ctypes.c_void_p(0))
        ll.llama_backend_init()
        model_params = ll.llama_model_default_params()
        self.model = ll.llama_model_load_from_file(settings["model"].encode(), model_params)
        if not self.model:
            raise RuntimeError(f"llama.cpp cannot load {settings['model']}")
        params = ll.llama_context_default_params()
        params.n_ctx = params.n_batch = settings.get("context", CONTEXT)
        params.n_ubatch = settings["ubatch"]
        params.n_threads = params.n_threads_batch = settings["threads"]
        params.flash_attn_type = (
            ll.LLAMA_FLASH_ATTN_TYPE_ENABLED
            if settings["flash"]
            else ll.LLAMA_FLASH_ATTN_TYPE_DISABLED
        )
        self.context = ll.llama_init_from_model(self.model, params)
        if not self.context:
            raise RuntimeError("llama.cpp cannot make a context")
        self.vocabulary = ll.llama_vocab_n_tokens(ll.llama_model_get_vocab(self.model))

    def prefill(self, ids: Sequence[int]) -> float:
        self._clear()
        tokens = _array(ids)
        start = time.perf_counter()
        self._run(tokens, len(ids))
        return time.perf_counter() - start

    def decode(self, prompt: Sequence[int], ids: Sequence[int]) -> float:
        self._fill(prompt)
        tokens = [_array([token]) for token in ids]
        start = time.perf_counter()
        for token in tokens:
            self._run(token, 1)
        return time.perf_counter() - start

    def greedy(self, prompt: Sequence[int], count: int) -> list[int]:
        self._clear()
        self._run(_array(prompt), len(prompt))
        found: list[int] = []
        for _ in range(count):
            logits = ll.llama_get_logits_ith(self.context, -1)[: self.vocabulary]
            found.append(max(range(self.vocabulary), key=logits.__getitem__))
            self._run(_array(found[-1:]), 1)
        return found

    def _fill(self, prompt: Sequence[int]) -> None:
        self._clear()
        first = prompt[:CONTEXT_COMPUTED]
        self._run(_array(first), len(first))
        if len(prompt) > len(first):
            short = (ctypes.c_uint8 * ll.llama_state_seq_get_size(self.context, 0))()
            ll.llama_state_seq_get_data(self.context, short, len(short), 0)
            long = stretched(bytes(short), len(prompt))
            given = (ctypes.c_uint8 * len(long)).from_buffer_copy(long)
            if ll.llama_state_seq_set_data(self.context, given, len(long), 0) != len(long):
                raise RuntimeError("llama.cpp does not take back its lengthened state")

    def _clear(self) -> None:
        ll.llama_memory_clear(ll.llama_get_memory(self.context), True)

    def _run(self, tokens: ctypes.Array, count: int) -> None:
        status = ll.llama_decode(self.context, ll.llama_batch_get_one(tokens, count))
        if status != 0:
            raise RuntimeError(f"llama_decode answered {status}")
        ll.llama_synchronize(self.context)


def _array(ids: Sequence[int]) -> ctypes.Array:
    return (ll.llama_token * len(ids))(*ids)


def open_engine(settings: Mapping[str, Any]) -> tuple[LlamaCpp, Mapping[str, Any]]:
    engine = LlamaCpp(settings)
    system = ll.llama_print_system_info().decode()
    about = {
        "engine": "llama.cpp",
        "version": f"llama-cpp-python {ll.__version__}",
        "vocabulary": engine.vocabulary,
        "system": system,
    }
    return engine, about


if __name__ == "__main__":
    serve(open_engine)
