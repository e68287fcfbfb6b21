"""Does a pruned, shared, factored or rounded model run faster than its parent? Measured in turns.

    python benchmarks/compression/speed.py smollm2:135m        # 3 minutes on two quiet cores

Only shapes and formats decide speed, so nothing is calibrated: each variant is the outline that its
pass makes of the model, filled with random values. Structure is held against a parent with the same
kind of weights (bfloat16; int4 in groups of 64 with int8 inputs), formats against bfloat16. All of
a family take turns in every round, and ratios are of one round, so that a machine that slows down
slows both. A ratio in bold is above 1 in every round; one in brackets is not faster here.
"""

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from quality import keep, print_table, say

from slipstream.backends.native import NativeOptions, NativeProgram, compile_native
from slipstream.bench.offline import Contestant, take_turns
from slipstream.bench.workload import Workload
from slipstream.compress.passes.drop_blocks import DropBlocks
from slipstream.compress.passes.drop_inputs import DropHeads, DropNeurons
from slipstream.compress.passes.drop_width import DropWidth
from slipstream.compress.passes.low_rank import LowRank
from slipstream.compress.passes.quantizers import Rtn
from slipstream.compress.passes.share_layers import ShareLayers
from slipstream.compress.preview import size_of
from slipstream.compress.work import Edition, Pass, outlined
from slipstream.formats.tensor import AffineTensor, DenseTensor, Tensor, map_arrays
from slipstream.graph.ops import Activations
from slipstream.machine import machine, thread_count
from slipstream.models.load import load
from slipstream.optimize.programs import settings_of

WORKLOADS = {
    "decode": Workload(prompt_tokens=0, decode_tokens=16, depth=16),
    "prefill 256": Workload(prompt_tokens=256, decode_tokens=0),
    "decode × 8": Workload(prompt_tokens=0, decode_tokens=8, depth=16, streams=8),
}
STRUCTURE: dict[str, tuple[Pass, ...]] = {
    "neurons - 1/4": (DropNeurons(share=0.25, multiple=32),),
    "KV heads - 1/3": (DropHeads(share=0.34),),
    "blocks - 1/5": (),  # as many as a fifth of the model's are
    "width - 1/6": (DropWidth(share=1 / 6, multiple=32),),
    "pairs of blocks shared": (ShareLayers(every=2, weights="first"),),
    "the same, corrected by rank 16": (ShareLayers(every=2, weights="first", rank=16),),
    "low rank, half the numbers": (LowRank(share=0.5),),
}
FORMATS = {f"int{bits} {'row' if group is None else f'g{group}'}": Rtn(bits=bits, group=group)
           for bits, group in ((8, None), (6, 64), (5, 64), (4, 64), (3, 64), (2, 64))}  # fmt: skip
FEW_BITS = Rtn(bits=4, group=64)


@dataclass(frozen=True)
class Variant:
    """What is timed: a program, and the bytes of its weights."""

    name: str
    program: NativeProgram
    size_bytes: int


def main() -> None:
    """Three families, one after the other; the table and the figures."""
    given = read_arguments()
    model = load(given.model)
    whole = dense(outlined(Edition(model.checkpoint.config, model.graph, model.weights)))
    rows: list[dict[str, Any]] = []
    for family, variants in families(whole).items():
        say(family)
        rows += timed(family, list(variants), given.repeats)
    print(f"{machine().cpu}, {thread_count()} threads, {given.repeats} rounds\n")
    print_table(
        ["family", "variant", "MB", *(f"{name}: tok/s, × parent" for name in WORKLOADS)],
        [
            [row["family"], row["name"], f"{row['mb']:.0f}", *map(cell, row["speeds"])]
            for row in rows
        ],
    )
    say(f"kept in {keep({'model': given.model, 'rows': rows}, 'speed')}")


