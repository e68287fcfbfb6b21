"""Weights on their way into the native builder: each is read once, in order, and not kept."""

from collections.abc import Iterator, Mapping

import ml_dtypes
import numpy as np
import pytest

from slipstream.backends.batch import single
from slipstream.backends.native import NativeOptions, compile_native, native_module
from slipstream.backends.native_weights import pack_weights
from slipstream.errors import FileFormatError, MachineError
from slipstream.formats.affine import quantize_affine
from slipstream.formats.tensor import Affine, DenseTensor, Tensor
from slipstream.graph import ops
from slipstream.graph.graph import Builder, Graph

try:
    MODULE = native_module()
except MachineError:
    pytest.skip("the native kernels were not built", allow_module_level=True)


class Watched(Mapping[str, Tensor]):
    """A checkpoint that notes what is read; the weight called ``damaged`` cannot be."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors
        self.read: list[str] = []

    def __getitem__(self, name: str) -> Tensor:
        self.read.append(name)
        if name == "damaged":
            raise FileFormatError("the file is damaged")
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def values(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


TENSORS: dict[str, Tensor] = {
    "affine": quantize_affine(values(32, 64), Affine(4, 32, "minimum")),
    "dense": DenseTensor(values(32, 64)),
    "norm": DenseTensor(values(64).astype(np.float16)),
}


def new_builder():
    return MODULE.Builder(2, MODULE.isa_available()[-1], "float32")


def test_every_weight_is_read_once_and_in_order():
    weights = Watched(TENSORS)
    packed = pack_weights(new_builder(), weights, list(TENSORS))
    assert weights.read == list(TENSORS)
    assert set(packed.matrices) == {"affine", "dense"}
    np.testing.assert_array_equal(packed.vectors["norm"], TENSORS["norm"].dequantize())


def test_an_outline_is_the_record_without_its_values():
    packed = pack_weights(new_builder(), Watched(TENSORS), list(TENSORS))
    outline = packed.outlines["affine"]
    assert outline.shape == (32, 64)
    assert outline.format == TENSORS["affine"].format
    assert outline.codes.strides == (0, 0)


def test_a_weight_that_cannot_be_read_is_an_error_of_its_own_kind():
    with pytest.raises(FileFormatError, match="damaged"):
        pack_weights(new_builder(), Watched(TENSORS), ["dense", "damaged", "affine"])


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_dense_weights_keep_their_values(dtype):
    build = Builder()
    x = build.add("embed", ops.Embed("embed"), "ids")
    build.add("select", ops.Select(), x)
    stored = DenseTensor(values(20, 33).astype(dtype))
    program = compile_native(
        Graph("test", tuple(build.nodes), 33, 20, 64), {"embed": stored}, NativeOptions(threads=1)
    )
    batch = single(np.arange(20, dtype=np.int32), all_logits=True)
    logits = program.step(batch, program.new_kv(1))
    np.testing.assert_array_equal(logits, stored.dequantize())
