"""The contestant transformers on torch, eager or through torch.compile, in float32 or bfloat16.

It reads the GGUF file with its own reader, which takes a minute, so the dequantized model is kept
as a folder; what torch.compile made is kept beside it. Timed as whole forward calls with a cache of
keys and values; greedy decoding is an argmax outside the clock's concern.
Settings: {"model": path, "threads": n, "dtype": "float32" | "bfloat16", "compile": bool,
"kept": folder}.
"""

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SETTINGS = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {"kept": "."}
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path(SETTINGS["kept"]) / "compiled"))

import torch  # noqa: E402  it reads the variable above
import transformers  # noqa: E402
from protocol import CONTEXT_COMPUTED, serve  # noqa: E402
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel  # noqa: E402


class Transformers:
    """One model and one growing cache."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        torch.set_num_threads(settings["threads"])
        self.model = load(Path(settings["model"]), settings["dtype"], Path(settings["kept"]))
        self.forward = (
            torch.compile(self.model, dynamic=True) if settings["compile"] else self.model
        )

    @torch.inference_mode()
    def prefill(self, ids: Sequence[int]) -> float:
        return self._run(ids, self._cache())[0]

    @torch.inference_mode()
    def decode(self, prompt: Sequence[int], ids: Sequence[int]) -> float:
        cache = self._cache()
        self._run(prompt[:CONTEXT_COMPUTED], cache)
        lengthen(cache, len(prompt))
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


def load(gguf: Path, dtype: str, kept: Path) -> PreTrainedModel:
    """The model in `dtype`, from its folder below `kept`, which the first call writes."""
    folder = kept / f"{gguf.stem}-{gguf.stat().st_size}-{dtype}"
    if not folder.exists():
        part = folder.with_name(f"{folder.name}.part")
        _dequantized(gguf, getattr(torch, dtype)).save_pretrained(part)
        part.rename(folder)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()


def _dequantized(gguf: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The model as an ordinary one; what comes from a GGUF cannot be saved, though it is dense."""
    read = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=dtype)
    del read.config.quantization_config
    model = AutoModelForCausalLM.from_config(read.config, dtype=dtype)
    model.load_state_dict(read.state_dict())
    return model


def lengthen(cache: DynamicCache, count: int) -> None:
    """Repeats the keys and values of a cache until it holds `count` positions."""
    for layer in cache.layers:
        source = torch.arange(count) % layer.keys.shape[2]
        if count > layer.keys.shape[2]:
            layer.keys, layer.values = layer.keys[:, :, source], layer.values[:, :, source]


def open_engine(settings: Mapping[str, Any]) -> tuple[Transformers, dict[str, Any]]:
    """The model, and the versions."""
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return Transformers(settings), versions


if __name__ == "__main__":
    serve(open_engine)
