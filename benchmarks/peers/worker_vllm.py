"""The contestant vLLM on its CPU backend, whose engine steps in this process are timed.

It reads no GGUF: it gets the folder that `worker_transformers.py` keeps of it. Without
torch.compile (`enforce_eager`), which was not seen to end on two cores. Its sampling is inside, as
it has no smaller step; a prompt goes through in one. Its pages cannot be written from outside, so a
long context is computed.
Settings: {"model": path, "threads": n, "dtype": "float32" | "bfloat16", "context": n,
"kept": folder}.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import vllm
from protocol import serve
from vllm import EngineArgs, LLMEngine, SamplingParams


class VLLM:
    """One engine; requests are numbered."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        gguf, kept = Path(settings["model"]), Path(settings["kept"])
        folder = kept / f"{gguf.stem}-{gguf.stat().st_size}-{settings['dtype']}"
        if not folder.exists():
            raise SystemExit(f"no {folder.name}: prepare transformers first (--peers transformers)")
        self.engine = LLMEngine.from_engine_args(
            EngineArgs(
                model=str(folder),
                dtype=settings["dtype"],
                skip_tokenizer_init=True,
                enforce_eager=True,
                enable_prefix_caching=False,
                max_model_len=settings["context"],
                max_num_batched_tokens=settings["context"],
                max_num_seqs=1,
            )
        )
        self.requests = 0

    def prefill(self, ids: Sequence[int]) -> float:
        return self._generate(ids, 1)[1]

    def decode(self, prompt: Sequence[int], ids: Sequence[int]) -> float:
        return self._generate(prompt, len(ids) + 1)[2]

    def greedy(self, prompt: Sequence[int], count: int) -> list[int]:
        return self._generate(prompt, count)[0]

    def _generate(self, ids: Sequence[int], count: int) -> tuple[list[int], float, float]:
        """The answer, the seconds of the step that gave its first token, and of the others."""
        self.requests += 1
        wish = SamplingParams(temperature=0.0, max_tokens=count, ignore_eos=True, detokenize=False)
        prompt = {"prompt_token_ids": list(ids)}
        self.engine.add_request(str(self.requests), prompt, wish)
        answer: list[int] = []
        began = time.perf_counter()
        first_s = 0.0
        while self.engine.has_unfinished_requests():
            for output in self.engine.step():
                answer = list(output.outputs[0].token_ids)
            if answer and not first_s:
                first_s = time.perf_counter() - began
        return answer, first_s, time.perf_counter() - began - first_s


def open_engine(settings: Mapping[str, Any]) -> tuple[VLLM, dict[str, Any]]:
    """The engine, and which version it is."""
    return VLLM(settings), {"version": vllm.__version__}


if __name__ == "__main__":
    serve(open_engine)
