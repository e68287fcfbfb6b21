"""The native backend: a graph compiled to C++ kernels, the whole step in one call.

The engine, evaluation and the command line call `compile_native`. Promised: logits depend on the
row, the weights and the options alone, bit for bit; not on the batch, the way a prompt was cut
into chunks, the pages it lies on, the number of threads or the instruction set.

>>> program = compile_native(model.graph, model.weights)
>>> kv = program.new_kv(page_count=4)
>>> logits = program.step(single(ids), kv)  # float32 [1, V]
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from slipstream.backends.batch import Batch
from slipstream.backends.native_nodes import NativeModule, build_program
from slipstream.errors import MachineError
from slipstream.formats.tensor import Tensor
from slipstream.graph import ops
from slipstream.graph.graph import Graph, weights_of
from slipstream.graph.passes.activations import Choice, assign_activations
from slipstream.graph.passes.fuse import fuse
from slipstream.machine import check_isa, forced_isa, thread_count


@dataclass(frozen=True)
class NativeOptions:
    """How a graph is compiled.

    threads      None: `machine.thread_count()`
    activations  of linears: as the checkpoint says ("auto"), float32, or int8 where weights are affine
    kv_dtype     of stored keys and values
    isa          None: `machine.forced_isa()`, else the fastest that this machine has
    """

    threads: int | None = None
    activations: Choice = "auto"
    kv_dtype: Literal["bfloat16", "float32"] = "bfloat16"
    isa: str | None = None


class NativeKV(Protocol):
    """Pages in native memory; see backends.batch.KV."""

    page_count: int
    size_bytes: int


def compile_native(
    graph: Graph,
    weights: Mapping[str, Tensor],
    options: NativeOptions | None = None,
    *,
    settings: Mapping[str, ops.Activations] | None = None,
) -> "NativeProgram":
    """Assigns activations, fuses, packs the weights and builds the program.

    `settings` are a checkpoint's own `activations` by weight name. Each weight is read once.
    MachineError when the extension module is missing or the instruction set is not to be had.
    """
    options = options or NativeOptions()
    graph.check()
    tensors = {name: weights[name] for name in graph.weight_names()}
    graph = fuse(assign_activations(graph, tensors, options.activations, settings))
    isa = forced_isa() if options.isa is None else check_isa(options.isa)
    module = native_module()
    native = build_program(
        module,
        graph,
        tensors,
        threads=thread_count() if options.threads is None else options.threads,
        isa=isa or module.isa_available()[-1],
        kv_dtype=options.kv_dtype,
    )
    return NativeProgram(graph, native)


def native_module() -> NativeModule:
    """The extension module; MachineError with what to do when it was not built."""
    try:
        from slipstream import _native  # noqa: PLC0415  absent where it was not built
    except ImportError as error:
        raise MachineError(
            f"the native kernels cannot be loaded ({error}); in a checkout run `make native`"
        ) from error
    return _native


class NativeProgram:
    """See backends.batch.Program. `graph` is the graph as compiled: assigned and fused."""

    def __init__(self, graph: Graph, native: "NativeProgramHandle") -> None:
        self.graph = graph
        self._native = native

    @property
    def threads(self) -> int:
        """The size of the team, the calling thread included."""
        return self._native.threads

    @property
    def resident_bytes(self) -> int:
        """What the packed weights occupy."""
        return self._native.resident_bytes

    def new_kv(self, page_count: int) -> NativeKV:
        """Storage for `page_count` pages of PAGE_SIZE positions; memory is taken as it is used."""
        return self._native.new_kv(page_count)

    def step(self, batch: Batch, kv: NativeKV) -> NDArray[np.float32]:
        """Runs the batch, writes its keys and values into `kv`; returns logits, float32 [L, V].

        ValueError when the batch is out of range. The GIL is released while it runs.
        """
        logits = self._logits(batch)
        self._native.step(*_arrays(batch), kv, logits)
        return logits

    def step_timed(
        self, batch: Batch, kv: NativeKV
    ) -> tuple[NDArray[np.float32], dict[str, float]]:
        """The same step, a little slower, and the seconds that each node took, by node name."""
        logits = self._logits(batch)
        times = self._native.step_timed(*_arrays(batch), kv, logits)
        names = (node.name for node in self.graph)
        return logits, {name: time * 1e-9 for name, time in zip(names, times, strict=True)}

    def capture(
        self, batch: Batch, kv: NativeKV, weights: tuple[str, ...]
    ) -> dict[str, NDArray[np.float32]]:
        """Runs the batch; returns for each weight the float32 [R, in] input of its linear."""
        nodes = {name: self._linear_of(name) for name in weights}
        inputs = {node: self._input_array(node, batch) for node in set(nodes.values())}
        logits = self._logits(batch)
        wanted = list(inputs)
        self._native.step_captured(
            *_arrays(batch), kv, logits, wanted, [inputs[node] for node in wanted]
        )
        return {name: inputs[node] for name, node in nodes.items()}

    def _logits(self, batch: Batch) -> NDArray[np.float32]:
        return np.empty((len(batch.logit_rows), self._native.vocabulary), np.float32)

    def _linear_of(self, weight: str) -> int:
        for i, node in enumerate(self.graph):
            is_linear = isinstance(node.op, ops.Linear | ops.GatedLinear)
            if is_linear and weight in weights_of(node.op):
                return i
        raise ValueError(f"no linear of the graph reads {weight}")

    def _input_array(self, node: int, batch: Batch) -> NDArray[np.float32]:
        width, selected = self._native.input_of(node)
        rows = len(batch.logit_rows) if selected else len(batch.ids)
        return np.empty((rows, width), np.float32)


class NativeProgramHandle(Protocol):
    """What csrc/bind_program.cpp offers."""

    threads: int
    vocabulary: int
    resident_bytes: int

    def new_kv(self, page_count: int) -> NativeKV: ...

    def input_of(self, node: int) -> tuple[int, bool]: ...

    def step(self, *arguments: object) -> None: ...

    def step_timed(self, *arguments: object) -> list[int]: ...

    def step_captured(self, *arguments: object) -> None: ...


def _arrays(batch: Batch) -> tuple[NDArray[np.int32], ...]:
    """The batch's arrays in C order; their dtypes and ranges are checked in C++."""
    return tuple(
        np.ascontiguousarray(array)
        for array in (batch.ids, batch.row_starts, batch.lengths, batch.pages, batch.logit_rows)
    )
