"""Each kind of attention has pages of its own: as many as it sees, wherever they lie."""

import dataclasses

import numpy as np
import pytest

from slipstream.backends.batch import single
from slipstream.backends.native import NativeOptions, compile_native, native_module
from slipstream.backends.reference import compile_reference
from slipstream.errors import MachineError
from slipstream.formats.tensor import DenseTensor
from slipstream.models.registry import blueprint_of

MIXED = {
    "architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "vocab_size": 97,
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "max_position_embeddings": 1024, "rms_norm_eps": 1e-5, "rope_theta": 1e4,
    "sliding_window": 40, "query_pre_attn_scalar": 16, "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0, "hidden_activation": "gelu_pytorch_tanh",
}  # fmt: skip
BLUEPRINT = blueprint_of(MIXED)
IDS = (np.arange(300) * 7) % 97


def weights():
    rng = np.random.default_rng(3)
    return {
        name: DenseTensor(rng.normal(0, 0.12, shape).astype(np.float32))
        for name, shape in BLUEPRINT.shapes.items()
    }


def native():
    try:
        native_module()
    except MachineError:
        pytest.skip("the native kernels were not built")
    return compile_native(BLUEPRINT.graph, weights(), NativeOptions(threads=1))


def reference():
    return compile_reference(BLUEPRINT.graph, weights())


PROGRAMS = pytest.mark.parametrize("compiled", [native, reference])


def step(program, kv, start, count, tables):
    """Tokens `start` …; a list of pages for each kind."""
    width = max(map(len, tables))
    pages = np.array([[t + [-1] * (width - len(t))] for t in tables], np.int32)
    part = single(IDS[start : start + count])
    lengths = np.array([start], np.int32)
    return program.step(dataclasses.replace(part, lengths=lengths, pages=pages), kv)


def test_kinds_are_in_order_of_appearance():
    assert BLUEPRINT.graph.windows == (40, None)


@PROGRAMS
def test_storage_is_that_of_each_kinds_layers(compiled):
    program = compiled()
    one, other = program.new_kv((3, 1)), program.new_kv((1, 3))
    assert one.size_bytes == other.size_bytes == program.new_kv(2).size_bytes
    with pytest.raises(ValueError, match="one for each"):
        program.new_kv((3, 3, 3))


@PROGRAMS
def test_windowed_layers_go_on_in_two_pages(compiled):
    """They take turns while the layers that see everything keep five: the same bits."""
    program = compiled()
    expected, turns = program.new_kv(5), program.new_kv((2, 5))
    for start in range(0, 300, 20):
        whole = step(program, expected, start, 20, [[0, 1, 2, 3, 4]] * 2)
        seen = max(0, start - 39) // 64
        last = (start + 19) // 64
        windowed = [-1] * seen + [page % 2 for page in range(seen, last + 1)]
        assert (step(program, turns, start, 20, [windowed, [4, 2, 0, 1, 3]]) == whole).all()


@PROGRAMS
def test_a_page_is_copied_in_its_kind_alone(compiled):
    program = compiled()
    kv = program.new_kv((2, 3))
    step(program, kv, 0, 49, [[0], [0]])
    expected = step(program, kv, 49, 1, [[0], [0]])
    kv.copy_page(0, 2, 1)
    step(program, kv, 100, 50, [[1, 1, 1], [1, 1, 1]])
    kv.copy_page(0, 1, 0)
    assert (step(program, kv, 49, 1, [[1], [2]]) == expected).all()
    kv.copy_page(0, 1)
    assert (step(program, kv, 49, 1, [[1], [1]]) == expected).all()


@PROGRAMS
@pytest.mark.parametrize("tables", [[[-1, 1], [-1, 1]], [[0, 1], [0, 3]], [[0, 2], [0, 1]]])
def test_a_page_that_its_kind_sees_must_be_there(compiled, tables):
    program = compiled()
    kv = program.new_kv((2, 3))
    step(program, kv, 0, 103, [[0, 1], [0, 1]])
    step(program, kv, 103, 1, [[-1, 1], [0, 1]])
    with pytest.raises(ValueError, match="page numbers"):
        step(program, kv, 103, 1, tables)


@PROGRAMS
def test_a_table_for_each_kind_or_one_for_all(compiled):
    part = single(IDS[:10])
    three = dataclasses.replace(part, pages=np.zeros((3, 1, 1), np.int32))
    program = compiled()
    kv = program.new_kv(1)
    one = program.step(part, kv)
    both = dataclasses.replace(part, pages=np.zeros((2, 1, 1), np.int32))
    assert (program.step(both, kv) == one).all()
    with pytest.raises(ValueError, match="kind of attention"):
        program.step(three, kv)
