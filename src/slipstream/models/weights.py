"""The weights of a model as its graph names them: read from the checkpoint when asked for.

A name is a tensor of the checkpoint, or a part of one that a checkpoint stores fused or turned:

    model.layers.0.self_attn.qkv_proj.weight[0:3072]   its rows 0 … 3071 (Phi-3's queries)
    h.0.attn.c_attn.weight.T[768:1536]                 turned first, then rows (GPT-2's keys)

A tensor stored under the whole name comes first, so that an artifact may keep the parts apart.
Files also begin their names differently: `spellings` lists pairs (our beginning, theirs) to try.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from slipstream.checkpoint.checkpoint import Checkpoint
from slipstream.errors import FileFormatError, UnsupportedError
from slipstream.formats.tensor import DenseTensor, Tensor, map_arrays
from slipstream.graph.ops import Activations

Shapes = Mapping[str, tuple[int, ...]]

_PART = re.compile(r"(?P<stored>.*?)(?P<turned>\.T)?(\[(?P<start>\d+):(?P<end>\d+)\])?")


@dataclass(frozen=True)
class Part:
    """Where a weight's values are: the tensor `stored`, turned or not, and which of its rows."""

    stored: str
    turned: bool = False
    rows: tuple[int, int] | None = None

    def __str__(self) -> str:
        rows = "" if self.rows is None else f"[{self.rows[0]}:{self.rows[1]}]"
        return f"{self.stored}{'.T' if self.turned else ''}{rows}"


def parse_part(name: str) -> Part:
    """Reads a name as above; `str` of the result is the name again."""
    match = _PART.fullmatch(name)
    assert match is not None  # the pattern accepts every text
    rows = None if match["start"] is None else (int(match["start"]), int(match["end"]))
    return Part(match["stored"], match["turned"] is not None, rows)


class Weights(Mapping[str, Tensor]):
    """A lazy mapping from the graph's names to tensors; nothing is kept in memory.

    Missing names are refused at once, wrong shapes when the tensor is read.
    """

    def __init__(
        self, checkpoint: Checkpoint, shapes: Shapes, spellings: Sequence[tuple[str, str]] = ()
    ) -> None:
        self.checkpoint = checkpoint
        self.shapes = shapes
        stored = set(checkpoint.names())
        self.parts = {name: _located(name, stored, spellings) for name in shapes}
        missing = [name for name, part in self.parts.items() if part.stored not in stored]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise FileFormatError(
                f"{checkpoint.path} lacks the tensor {self.parts[missing[0]].stored}{more}; "
                "the file is incomplete, or not of the architecture that its config names"
            )

    def __getitem__(self, name: str) -> Tensor:
        part = self.parts[name]
        tensor = take_part(self.checkpoint.tensor(part.stored), part)
        if tuple(tensor.shape) != self.shapes[name]:
            raise FileFormatError(
                f"{self.checkpoint.path}: {name} has shape {tuple(tensor.shape)}, "
                f"but the config says {self.shapes[name]}"
            )
        return tensor

    def release(self) -> None:
        """Lets the memory of what was read go; see `Checkpoint.release`."""
        self.checkpoint.release()

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def activations_of(checkpoint: Checkpoint, names: Iterable[str]) -> dict[str, Activations]:
    """The checkpoint's own settings, by the graph's names: a fused matrix's hold for its parts."""
    settings = checkpoint.activations
    return {
        name: settings[key]
        for name in names
        for key in (name if name in settings else parse_part(name).stored,)
        if key in settings
    }


def take_part(tensor: Tensor, part: Part) -> Tensor:
    """The part of a stored tensor: views where possible. A quantized tensor cannot be turned."""
    if part.turned:
        if not isinstance(tensor, DenseTensor):
            raise UnsupportedError(f"{part.stored} is quantized along the wrong side for {part}")
        tensor = DenseTensor(np.ascontiguousarray(tensor.data.T))
    if part.rows is None:
        return tensor
    rows = slice(*part.rows)
    return map_arrays(tensor, lambda array: array[rows])


def _located(name: str, stored: set[str], spellings: Sequence[tuple[str, str]]) -> Part:
    """Where a weight is: the first spelling that is stored, or the plain one if none is."""
    others = [
        theirs + name.removeprefix(ours) for ours, theirs in spellings if name.startswith(ours)
    ]
    for spelled in (name, *others):
        for part in (Part(spelled), parse_part(spelled)):
            if part.stored in stored:
                return part
    return parse_part(name)
