"""The contestant transformers on torch, eager or through torch.compile, in float32 or bfloat16.

The GGUF file is dequantized by transformers itself. Timed as whole forward calls with a cache of
keys and values; greedy decoding is an argmax outside the clock's concern.
Settings: {"model": path, "threads": n, "dtype": "float32" | "bfloat16", "compile": bool}.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from protocol import serve
from transformers import AutoModelForCausalLM, DynamicCache


class Transformers:
    """One model and one growing cache."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        torch.set_num_threads(settings["threads"])
        path = Path(settings["model"])
        self.model = AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=getattr(torch, settings["dtype"])
        ).eval()
        self.forward = (
            torch.compile(self.model, dynamic=True) if settings["compile"] else self.model
        )

    @torch.inference_mode()
    def prefill(self, ids: Sequence[int]) -> float:
        return self._run(ids, self._cache())[0]

    @torch.inference_mode()
    def decode(self, prompt: Sequence[int], ids: Sequence[int]) -> float:
        cache = self._cache()
        self._run(prompt, cache)
        return sum(self._run([token], cache)[0] for token in ids)

    @torch.inference_mode()
    def greedy(self, prompt: Sequence[int], count: int) -> list[int]:
        cache, found, ids = self._cache(), [], list(prompt)
        for _ in range(count):
            token = self._run(ids, cache)[1]
            found.append(token)
            ids = [token]
        return found

    def _cache(self) -> DynamicCache:
        return DynamicCache(config=self.model.config)

    def _run(self, ids: Sequence[int], cache: DynamicCache) -> tuple[float, int]:
        """Seconds, and the most likely next token."""
        given = torch.tensor([list(ids)])
        began = time.perf_counter()
        logits = self.forward(input_ids=given, past_key_values=cache, logits_to_keep=1).logits
        seconds = time.perf_counter() - began
        return seconds, int(logits[0, -1].argmax())


def open_engine(settings: Mapping[str, Any]) -> tuple[Transformers, dict[str, Any]]:
    """The model, and the versions."""
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return Transformers(settings), versions


if __name__ == "__main__":
    serve(open_engine)
