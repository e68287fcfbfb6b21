"""From a candidate to a running program: quantize, lay over the stored weights, compile.

The backend is handed in as a function, so that the search runs on the native kernels in earnest and
on the reference in tests.
"""

import contextlib
import ctypes
import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slipstream.backends.batch import PAGE_SIZE, Program, single
from slipstream.compress.calibrate import Hessians
from slipstream.compress.recipe import Recipe
from slipstream.compress.run import Memo, OnWeight, overlay, quantize_weights
from slipstream.formats.tensor import Quantized, Tensor
from slipstream.graph import ops
from slipstream.graph.graph import Graph
from slipstream.graph.ops import Activations

# The last argument: how the input of each linear is stored, by weight name; none is left out.
Compile = Callable[[Graph, Mapping[str, Tensor], Mapping[str, Activations]], Program]

MEMORY_TOKENS = 512  # the prompt after which a program's memory is read


@dataclass(frozen=True)
class Subject:
    """The model that is optimized, and the backends that run its candidates and its original.

    They may differ: the original runs with float32 keys and values, candidates as they are served.
    """

    graph: Graph
    weights: Mapping[str, Tensor]
    compile: Compile
    compile_original: Compile


@dataclass(frozen=True)
class Built:
    """A candidate made runnable."""

    program: Program
    changed: Mapping[str, Tensor]
    size_bytes: int  # of all tensors as stored
    memory_bytes: int  # what it took to load and run a prompt


def build(
    subject: Subject,
    recipe: Recipe,
    hessians: Hessians | None = None,
    on_weight: OnWeight | None = None,
    *,
    original: bool = False,
    memo: Memo | None = None,
) -> Built:
    """Quantizes by `recipe`, compiles, runs one prompt. NumericError names a layer that fails."""
    changed = quantize_weights(
        subject.graph, subject.weights, recipe, hessians, on_weight, memo=memo
    )
    weights = overlay(subject.weights, changed)
    names = subject.graph.weight_names()
    size = sum(weights[name].size_bytes for name in names)
    before = anonymous_bytes()
    settings = settings_of(subject.graph, weights, recipe.activations)
    compile_graph = subject.compile_original if original else subject.compile
    program = compile_graph(subject.graph, weights, settings)
    run_prompt(program, MEMORY_TOKENS)
    return Built(program, changed, size, max(0, anonymous_bytes() - before))


def settings_of(
    graph: Graph, weights: Mapping[str, Tensor], activations: Activations
) -> dict[str, Activations]:
    """How the input of every linear is stored, by weight name; an artifact keeps the same.

    Dense weights take float32. A group that does not divide a row, or neither divides the weight's
    own group nor is divided by it, becomes the row.
    """
    settings: dict[str, Activations] = {}
    for node in graph:
        match node.op:
            case ops.Linear(weights=names):
                pass
            case ops.GatedLinear(gate=gate, up=up):
                names = (gate, up)
            case _:
                continue
        settings.update(dict.fromkeys(names, _setting([weights[n] for n in names], activations)))
    return settings


def _setting(tensors: Sequence[Tensor], activations: Activations) -> Activations:
    affine = [tensor for tensor in tensors if isinstance(tensor, Quantized)]
    if activations.bits == 32 or len(affine) < len(tensors):
        return Activations()
    fits = all(_fits(activations.group, tensor) for tensor in affine)
    return activations if fits else Activations(8, None)


def _fits(group: int | None, tensor: Quantized) -> bool:
    if group is None:
        return True
    width = tensor.shape[1]
    other = tensor.format.group or width
    return width % group == 0 and (other % group == 0 or group % other == 0)


def run_prompt(program: Program, tokens: int) -> None:
    """One prefill of `tokens` arbitrary tokens: touches every buffer, and warms up."""
    tokens = min(tokens, program.graph.context)
    ids = np.arange(tokens, dtype=np.int32) * 7919 % program.graph.vocabulary
    program.step(single(ids.astype(np.int32)), program.new_kv(-(-tokens // PAGE_SIZE)))


def anonymous_bytes() -> int:
    """Resident memory of this process that is not a file's: what loading a program adds to.

    Freed memory is first given back to the system, so that a later allocation is counted. 0 where
    the system does not say (the table then shows no memory).
    """
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")]
    return found[0] if found else 0
