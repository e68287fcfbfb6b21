"""On the real model, greedy text of the native backend is the reference's, or a near tie decides."""

import numpy as np
import pytest

from slipstream.backends.batch import PAGE_SIZE, Batch, single
from slipstream.backends.native import NativeOptions, compile_native, native_module
from slipstream.backends.reference import compile_reference
from slipstream.errors import MachineError
from slipstream.models.load import load

try:
    native_module()
except MachineError:
    pytest.skip("the native kernels were not built", allow_module_level=True)

pytestmark = pytest.mark.slow

TOKENS = 128
PROMPTS = """The capital of France is
Once upon a time, in a small village by the sea,
def fibonacci(n):
The three laws of motion are
Water boils at a temperature of
Dear Sir or Madam, I am writing to
In 1969, the first human
The recipe needs two eggs, a cup of flour and
Photosynthesis is the process by which
To be, or not to be, that is
The stock market fell sharply on Monday after
Q: What is the largest planet? A:
She opened the door and saw
The difference between a virus and a bacterium is
List of primes: 2, 3, 5, 7,
My favorite book is
The patient was admitted with
import numpy as np
An apple a day
The meaning of life is""".splitlines()


def greedy(program, prompts):
    """All prompts in one running batch → the ids of each, with TOKENS more."""
    texts = [list(ids) for ids in prompts]
    pages_each = -(-(max(map(len, texts)) + TOKENS) // PAGE_SIZE)
    kv = program.new_kv(pages_each * len(texts))
    pages = np.arange(pages_each * len(texts), dtype=np.int32).reshape(len(texts), -1)
    lengths, fresh = np.zeros(len(texts), np.int32), texts
    for _ in range(TOKENS):
        ends = np.cumsum([len(ids) for ids in fresh])
        batch = Batch(
            ids=np.concatenate(fresh).astype(np.int32),
            row_starts=np.concatenate([[0], ends]).astype(np.int32),
            lengths=lengths,
            pages=pages,
            logit_rows=(ends - 1).astype(np.int32),
        )
        chosen = program.step(batch, kv).argmax(1)
        lengths = (lengths + np.array([len(ids) for ids in fresh])).astype(np.int32)
        fresh = [[int(token)] for token in chosen]
        texts = [text + more for text, more in zip(texts, fresh, strict=True)]
    return texts


@pytest.mark.parametrize("activations", ["f32", "int8"])
def test_greedy_text_is_the_references_or_a_near_tie(smollm2_path, activations: str) -> None:
    """Where native picks another token, the reference was in doubt: its two logits lie closer
    than twice the format's error, which is how far the reference itself moves at that position
    when its arithmetic is rounded as the format says (bfloat16 keys and values; int8 inputs).
    Its logits are no noisier than that rounding makes them.
    """
    model = load(smollm2_path)
    prompts = [model.tokenizer.encode(prompt) for prompt in PROMPTS]
    native = compile_native(model.graph, model.weights, NativeOptions(activations=activations))
    rounded = compile_reference(native.graph, model.weights, kv_dtype="bfloat16")
    exact = compile_reference(model.graph, model.weights)
    doubts = []
    for prompt, text in zip(prompts, greedy(native, prompts), strict=True):
        batch = single(text[:-1], all_logits=True)
        ours, truth, unrounded = (
            program.step(batch, program.new_kv(8))[len(prompt) - 1 :]
            for program in (native, rounded, exact)
        )
        assert np.std(ours - unrounded) < 1.5 * np.std(truth - unrounded)
        error = np.abs(truth - unrounded).max(1)
        gap = truth.max(1) - truth[np.arange(TOKENS), text[len(prompt) :]]
        doubts += [(float(g), float(e)) for g, e in zip(gap, error, strict=True) if g > 0]
    total = TOKENS * len(prompts)
    print(f"\n{activations}: {total - len(doubts)} of {total} tokens are the reference's;", end=" ")
    print("gap | error of the others:", ", ".join(f"{g:.3f} | {e:.3f}" for g, e in doubts))
    assert all(gap <= 2 * error for gap, error in doubts), "the reference was not in doubt"
    assert len(doubts) <= 0.05 * total
