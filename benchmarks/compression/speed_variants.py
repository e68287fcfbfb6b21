"""The variants that `speed.py` times: the outline that a pass makes of a model, filled with values.

Only shapes and formats decide speed, so nothing is calibrated and values are a repeated handful of
random numbers. A family is a parent and what became of it; structure stands beside a parent with
the same kind of weights, formats beside bfloat16, pages beside those of bfloat16.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from slipstream.backends.native import NativeOptions, NativeProgram, compile_native
from slipstream.bench.workload import Workload
from slipstream.compress.passes.drop_blocks import DropBlocks
from slipstream.compress.passes.drop_inputs import DropHeads, DropNeurons
from slipstream.compress.passes.drop_width import DropWidth
from slipstream.compress.passes.kv_cache import KVCache
from slipstream.compress.passes.low_rank import LowRank
from slipstream.compress.passes.quantizers import Rtn
from slipstream.compress.passes.share_layers import ShareLayers
from slipstream.compress.preview import size_of
from slipstream.compress.work import Edition, Pass
from slipstream.formats.tensor import AffineTensor, DenseTensor, Tensor, map_arrays
from slipstream.graph.ops import Activations
from slipstream.optimize.programs import settings_of

NEAR = {
    "decode": Workload(prompt_tokens=0, decode_tokens=16, depth=16),
    "prefill 256": Workload(prompt_tokens=256, decode_tokens=0),
    "decode × 8": Workload(prompt_tokens=0, decode_tokens=8, depth=16, streams=8),
}
DEEP = {
    "decode at 2048": Workload(prompt_tokens=0, decode_tokens=16, depth=2048),
    "decode × 8 at 1024": Workload(prompt_tokens=0, decode_tokens=4, depth=1024, streams=8),
}
BLOCKS = "blocks - 1/5"  # as many as a fifth of the model's are
STRUCTURE: dict[str, tuple[Pass, ...]] = {
    "neurons - 1/4": (DropNeurons(share=0.25, multiple=32),),
    "KV heads - 1/3": (DropHeads(share=0.34),),
    BLOCKS: (),
    "width - 1/6": (DropWidth(share=1 / 6, multiple=32),),
    "pairs of blocks shared": (ShareLayers(every=2, weights="first"),),
    "the same, corrected by rank 16": (ShareLayers(every=2, weights="first", rank=16),),
    "low rank, half the numbers": (LowRank(share=0.5),),
}
FORMATS = {f"int{bits} {'row' if group is None else f'g{group}'}": Rtn(bits=bits, group=group)
           for bits, group in ((8, None), (6, 64), (5, 64), (4, 64), (3, 64), (2, 64))}  # fmt: skip
INT4, INT8 = Rtn(bits=4, group=64), Rtn(bits=8, group=64)
TWO_OF_FOUR = "2:4, packed without its zeros"
HANDFUL = 1 << 20  # values that are drawn; large matrices repeat them


@dataclass(frozen=True)
class Variant:
    """What is timed: a program, and the bytes of its weights."""

    name: str
    program: NativeProgram
    size_bytes: int


@dataclass(frozen=True)
class Family:
    """A parent, first, and what became of it; made only when its turn comes."""

    name: str
    workloads: Mapping[str, Workload]
    variants: Mapping[str, Callable[[], Variant]]


def families(whole: Edition) -> list[Family]:
    """Of a model with bfloat16 matrices, as `dense` makes it."""
    blocks = (DropBlocks(count=max(1, len(whole.graph.attentions) // 5)),)
    structure = {**STRUCTURE, BLOCKS: blocks}
    int4 = {name: (*passes, INT4) for name, passes in {"parent": (), **structure}.items()}
    pages = {one: (INT4, KVCache(format=one)) for one in ("int8", "k8v4", "int4")}

    def family(
        name: str, wanted: Mapping[str, tuple[Pass, ...]], works: Mapping[str, Workload] = NEAR
    ) -> Family:
        return Family(name, works, {n: partial(made, whole, n, p) for n, p in wanted.items()})

    return [
        family("bfloat16", {"parent": (), **structure}),
        _with_two_of_four(whole, family("int4 g64", int4), INT4),
        _with_two_of_four(whole, family("int8 g64", {"parent": (INT8,)}), INT8),
        family("formats", {"parent": (), **{n: (one,) for n, one in FORMATS.items()}}),
        family("KV pages", {"parent, bfloat16": (INT4,), **pages}, DEEP),
    ]


def _with_two_of_four(whole: Edition, family: Family, format: Pass) -> Family:
    thin = partial(made, whole, TWO_OF_FOUR, (format,), two_of_four=True)
    return Family(family.name, family.workloads, {**family.variants, TWO_OF_FOUR: thin})


def made(
    whole: Edition, name: str, passes: tuple[Pass, ...], *, two_of_four: bool = False
) -> Variant:
    """The program of what the passes outline; UnsupportedError where the model is too small."""
    edition = whole
    for one in passes:
        edition = one.outline(edition)
    handful = np.random.default_rng(0).random(HANDFUL, np.float32)
    names = edition.graph.weight_names()
    weights = {n: filled(edition.weights[n], handful, two_of_four) for n in names}
    settings = settings_of(edition.graph, weights, Activations(8, 32))
    options = NativeOptions(keep_packed=False, sparse="always" if two_of_four else "never")
    program = compile_native(edition.graph, weights, options, settings=settings)
    return Variant(name, program, size_of(edition))


def dense(edition: Edition) -> Edition:
    """With bfloat16 matrices, whatever the file holds."""
    weights = {name: _dense(edition.weights[name]) for name in edition.graph.weight_names()}
    return Edition(edition.config, edition.graph, weights)


def _dense(tensor: Tensor) -> DenseTensor:
    kind = np.dtype(ml_dtypes.bfloat16 if len(tensor.shape) == 2 else np.float32)
    return DenseTensor(np.broadcast_to(np.zeros((), kind), tensor.shape))


def filled(tensor: Tensor, handful: NDArray[np.float32], two_of_four: bool = False) -> Tensor:
    """The same shapes and types with values: small floats, any codes of the format."""

    def values(array: NDArray[Any]) -> NDArray[Any]:
        if not isinstance(tensor, AffineTensor) or array.dtype.itemsize > 1:
            return np.resize((handful * 0.02).astype(array.dtype), array.shape)
        return _codes(tensor, handful, array.shape, two_of_four)

    return map_arrays(tensor, values)


def _codes(
    tensor: AffineTensor, handful: NDArray[np.float32], shape: tuple[int, ...], two_of_four: bool
) -> NDArray[Any]:
    low, high = tensor.format.code_range
    nibbles = tensor.format.nibbles
    drawn = np.floor(handful * (high - low + 1)).astype(np.int16) + low
    codes = np.resize((drawn * 17 if nibbles else drawn).astype(np.uint8), shape)
    if two_of_four:  # of each four inputs the last two, which are one byte of nibbles
        step = 2 if nibbles else 4
        for place in range(step // 2, step):
            codes[..., place::step] = tensor.format.code_of_zero * (17 if nibbles else 1)
    return codes if nibbles else codes.view(np.int8)
