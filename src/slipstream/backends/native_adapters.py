"""Adapters in the native backend: their pairs, handed to C++ by the number of the matrix.

`backends.native` calls it. The numbers are those that the C++ builder gives: one for each matrix
of each linear, in the order of the fused graph (csrc/step/adapters.h).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from slipstream.backends.adapters import fit_adapter, sites_of
from slipstream.backends.native_module import NativeHandle
from slipstream.checkpoint.peft import Adapter, LowRankPair
from slipstream.graph.graph import Graph


def load_adapter(handle: NativeHandle, graph: Graph, slot: int, adapter: Adapter) -> None:
    """Copies the adapter into the program's slot; see backends.batch.Program.load_adapter."""
    sites = list(sites_of(graph))
    shapes = dict(zip(sites, handle.adapter_sites, strict=True))
    pairs = fit_adapter(graph, shapes, adapter)
    parts = [_part(i, pairs[weight]) for i, weight in enumerate(sites) if weight in pairs]
    handle.load_adapter(slot, parts)


def _part(site: int, pair: LowRankPair) -> tuple[int, NDArray[Any], NDArray[Any], str, float]:
    """(site, A, B, dtype, scale); 16-bit floats go as their bits."""
    matrices = [np.ascontiguousarray(matrix) for matrix in (pair.down, pair.up)]
    if matrices[0].itemsize == 2:
        matrices = [matrix.view(np.uint16) for matrix in matrices]
    return site, matrices[0], matrices[1], pair.down.dtype.name, pair.scale
