"""The native backend: a graph compiled to C++ kernels, the whole step in one call.

The engine, evaluation and the command line call `compile_native`. Promised: logits depend on the
row, the weights and the options alone, bit for bit; not on the batch, the way a prompt was cut
into chunks, the pages it lies on, the number of threads or the instruction set.

>>> program = compile_native(model.graph, model.weights)
>>> kv = program.new_kv(page_count=4)
>>> logits = program.step(single(ids), kv)  # float32 [1, V]
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slipstream.backends import native_adapters, tuned
from slipstream.backends.batch import Batch, page_counts_of
from slipstream.backends.native_module import NativeHandle, NativeKV, native_module
from slipstream.backends.native_nodes import add_nodes
from slipstream.backends.native_packed import WeightsSource, load_weights
from slipstream.backends.sparse_forms import SparseForms, SparseMode, resolved, sparse_path
from slipstream.backends.tuned import Choices, choices_path
from slipstream.checkpoint.peft import Adapter
from slipstream.formats.kv import KVType
from slipstream.formats.tensor import Tensor
from slipstream.graph import ops
from slipstream.graph.graph import Graph, weights_of
from slipstream.graph.passes.activations import Choice, assign_activations
from slipstream.graph.passes.fuse import fuse
from slipstream.machine import check_isa, forced_isa, thread_count

__all__ = ["NativeKV", "NativeOptions", "NativeProgram", "compile_native", "native_module"]


@dataclass(frozen=True)
class NativeOptions:
    """How a graph is compiled.

    threads      None: `machine.thread_count()`
    activations  of linears: as the checkpoint says ("auto"), float32, int8 for quantized weights,
                 or bfloat16 for weights of bfloat16
    kv_dtype     of stored keys and values, see `formats.kv`; None: the graph's, else bfloat16
    isa          None: `machine.forced_isa()`, else the fastest that this machine has
    keep_packed  map the packed weights of an earlier start, and keep them for the next
    sparse       pruned matrices are packed without their zeros: where it measures faster (models
                 that have an identity), always, always by mask, or never
    """

    threads: int | None = None
    activations: Choice = "auto"
    kv_dtype: KVType | None = None
    isa: str | None = None
    keep_packed: bool = True
    sparse: SparseMode = "measured"


def compile_native(
    graph: Graph,
    weights: Mapping[str, Tensor],
    options: NativeOptions | None = None,
    *,
    settings: Mapping[str, ops.Activations] | None = None,
    identity: str | None = None,
) -> "NativeProgram":
    """Packs the weights, assigns activations, fuses, and builds the program.

    `settings` are a checkpoint's own `activations` by weight name. `identity` stands for the values
    of all `weights`: with it, packed weights are kept in the cache and mapped at the next start,
    and linears of shapes that are new to this machine are timed (`backends.tuned`).
    Each weight is read once, or not at all where its packed form is mapped, and not kept.
    MachineError when the extension module is missing or the instruction set is not to be
    had; ValueError when shapes do not agree.
    """
    options = options or NativeOptions()
    graph.check()
    module = native_module()
    threads = thread_count() if options.threads is None else options.threads
    isa = forced_isa() if options.isa is None else check_isa(options.isa)
    isa = isa or module.isa_available()[-1]
    kv = options.kv_dtype or graph.kv or "bfloat16"
    graph = replace(graph, kv=kv)
    builder = module.Builder(threads, isa, kv)
    kept = identity if options.keep_packed else None
    mode = "never" if kept is None and options.sparse == "measured" else resolved(options.sparse)
    forms = SparseForms(mode, sparse_path(isa, threads), lambda: module.Builder(threads, isa, kv))
    packed, source = load_weights(builder, weights, graph.weight_names(), kept, forms)
    graph = fuse(assign_activations(graph, packed.outlines, options.activations, settings))
    program = NativeProgram(graph, add_nodes(builder, graph, packed), source)
    program.plan_linears(choices_path(isa, threads), tune=kept is not None)
    source.start_writing()  # not while linears are timed
    return program


class NativeProgram:
    """See backends.batch.Program. `graph` is the graph as compiled: assigned and fused, its `kv`
    decided."""

    def __init__(self, graph: Graph, handle: NativeHandle, weights_source: WeightsSource) -> None:
        self.graph = graph
        self.weights_source = weights_source
        self._handle = handle

    def plan_linears(self, path: Path, *, tune: bool, redo: bool = False) -> Choices:
        """See backends.tuned: bits stay as they are, speed may change."""
        return tuned.plan_linears(self._handle, path, tune=tune, redo=redo)

    @property
    def threads(self) -> int:
        """The size of the team, the calling thread included."""
        return self._handle.threads

    @property
    def resident_bytes(self) -> int:
        """What the packed weights occupy."""
        return self._handle.resident_bytes

    def new_kv(self, page_count: int | Sequence[int]) -> NativeKV:
        """See backends.batch.Program; memory is taken as it is used."""
        return self._handle.new_kv(page_counts_of(self.graph, page_count))

    def step(self, batch: Batch, kv: NativeKV) -> NDArray[np.float32]:
        """Runs the batch, writes its keys and values into `kv`; returns logits, float32 [L, V].

        ValueError when the batch is out of range. The GIL is released while it runs.
        """
        logits = self._logits(batch)
        self._handle.step(*_arrays(batch), kv, logits)
        return logits

    def step_timed(
        self, batch: Batch, kv: NativeKV
    ) -> tuple[NDArray[np.float32], dict[str, float]]:
        """The same step, a little slower, and the seconds that each node took, by node name."""
        logits = self._logits(batch)
        times = self._handle.step_timed(*_arrays(batch), kv, logits)
        names = (node.name for node in self.graph)
        return logits, {name: time * 1e-9 for name, time in zip(names, times, strict=True)}

    def capture(
        self, batch: Batch, kv: NativeKV, weights: tuple[str, ...]
    ) -> dict[str, NDArray[np.float32]]:
        """Runs the batch; returns for each weight the float32 [R, in] input of its linear."""
        nodes = {name: self._linear_of(name) for name in weights}
        inputs = {node: self._input_array(node, batch) for node in nodes.values()}
        logits = self._logits(batch)
        arguments = (*_arrays(batch), kv, logits)
        self._handle.step_captured(*arguments, list(inputs), list(inputs.values()))
        return {name: inputs[node] for name, node in nodes.items()}

    @property
    def adapter_bytes(self) -> int:
        """What the loaded adapters occupy."""
        return self._handle.adapter_bytes

    def load_adapter(self, slot: int, adapter: Adapter) -> None:
        """See backends.batch.Program; its matrices are copied as they are stored."""
        native_adapters.load_adapter(self._handle, self.graph, slot, adapter)

    def unload_adapter(self, slot: int) -> None:
        """Empties a slot; ValueError if it is empty."""
        self._handle.unload_adapter(slot)

    def _logits(self, batch: Batch) -> NDArray[np.float32]:
        return np.empty((len(batch.logit_rows), self._handle.vocabulary), np.float32)

    def _linear_of(self, weight: str) -> int:
        for i, node in enumerate(self.graph):
            is_linear = isinstance(node.op, ops.Linear | ops.GatedLinear)
            if is_linear and weight in weights_of(node.op):
                return i
        raise ValueError(f"no linear of the graph reads {weight}")

    def _input_array(self, node: int, batch: Batch) -> NDArray[np.float32]:
        width, selected = self._handle.input_of(node)
        rows = len(batch.logit_rows) if selected else len(batch.ids)
        return np.empty((rows, width), np.float32)


def _arrays(batch: Batch) -> tuple[NDArray[np.int32] | None, ...]:
    """The batch's arrays in C order; their dtypes and ranges are checked in C++."""
    arrays = (batch.ids, batch.row_starts, batch.lengths, batch.pages, batch.logit_rows)
    adapters = None if batch.adapters is None else np.ascontiguousarray(batch.adapters)
    return (*(np.ascontiguousarray(array) for array in arrays), adapters)
