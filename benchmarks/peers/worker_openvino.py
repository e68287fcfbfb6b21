"""The contestant OpenVINO GenAI, which reads the same GGUF file with its own reader.

Timed through `generate` on token ids, greedy, without its prefix cache: the time to the first token
is the prefill, what follows is the decoding; its sampling is inside, as it has no smaller step.
Settings: {"model": path, "threads": n, "backend": "PA" | "SDPA"}.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import openvino as ov
import openvino_genai as genai
from protocol import serve

ROWS_MAX = 4096  # of one step: a prompt is processed in one go


class OpenVINO:
    """One pipeline."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        options: dict[str, Any] = {"INFERENCE_NUM_THREADS": settings["threads"]}
        if settings["backend"] == "SDPA":
            options["ATTENTION_BACKEND"] = "SDPA"
        else:
            scheduling = genai.SchedulerConfig()
            scheduling.enable_prefix_caching = False
            scheduling.max_num_batched_tokens = ROWS_MAX
            scheduling.cache_size = 1
            options["scheduler_config"] = scheduling
        self.pipeline = genai.LLMPipeline(settings["model"], "CPU", **options)

    def prefill(self, ids: Sequence[int]) -> float:
        return self._generate(ids, 1)[1]

    def decode(self, prompt: Sequence[int], ids: Sequence[int]) -> float:
        rest_s = self._generate(prompt, len(ids) + 1)[2]
        return rest_s

    def greedy(self, prompt: Sequence[int], count: int) -> list[int]:
        return self._generate(prompt, count)[0]

    def _generate(self, ids: Sequence[int], count: int) -> tuple[list[int], float, float]:
        """The answer, the seconds to its first token, and those of the others together."""
        config = genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos, config.do_sample = count, True, False
        given = np.array([ids], np.int64)
        inputs = genai.TokenizedInputs(ov.Tensor(given), ov.Tensor(np.ones_like(given)))
        done = self.pipeline.generate(inputs, config)
        metrics = done.perf_metrics
        tokens = list(done.tokens[0])
        first_s = metrics.get_ttft().mean / 1000
        rest_s = metrics.get_tpot().mean / 1000 * (len(tokens) - 1) if len(tokens) > 1 else 0.0
        return tokens, first_s, rest_s


def open_engine(settings: Mapping[str, Any]) -> tuple[OpenVINO, dict[str, Any]]:
    """The pipeline, and which version it is."""
    return OpenVINO(settings), {"version": genai.get_version()}


if __name__ == "__main__":
    serve(open_engine)
