"""SmolLM2 as it is pulled: sane text, and in float32 the logits of the reference."""

import numpy as np
import pytest

from slipstream.backends.batch import PAGE_SIZE, Batch
from slipstream.backends.native import NativeOptions, compile_native, native_module
from slipstream.backends.reference import compile_reference
from slipstream.errors import MachineError
from slipstream.models.load import load

try:
    native_module()
except MachineError:
    pytest.skip("the native kernels were not built", allow_module_level=True)

QUESTION = "What is the capital of France?"


@pytest.fixture(scope="module")
def model(smollm2_path):
    return load(smollm2_path)


def prompt_of(model, question: str) -> list[int]:
    text = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    return model.tokenizer.encode(text, special=True)


def batch_of(ids, length: int, pages: int, all_logits: bool = False) -> Batch:
    rows = range(len(ids)) if all_logits else [len(ids) - 1]
    return Batch(
        ids=np.array(ids, np.int32),
        row_starts=np.array([0, len(ids)], np.int32),
        lengths=np.array([length], np.int32),
        pages=np.arange(pages, dtype=np.int32)[None, :],
        logit_rows=np.array(rows, np.int32),
    )


def greedy(program, prompt: list[int], count: int, ends: frozenset[int]) -> list[int]:
    pages = -(-(len(prompt) + count) // PAGE_SIZE)
    kv = program.new_kv(pages)
    logits = program.step(batch_of(prompt, 0, pages), kv)
    written: list[int] = []
    while len(written) < count:
        written.append(int(logits[0].argmax()))
        if written[-1] in ends:
            break
        length = len(prompt) + len(written) - 1
        logits = program.step(batch_of(written[-1:], length, pages), kv)
    return written


def test_it_knows_the_capital_of_france(model):
    program = compile_native(model.graph, model.weights, NativeOptions(threads=2))
    ids = greedy(program, prompt_of(model, QUESTION), 24, model.tokenizer.eos_ids)
    assert "Paris" in model.tokenizer.decode(ids)


def test_float_activations_agree_with_the_reference(model):
    """Thirty layers deep, only float32's own rounding is left between the two."""
    options = NativeOptions(2, activations="f32", kv_dtype="float32")
    ids = prompt_of(model, QUESTION)
    batch = batch_of(ids, 0, 1, all_logits=True)
    native, truth = (
        program.step(batch, program.new_kv(1))
        for program in (
            compile_native(model.graph, model.weights, options),
            compile_reference(model.graph, model.weights),
        )
    )
    assert np.abs(native - truth).max() < 1e-4 * np.abs(truth).max()