def families(whole: Edition) -> dict[str, Iterator[Variant]]:
    """Each begins with its parent."""
    blocks = (DropBlocks(count=max(1, len(whole.graph.attentions) // 5)),)
    structure = {name: passes or blocks for name, passes in STRUCTURE.items()}
    rounded = {name: (*passes, FEW_BITS) for name, passes in structure.items()}
    formats = {name: (one,) for name, one in FORMATS.items()}
    return {
        "bfloat16": (made(whole, n, p) for n, p in {"parent": (), **structure}.items()),
        "int4 g64": (made(whole, n, p) for n, p in {"parent": (FEW_BITS,), **rounded}.items()),
        "formats": (made(whole, n, p) for n, p in {"parent": (), **formats}.items()),
    }


def made(whole: Edition, name: str, passes: tuple[Pass, ...]) -> Variant:
    """The program of what the passes outline."""
    edition = whole
    for one in passes:
        edition = one.outline(edition)
    size = size_of(edition)
    random = np.random.default_rng(0)
    weights = {n: filled(edition.weights[n], random) for n in edition.graph.weight_names()}
    settings = settings_of(edition.graph, weights, Activations(8, 32))
    options = NativeOptions(keep_packed=False)
    return Variant(name, compile_native(edition.graph, weights, options, settings=settings), size)


def dense(edition: Edition) -> Edition:
    """With bfloat16 matrices, whatever the file holds."""
    weights = {name: _dense(edition.weights[name]) for name in edition.graph.weight_names()}
    return Edition(edition.config, edition.graph, weights)


def _dense(tensor: Tensor) -> DenseTensor:
    kind = np.dtype(ml_dtypes.bfloat16 if len(tensor.shape) == 2 else np.float32)
    return DenseTensor(np.broadcast_to(np.zeros((), kind), tensor.shape))


def filled(tensor: Tensor, random: np.random.Generator) -> Tensor:
    """The same shapes and types with values: small floats, any codes of the format."""

    def values(array: NDArray[Any]) -> NDArray[Any]:
        if not isinstance(tensor, AffineTensor) or array.dtype.itemsize > 1:
            return (random.random(array.shape, np.float32) * 0.02).astype(array.dtype)
        low, high = tensor.format.code_range
        codes = random.integers(low, high, array.shape, np.int16, endpoint=True)
        kind = np.uint8 if tensor.format.nibbles else np.int8
        return (codes * 17 if tensor.format.nibbles else codes).astype(kind)

    return map_arrays(tensor, values)


def timed(family: str, variants: list[Variant], repeats: int) -> list[dict[str, Any]]:
    """A row for each variant; the first is the parent."""
    speeds: dict[str, list[dict[str, Any]]] = {one.name: [] for one in variants}
    for work in WORKLOADS.values():
        contestants = {one.name: Contestant(one.program, work) for one in variants}
        take_turns(list(contestants.values()), rounds=1)
        for one in contestants.values():
            one.forget()
        take_turns(list(contestants.values()), rounds=repeats)
        seconds = {n: np.array(c.prefill_s or c.decode_s) for n, c in contestants.items()}
        tokens = work.prompt_tokens or work.decode_tokens * work.streams
        for name, taken in seconds.items():
            speeds[name].append(compared(tokens, taken, seconds[variants[0].name]))
    return [
        {"family": family, "name": one.name, "mb": one.size_bytes / 1e6, "speeds": speeds[one.name]}
        for one in variants
    ]


def compared(
    tokens: int, seconds: NDArray[np.float64], parent: NDArray[np.float64]
) -> dict[str, Any]:
    """Tokens per second, and the ratio to the parent in each round."""
    ratios = np.sort(parent / seconds)
    return {"rate": float(np.median(tokens / seconds)), "ratios": ratios.tolist()}


def cell(speed: Mapping[str, Any]) -> str:
    """``213, **1.31** (1.25–1.38)``; the parent's ratio is 1."""
    low, middle, high = speed["ratios"][0], np.median(speed["ratios"]), speed["ratios"][-1]
    if low == high == 1.0:
        return f"{speed['rate']:.0f}"
    ratio = f"**{middle:.2f}**" if low > 1 else f"{middle:.2f}" if middle > 1 else f"({middle:.2f})"
    return f"{speed['rate']:.0f}, {ratio} ({low:.2f}–{high:.2f})"


def read_arguments() -> Any:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", nargs="?", default="smollm2:135m")
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
