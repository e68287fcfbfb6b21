"""What passes work on: a model on its way, one stage of it, and how it is driven.

A pass takes a `Edition` and returns the next; most do so by visiting its stages one after another
(`stream.stream`). What could not be done as asked becomes a `Note`, never silence.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from slipstream.backends.batch import Program
from slipstream.compress.corpus import Corpus
from slipstream.compress.inputs import InputGroup, input_groups
from slipstream.compress.moments import Moments
from slipstream.compress.recipe import Role, Roles
from slipstream.compress.stages import Stage
from slipstream.errors import NumericError
from slipstream.formats.tensor import DenseTensor, Quantized, Tensor, map_arrays
from slipstream.graph.graph import Graph
from slipstream.graph.ops import Activations

F32 = NDArray[np.float32]
Compile = Callable[[Graph, Mapping[str, Tensor]], Program]
Advance = Callable[[float], None]


class Watcher(Protocol):
    """Hears of each stage of the work and of everything worth a line."""

    def begin(self, label: str, total: float) -> Advance:
        """Work of `total` units begins, that before it is over; call back as units pass."""
        ...

    def say(self, line: str) -> None:
        """Something happened."""
        ...


class Silent:
    """Hears and says nothing."""

    def begin(self, label: str, total: float) -> Advance:
        """Nothing."""
        return lambda units: None

    def say(self, line: str) -> None:
        """Nothing."""


@dataclass(frozen=True)
class Note:
    """Something that a pass did otherwise than asked."""

    weight: str
    text: str


@dataclass(frozen=True)
class Edition:
    """A model on its way through the passes. `graph` is that of `config`; weights are lazy.

    rounded  weights that an earlier pass of this run quantized: later ones leave them alone
    inputs   by weight: how its inputs are stored, where a pass has fixed their scales
    """

    config: Mapping[str, Any]
    graph: Graph
    weights: Mapping[str, Tensor]
    rounded: frozenset[str] = frozenset()
    notes: tuple[Note, ...] = ()
    inputs: Mapping[str, Activations] = field(default_factory=dict)


@dataclass(frozen=True)
class Drive:
    """How passes are carried out.

    compile       makes one stage runnable; its linears read float32
    chunks        int32 [C, T]: the calibration text; None where no pass is calibrated
    folder        of this pass: files by which a killed run goes on
    memory_bytes  for moments and captured inputs held at once
    corpus        the text that passes train on; None where none does
    original      the model before the first pass: what a student learns from
    log           where TensorBoard will look; None: nothing is logged
    """

    compile: Compile
    chunks: NDArray[np.int32] | None
    folder: Path
    memory_bytes: int = 2 << 30
    watcher: Watcher = field(default_factory=Silent)
    corpus: Corpus | None = None
    original: Edition | None = None
    log: Path | None = None


@dataclass
class Visit:
    """One stage under the hands of a pass: read, replace, note.

    moments  by weight; empty where the pass is not calibrated, or where inputs overflowed
    """

    edition: Edition
    stage: Stage
    moments: Mapping[str, Moments]
    roles: Mapping[str, frozenset[Role]]
    rows: F32 | None = None  # that enter the stage
    earlier: frozenset[str] = frozenset()  # weights that an earlier block also reads
    changed: dict[str, Tensor] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)

    def tensor(self, name: str) -> Tensor:
        """A weight as it is now."""
        return self.changed[name] if name in self.changed else self.edition.weights[name]

    def dense(self, name: str) -> F32:
        """A weight in float32, a copy. NumericError names one that holds infinities or NaN."""
        values = np.array(self.tensor(name).dequantize(), np.float32)
        if not np.isfinite(values).all():
            raise NumericError(f"{name}: the stored weights hold infinities or NaN")
        return values

    def put(self, name: str, tensor: Tensor) -> None:
        """Replaces a weight."""
        self.changed[name] = tensor

    def put_dense(self, name: str, values: F32) -> None:
        """Replaces a weight by float32 values, kept in the storage type that it had."""
        before = self.edition.weights.get(name)
        kind = np.dtype(np.float32)
        if isinstance(before, DenseTensor) and before.data.dtype.itemsize == 2:
            kind = before.data.dtype
        self.changed[name] = DenseTensor(values.astype(kind))

    def note(self, weight: str, text: str) -> None:
        """For the report."""
        self.notes.append(Note(weight, text))

    def rounded(self, name: str) -> bool:
        """Whether this run has quantized it already."""
        return name in self.edition.rounded or isinstance(self.changed.get(name), Quantized)

    @property
    def matrices(self) -> tuple[str, ...]:
        """The embeddings and linear weights of the stage, in graph order."""
        return tuple(name for name in self.stage.weights if name in self.roles)

    @property
    def groups(self) -> tuple[InputGroup, ...]:
        """The linears of the stage by the input that they share."""
        return input_groups(self.stage.nodes, lambda name: self.tensor(name).shape[1])


class Pass(Protocol):
    """One method with its options: a frozen dataclass in `passes/`, named in `registry`."""

    @property
    def calibrated(self) -> bool:
        """Whether it needs a calibration text."""
        ...

    def run(self, edition: Edition, drive: Drive) -> Edition:
        """The next edition."""
        ...

    def outline(self, edition: Edition) -> Edition:
        """The same on an edition whose tensors have shapes and formats but no values."""
        ...


def roles_of(graph: Graph) -> Mapping[str, frozenset[Role]]:
    """The part that each matrix plays; see `recipe.Roles`."""
    return Roles.of(graph).by_weight


def outlined(edition: Edition) -> Edition:
    """The same edition without values."""
    weights = {name: flat(edition.weights[name]) for name in edition.graph.weight_names()}
    return replace(edition, weights=weights)


def flat(tensor: Tensor) -> Tensor:
    """The same record without values: it takes no memory, and says the size that it stands for."""
    return map_arrays(tensor, _flat)


def _flat(array: NDArray) -> NDArray:
    return np.broadcast_to(np.zeros((), array.dtype), array.shape)
