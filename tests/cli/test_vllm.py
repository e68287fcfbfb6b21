"""vLLM loads what artifacts hold and answers as we do; skips where vLLM is not installed.

`python benchmarks/peers/run.py --prepare --peers vllm` makes the environment that is looked for.
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from slipstream.backends.batch import single
from slipstream.backends.native import compile_native
from slipstream.checkpoint.artifact import write_artifact
from slipstream.formats.affine import quantize_affine
from slipstream.formats.tensor import Affine, DenseTensor, Tensor
from slipstream.graph.ops import Activations
from slipstream.models.load import load

ROOT = Path(__file__).resolve().parents[2]
PROMPTS = ["The capital of France is", "Water boils at", "Once upon a time there was"]
TOKENS = 10
INT8 = Affine(8, None)
THEIRS = """
import json, sys
from vllm import LLM, SamplingParams

if __name__ == "__main__":
    folder, prompts, tokens = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
    llm = LLM(folder, enforce_eager=True, max_model_len=512, dtype="float32", max_num_seqs=4)
    answers = llm.generate(prompts, SamplingParams(temperature=0, max_tokens=tokens))
    ids = [list(answer.outputs[0].token_ids) for answer in answers]
    print("IDS", json.dumps(ids), flush=True)
"""


@pytest.fixture
def vllm_python() -> str:
    found = os.environ.get("VLLM_PYTHON") or str(ROOT / "build/peers/vllm/bin/python")
    if not Path(found).is_file():
        pytest.skip("vLLM is not installed below build/peers")
    return found


def their_tokens(python: str, folder: Path, script: Path) -> list[list[int]]:
    script.write_text(THEIRS)
    environment = {name: os.environ[name] for name in os.environ if name != "PYTHONPATH"}
    done = subprocess.run(
        [python, str(script), str(folder), json.dumps(PROMPTS), str(TOKENS)],
        env=environment | {"VLLM_CPU_KVCACHE_SPACE": "1"},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith("IDS ")]
    assert lines, done.stderr[-2000:]
    return json.loads(lines[0][4:])


def write_int8(source: Path, folder: Path) -> Path:
    """Linears int8 a row with inputs likewise; the tied table stays dense, as vLLM wants it."""
    model = load(source)
    tensors: dict[str, Tensor] = {}
    for name in model.weights:
        values = model.weights[name].dequantize()
        linear = name.endswith("_proj.weight")
        tensors[name] = quantize_affine(values, INT8) if linear else DenseTensor(values)
    inputs = {name: Activations(8) for name in tensors if name.endswith("_proj.weight")}
    return write_artifact(
        folder, config=model.checkpoint.config, tensors=tensors, tokenizer=model.tokenizer,
        chat_template=None, manifest={}, activations=inputs,
    )  # fmt: skip


@pytest.mark.slow
def test_vllm_answers_from_an_artifact_as_we_would(vllm_python, smollm2_path, tmp_path) -> None:
    """Rows rounded with one scale part near ties: where vLLM picks another token than our highest,
    ours is hardly higher.
    """
    out = write_int8(smollm2_path, tmp_path / "out")
    model = load(out)
    program = compile_native(model.graph, model.weights, settings=model.activations)
    below = []
    for prompt, answer in zip(
        PROMPTS, their_tokens(vllm_python, out, tmp_path / "ask.py"), strict=True
    ):
        ids = model.tokenizer.encode(prompt) + answer[:-1]
        logits = program.step(single(ids, all_logits=True), program.new_kv(1))[-TOKENS:]
        below += list(logits.max(1) - logits[np.arange(TOKENS), answer])
    print(
        f"\n{below.count(0.0)} of {len(below)} tokens are ours, the others at most {max(below):.2f} lower"
    )
    assert max(below) < 1.0 and below.count(0.0) >= 0.7 * len(below)
