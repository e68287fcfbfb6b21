"""Every weight format that kernels read packed, against the reference that dequantizes it."""

from typing import Literal

import numpy as np
import pytest

from slipstream.backends.batch import single
from slipstream.backends.native import NativeOptions, compile_native, native_module
from slipstream.backends.native_weights import pack_weights
from slipstream.backends.reference import compile_reference
from slipstream.errors import MachineError
from slipstream.formats.affine import quantize_affine
from slipstream.formats.codebook import Codebook
from slipstream.formats.codebook_round import quantize_codebook
from slipstream.formats.ggml import GGML_TYPES, to_tensor
from slipstream.formats.tensor import Affine, CodebookTensor, DenseTensor, NestedTensor, Tensor
from slipstream.graph import ops
from slipstream.graph.graph import Builder, Graph

try:
    MODULE = native_module()
except MachineError:
    pytest.skip("the native kernels were not built", allow_module_level=True)

INPUTS, OUTPUTS, IDS = 512, 40, np.arange(9, dtype=np.int32)
AFFINE = [
    Affine(bits, 32, zero) for bits in (2, 3, 4, 5, 6, 8) for zero in ("symmetric", "minimum")
]  # type: ignore[arg-type]
AFFINE += [
    Affine(3, 128),
    Affine(2, None),
    Affine(5, 64, "zero_point"),
    Affine(6, 16, "zero_point"),
]
CODEBOOKS = [Codebook("nf4", 64), Codebook("iq4_nl", 32), Codebook("mxfp4", 32)]
GGML = ["Q4_0", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4"]


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def ggml_tensor(name: str) -> Tensor:
    """Random blocks of a type, with scales of a moderate size."""
    number, kind = next((n, k) for n, k in GGML_TYPES.items() if k.name == name)
    draw = np.random.default_rng(7)
    raw = draw.integers(0, 256, (OUTPUTS * INPUTS // kind.block, kind.bytes), dtype=np.uint8)
    halves = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}
    for at in halves.get(name, (0, 2) if name == "Q5_1" else (0,)):
        size = draw.normal(scale=0.01, size=(len(raw), 1)).astype(np.float16)
        raw[:, at : at + 2] = size.view(np.uint8)
    if name == "MXFP4":
        raw[:, 0] = draw.integers(115, 125, len(raw))
    return to_tensor(raw.reshape(-1), number, (OUTPUTS, INPUTS))


TENSORS: dict[str, Tensor] = {
    **{
        f"int{form.bits} {form.group} {form.zero}": quantize_affine(normal(OUTPUTS, INPUTS), form)
        for form in AFFINE
    },
    **{form.name: quantize_codebook(normal(OUTPUTS, INPUTS), form) for form in CODEBOOKS},
    **{name: ggml_tensor(name) for name in GGML},
}


def world(tensor: Tensor) -> tuple[Graph, dict[str, Tensor]]:
    """Random rows times the matrix: one linear behind an embedding."""
    build = Builder()
    x = build.add("embed", ops.Embed("embed"), "ids")
    x = build.add("select", ops.Select(), x)
    build.add("head", ops.Linear(("w",), (None,)), x)
    weights: dict[str, Tensor] = {"embed": DenseTensor(normal(OUTPUTS, INPUTS)), "w": tensor}
    return Graph("test", tuple(build.nodes), INPUTS, OUTPUTS, 64), weights


@pytest.mark.parametrize("activations", ["int8", "f32"])
@pytest.mark.parametrize("name", TENSORS)
def test_kernels_multiply_what_the_tensor_dequantizes_to(
    name: str, activations: Literal["int8", "f32"]
) -> None:
    graph, weights = world(TENSORS[name])
    many, one = single(IDS, all_logits=True), single(IDS[:1], all_logits=True)
    wanted = None
    for isa in MODULE.isa_available():
        options = NativeOptions(threads=1, isa=isa, activations=activations)
        program = compile_native(graph, weights, options)
        if wanted is None:
            reference = compile_reference(program.graph, weights)
            wanted = np.asarray(reference.step(many, reference.new_kv(1)))
        whole = program.step(many, program.new_kv(1))
        np.testing.assert_allclose(whole, wanted, atol=1e-5 * np.abs(wanted).max())
        assert np.array_equal(program.step(one, program.new_kv(1)), whole[:1])


@pytest.mark.parametrize("name", TENSORS)
def test_an_embedding_looks_up_the_dequantized_row(name: str) -> None:
    build = Builder()
    x = build.add("embed", ops.Embed("embed"), "ids")
    build.add("select", ops.Select(), x)
    graph = Graph("test", tuple(build.nodes), INPUTS, OUTPUTS, 64)
    tensor = TENSORS[name]
    program = compile_native(graph, {"embed": tensor}, NativeOptions(threads=1))
    rows = program.step(single(IDS, all_logits=True), program.new_kv(1))
    np.testing.assert_array_equal(rows, tensor.dequantize()[IDS])


@pytest.mark.parametrize("name", TENSORS)
def test_no_more_bytes_are_packed_than_the_tensor_says(name: str) -> None:
    """Sizes that `inspect` and the costs show; outputs are padded to 16, parts to cache lines."""
    tensor = TENSORS[name]
    builder = MODULE.Builder(1, "portable", "float32")

    packed = pack_weights(builder, {"w": tensor}, ["w"])
    _, panels = builder.packed(packed.matrices["w"])
    padded = tensor.size_bytes * 48 / OUTPUTS
    zero_points = 4 * 48 * 32 if "zero_point" in name else 0  # become float32 minimums
    assert padded <= panels.nbytes + 1 <= padded + 3 * 128 + zero_points + 1


def test_files_of_ggml_keep_their_size() -> None:
    for name in GGML:
        kind = next(kind for kind in GGML_TYPES.values() if kind.name == name)
        stored = OUTPUTS * INPUTS // kind.block * kind.bytes
        more = {"Q2_K": 1.2, "Q3_K": 1.04, "Q4_K": 1.03, "Q5_K": 1.03, "IQ4_XS": 1.02}
        assert TENSORS[name].size_bytes <= stored * more.get(name, 1), name
    assert isinstance(TENSORS["Q4_K"], NestedTensor)
    assert isinstance(TENSORS["IQ4_XS"], CodebookTensor)
