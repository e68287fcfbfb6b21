"""A program over mapped weights: the same bits as over packed ones, and the model is not read."""

from collections.abc import Iterator, Mapping

import ml_dtypes
import numpy as np
import pytest

from slipstream.backends.batch import single
from slipstream.backends.native import NativeOptions, compile_native, native_module
from slipstream.errors import MachineError
from slipstream.formats.affine import quantize_affine
from slipstream.formats.tensor import Affine, DenseTensor, Tensor
from slipstream.graph import ops
from slipstream.graph.graph import Builder, Graph

try:
    MODULE = native_module()
except MachineError:
    pytest.skip("the native kernels were not built", allow_module_level=True)

WIDTH, VOCABULARY = 64, 96
NAMES = ("embed", "norm", "a", "b", "c", "d", "head")


def graph() -> Graph:
    build = Builder()
    x = build.add("x", ops.Embed("embed"), "ids")
    x = build.add("norm", ops.Norm("rms", "norm", 1e-5), x)
    for name in ("a", "b", "c", "d"):
        x = build.add(name, ops.Linear((name,), (None,)), x)
    x = build.add("select", ops.Select(), x)
    build.add("logits", ops.Linear(("head",), (None,)), x)
    return Graph("test", tuple(build.nodes), WIDTH, VOCABULARY, 128)


def values(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def tensors() -> dict[str, Tensor]:
    square = [values(i, WIDTH, WIDTH) for i in range(4)]
    return {
        "embed": DenseTensor(values(5, VOCABULARY, WIDTH).astype(ml_dtypes.bfloat16)),
        "norm": DenseTensor(values(6, WIDTH).astype(np.float16)),
        "a": quantize_affine(square[0], Affine(4, 32, "minimum")),
        "b": quantize_affine(square[1], Affine(8, 32, "symmetric"), "float32"),
        "c": quantize_affine(square[2], Affine(4, None, "zero_point")),
        "d": DenseTensor(square[3].astype(np.float16)),
        "head": quantize_affine(values(7, VOCABULARY, WIDTH), Affine(4, 64, "symmetric")),
    }


class Unreadable(Mapping[str, Tensor]):
    """Weights that must not be asked for."""

    def __getitem__(self, name: str) -> Tensor:
        raise AssertionError(f"{name} was read")

    def __iter__(self) -> Iterator[str]:
        return iter(NAMES)

    def __len__(self) -> int:
        return len(NAMES)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SLIPSTREAM_CACHE", str(tmp_path))
    monkeypatch.delenv("SLIPSTREAM_PACKED_MB", raising=False)
    return tmp_path / "packed"


def logits(program) -> bytes:
    kv = program.new_kv(1)
    return program.step(single(np.arange(5)), kv).tobytes()


def packed(weights=None, identity: str | None = "model", **options):
    chosen = NativeOptions(threads=2, **options)
    program = compile_native(graph(), weights or tensors(), chosen, identity=identity)
    program.weights_source.wait()
    return program


@pytest.mark.parametrize("activations", ["auto", "f32", "int8"])
def test_mapped_weights_give_the_same_bits_and_the_model_is_not_read(activations):
    first = packed(activations=activations)
    assert first.weights_source.kind == "packed"
    second = packed(Unreadable(), activations=activations)
    assert second.weights_source.kind == "mapped"
    assert logits(first) == logits(second)
    assert first.resident_bytes == second.resident_bytes
    assert first.graph == second.graph


def test_one_file_serves_every_instruction_set_and_any_number_of_threads(cache):
    first = packed()
    for isa in MODULE.isa_available():
        assert packed(Unreadable(), isa=isa).weights_source.kind == "mapped"
    assert len(list(cache.iterdir())) == 1
    assert first.weights_source.path is not None


def test_the_program_keeps_the_mapping_alive(cache):
    wanted = logits(packed())
    program = packed(Unreadable())
    for path in cache.iterdir():
        path.unlink()
    assert logits(program) == wanted


def test_panels_outlive_the_program_that_packed_them():
    builder = MODULE.Builder(1, "portable", "float32")
    number = builder.add_dense(values(1, 32, 64), "float32")
    layout, panels = builder.packed(number)
    before = panels.tobytes()
    del builder
    assert panels.tobytes() == before
    assert layout == (32, 64, "f32", 0, "f32", None, 0, 0)
    assert not panels.flags.writeable


@pytest.mark.parametrize("damage", [b"", b"SLIPPACK", b"x" * 5000])
def test_a_damaged_file_is_packed_again(cache, damage):
    wanted = logits(packed())
    (file,) = cache.iterdir()
    file.write_bytes(damage)
    again = packed()
    assert again.weights_source.kind == "packed"
    assert logits(again) == wanted
    assert packed(Unreadable()).weights_source.kind == "mapped"


def test_without_an_identity_or_by_choice_nothing_is_kept(cache, monkeypatch):
    packed(identity=None)
    packed(keep_packed=False)
    monkeypatch.setenv("SLIPSTREAM_PACKED_MB", "0")
    packed()
    assert not cache.exists()


def test_other_weights_do_not_share_a_file(cache):
    packed(identity="one")
    assert packed(identity="two").weights_source.kind == "packed"
    assert len(list(cache.iterdir())) == 2


def border(**changes):
    layout = {
        "outputs": 32,
        "inputs": 64,
        "codes": "int8",
        "group": 32,
        "scales": "f16",
        "minimums": None,
        "supers": 0,
        "code_bytes": 0,
    }
    return MODULE.Builder(1, "portable", "float32"), {**layout, **changes}


SIZE = 2 * (16 * 64 + 64)  # two panels: codes, and two groups of scales


def aligned(size: int, shift: int = 0) -> np.ndarray:
    whole = np.zeros(size + 128, np.uint8)
    start = -whole.ctypes.data % 64 + shift
    return whole[start : start + size]


def test_the_border_accepts_panels_of_the_right_size():
    builder, layout = border()
    assert builder.add_packed(aligned(SIZE), **layout) == 0


@pytest.mark.parametrize(
    ("panels", "changes"),
    [
        (aligned(SIZE - 64), {}),
        (aligned(SIZE + 64), {}),
        (aligned(SIZE, 1), {}),
        (aligned(SIZE), {"outputs": 0}),
        (aligned(SIZE), {"outputs": -32}),
        (aligned(SIZE), {"inputs": 1 << 40}),
        (aligned(SIZE), {"group": 24}),
        (aligned(SIZE), {"group": 0}),
        (aligned(SIZE), {"codes": "int5"}),
        (aligned(SIZE), {"scales": "f64"}),
        (aligned(SIZE), {"minimums": "f16"}),
        (aligned(SIZE), {"code_bytes": 1024}),
        (aligned(SIZE), {"codes": "int8_mask"}),
        (aligned(SIZE), {"codes": "int8_mask", "code_bytes": 64}),
        (aligned(SIZE), {"codes": "int8_mask", "code_bytes": 1024}),
        (aligned(SIZE), {"codes": "int8_mask", "code_bytes": -64}),
        (aligned(SIZE), {"codes": "int8_mask", "code_bytes": 1 << 62}),
        (aligned(SIZE).reshape(2, -1), {}),
        (aligned(SIZE)[::2], {}),
        (aligned(SIZE).view(np.int8), {}),
    ],
)
def test_the_border_refuses_panels_that_cannot_be(panels, changes):
    builder, layout = border(**changes)
    with pytest.raises(ValueError):
        builder.add_packed(panels, **layout)
