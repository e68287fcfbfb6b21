"""The extension module `slipstream._native`, loaded when it is needed, and what Python sees of it.

`backends.native` and its helpers are the only ones that touch it; tests ask it what it can run.
"""

from collections.abc import Sequence
from typing import Any, Protocol, cast

from slipstream.errors import MachineError


class NativeKV(Protocol):
    """Pages in native memory; see backends.batch.KV."""

    page_count: int
    size_bytes: int

    def copy_page(self, source: int, target: int, kind: int | None = None) -> None:
        """Copies a page of one kind, or of all; ValueError when a number is out of range."""
        ...


class NativeHandle(Protocol):
    """A program of csrc/step/program.h. A step takes the six arrays of a batch (adapters may be
    None), a KV, and the array that receives the logits.
    """

    threads: int
    vocabulary: int
    resident_bytes: int
    adapter_bytes: int
    adapter_sites: list[tuple[int, int]]  # (out, in) of each matrix of a linear

    def load_adapter(self, slot: int, parts: list[tuple[int, Any, Any, str, float]]) -> None:
        """Fills an empty slot with (site, A, B, dtype, scale)."""
        ...

    def unload_adapter(self, slot: int) -> None:
        """Empties a slot."""
        ...

    def new_kv(self, page_counts: Sequence[int]) -> NativeKV:
        """Pages of each kind of attention."""
        ...

    def linears(self) -> list[tuple[int, str, int]]:
        """(node, shape, bytes) of each linear."""
        ...

    def linear_plan(self, node: int, rows: int) -> tuple[int, int, int, int]:
        """How a linear is computed for so many rows."""
        ...

    def time_linears(self, nodes: list[int], rows: int, plan: tuple[int, int, int, int]) -> int:
        """Nanoseconds that the linears take with the plan."""
        ...

    def plan_linears(self, nodes: list[int], rows: int, plan: tuple[int, int, int, int]) -> None:
        """Sets the plan for steps of about so many rows."""
        ...

    def input_of(self, node: int) -> tuple[int, bool]:
        """The width of a linear's input, and whether it has only the selected rows."""
        ...

    def step(self, *arguments: object) -> None:
        """Runs a step."""
        ...

    def step_timed(self, *arguments: object) -> list[int]:
        """Runs a step; returns nanoseconds for each node."""
        ...

    def step_captured(self, *arguments: object) -> None:
        """Runs a step; takes nodes, and the arrays that receive their inputs, as well."""
        ...


class NativeModule(Protocol):
    """What csrc/bindings.cpp offers."""

    Builder: Any
    Sampler: Any  # csrc/step/sampler.h; engine/sampler_native.py is its only caller
    PACKED_LAYOUT: int  # another number: packed weights of other versions cannot be read

    def isa_available(self) -> list[str]:
        """Instruction sets that this machine runs, slowest first."""
        ...

    def span_ends(self, *arguments: object) -> None:
        """The ends of groups; compress/passes/spans.py is its only caller."""
        ...

    def span_errors(self, *arguments: object) -> None:
        """The errors of candidate spans; compress/passes/spans.py is its only caller."""
        ...


def native_module() -> NativeModule:
    """The extension module; MachineError with what to do when it was not built."""
    try:
        from slipstream import _native  # noqa: PLC0415  absent where it was not built
    except ImportError as error:
        raise MachineError(
            f"the native kernels cannot be loaded ({error}); in a checkout run `make native`"
        ) from error
    return cast(NativeModule, _native)
