"""Prompts as vectors: the same bits alone, together and cut in chunks."""

import numpy as np
import pytest
from test_promise_one import CONFIG, compiled, engine_of

from slipstream.backends.batch import single
from slipstream.engine.embedding import head_of
from slipstream.errors import RequestError
from slipstream.formats.tensor import Affine

PROMPTS = [[5] * 3, list(range(90)), [7, 1, 9], list(range(96, 0, -1)) * 2, [4]]


@pytest.fixture(scope="module")
def program():
    return compiled(CONFIG, Affine(8, 32), "float32", threads=1)


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_a_vector_is_the_pooled_state_before_the_head(program, pooling):
    engine = engine_of(program, max_batch=2, budget=40, pages=16)
    for prompt, vector in zip(PROMPTS, engine.embed(PROMPTS, pooling), strict=True):
        batch = single(np.array(prompt), all_logits=True)
        head = head_of(program)
        states = program.capture(batch, program.new_kv(4), (head,))[head]
        expected = states[-1] if pooling == "last" else states.astype(np.float64).mean(0)
        assert np.allclose(vector, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_bits_do_not_depend_on_company_or_chunks(program, pooling):
    engine = engine_of(program, max_batch=2, budget=400, pages=16)
    small = engine_of(program, max_batch=2, budget=33, pages=16)
    together = engine.embed(PROMPTS, pooling)
    for prompt, vector, cut in zip(PROMPTS, together, small.embed(PROMPTS, pooling), strict=True):
        (alone,) = engine.embed([prompt], pooling)
        assert (vector == alone).all() and (cut == alone).all()


def test_embedding_leaves_requests_alone(program):
    engine = engine_of(program, max_batch=2, budget=40, pages=16)
    expected = engine.generate([PROMPTS[1]])[0].ids[:5]
    stream = engine.stream(PROMPTS[1])
    got = [next(stream).ids[0]]
    engine.embed(PROMPTS)
    got += [next(stream).ids[0] for _ in range(4)]
    stream.close()
    assert tuple(got) == expected
    engine.check()


def test_another_pooling_is_refused(program):
    engine = engine_of(program, max_batch=2, budget=40, pages=16)
    with pytest.raises(RequestError, match="'mean' or 'last'"):
        engine.embed([[1]], "max")
