"""Mixed formats under a size: fine where errors cost most, coarse elsewhere; rounded by GPTQ.

Every matrix gets a format of the menu by an integer program (`compress.allocation`) over its
measured sensitivity (`passes.sensitivity`) and the bytes that the file would have.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from slipstream.compress.allocation import allocate
from slipstream.compress.passes.observe import remembered
from slipstream.compress.passes.quantizers import Gptq
from slipstream.compress.passes.rounding import SERVED, outlined, selected
from slipstream.compress.passes.sensitivity import probe_all, squared_error
from slipstream.compress.recipe import Role, fitting_group, format_label
from slipstream.compress.store import overlay
from slipstream.compress.work import Drive, Edition, roles_of
from slipstream.errors import UnsupportedError
from slipstream.formats.tensor import Affine, AffineTensor, Tensor

PROBE = Affine(4, 64)
MENU = ("3 g32", "4 g64", "4 g32", "5 g64", "5 g32", "6 g64", "8 row")
HEADER_BYTES = 60_000  # of the file: names, shapes and small arrays
# What GPTQ leaves of the error of a table that is also the head, of what it leaves of linears'. KL
# of SmolLM2 at 112 MB: predicted, to nearest, 0.0125 and 0.0146, measured 0.0030 and 0.0081.
TABLE_SHARE = 0.5
BITS = {str(bits): bits for bits in (2, 3, 4, 5, 6, 8)}


@dataclass(frozen=True, kw_only=True)
class Mixed:
    """size_mb: of the weights' file, millions of bytes; what was rounded before counts as it is.

    menu  formats to choose from: bits, then the inputs that share a scale (``g32``, ``row``)
    The other options are those of GPTQ.
    """

    size_mb: float
    menu: tuple[str, ...] = MENU
    select: tuple[str, ...] = ("linear", "embedding", "head")
    damping: float | None = None
    act_order: bool = True
    sweeps: int = 0

    def __post_init__(self) -> None:
        for entry in self.menu:
            parse_entry(entry)

    @property
    def calibrated(self) -> bool:
        """By the predictions, and by H."""
        return True

    def run(self, edition: Edition, drive: Drive) -> Edition:
        """Measures, allocates, rounds."""
        names = self._names(edition)
        probes = {name: fitted(PROBE, edition.weights[name].shape[1]) for name in names}
        measured = remembered(drive, lambda: probe_all(edition, drive, probes))
        formats = self._allocated(edition, self._costs(edition, probes, measured))
        drive.watcher.say(f"formats: {summary(formats)}")
        rounding = _Chosen(
            select=self.select, damping=self.damping, act_order=self.act_order, sweeps=self.sweeps
        )
        return replace(rounding, formats=formats).run(edition, drive)

    def outline(self, edition: Edition) -> Edition:
        """With every weight equally sensitive: what is measured is not known before."""
        names = self._names(edition)
        halves = [0.25 ** parse_entry(entry).bits for entry in self.menu]
        costs = {name: [h * np.prod(edition.weights[name].shape) for h in halves] for name in names}
        formats = self._allocated(edition, costs)
        changed: dict[str, Tensor] = {
            name: outlined(edition.weights[name].shape, formats[name]) for name in names
        }
        rounded = edition.rounded | changed.keys()
        return replace(edition, weights=overlay(edition.weights, changed), rounded=rounded)

    def _names(self, edition: Edition) -> list[str]:
        """The matrices that it may round."""
        roles = roles_of(edition.graph)
        return [
            name
            for name, parts in roles.items()
            if selected(self.select, name, parts)
            and name not in edition.rounded
            and edition.weights[name].shape[1] % 16 == 0
        ]

    def _costs(
        self, edition: Edition, probes: Mapping[str, Affine], measured: Mapping[str, float]
    ) -> dict[str, list[float]]:
        """The predicted KL of each matrix in each format of the menu."""
        costs = {}
        roles = roles_of(edition.graph)
        for name, probe in probes.items():
            weight = np.array(edition.weights[name].dequantize(), np.float32)
            unit = measured[name] / max(squared_error(weight, probe), 1e-30)
            unit *= TABLE_SHARE if roles[name] >= {"embedding", "head"} else 1.0
            formats = (fitted(parse_entry(entry), weight.shape[1]) for entry in self.menu)
            costs[name] = [unit * squared_error(weight, format) for format in formats]
        return costs

    def _allocated(
        self, edition: Edition, costs: Mapping[str, Sequence[float]]
    ) -> dict[str, Affine]:
        names = list(costs)
        others = sum(
            file_bytes(edition.weights[name])
            for name in edition.graph.weight_names()
            if name not in costs
        )
        formats = {
            name: [fitted(parse_entry(e), edition.weights[name].shape[1]) for e in self.menu]
            for name in names
        }
        roles = roles_of(edition.graph)
        sizes = [
            [bytes_of(edition.weights[name].shape, f, roles[name]) for f in formats[name]]
            for name in names
        ]
        wide: NDArray[np.float64] = np.array([list(costs[name]) for name in names], np.float64)
        budget = self.size_mb * 1e6 - HEADER_BYTES - others
        chosen = allocate(wide, np.array(sizes, np.float64), budget)
        return {name: formats[name][f] for name, f in zip(names, chosen, strict=True)}


@dataclass(frozen=True, kw_only=True)
class _Chosen(Gptq):
    """GPTQ with a format for each weight."""

    formats: Mapping[str, Affine] = field(default_factory=dict)

    def format_of(self, name: str, width: int) -> Affine:
        return self.formats[name]

    def __str__(self) -> str:
        return "mixed"


def parse_entry(text: str) -> Affine:
    """``4 g32`` or ``8 row``; UnsupportedError for anything else."""
    bits, _, group = text.partition(" ")
    number = group.removeprefix("g")
    fits = number.isdecimal() and int(number) >= 16 and int(number) % 16 == 0
    if bits not in BITS or not (group == "row" or (group.startswith("g") and fits)):
        raise UnsupportedError(f"a format of the menu is as 4 g32 or 8 row, not {text!r}")
    return Affine(BITS[bits], None if group == "row" else int(number))  # type: ignore[arg-type]


def fitted(format: Affine, width: int) -> Affine:
    """With a group that fits rows of `width`."""
    return replace(format, group=fitting_group(format.group, width, SERVED))


def file_bytes(tensor: Tensor) -> int:
    """In a file."""
    return tensor.file_bytes if isinstance(tensor, AffineTensor) else tensor.size_bytes


def bytes_of(shape: tuple[int, ...], format: Affine, roles: frozenset[Role]) -> int:
    """In a file: others read a table of 8 bits that is also the head with its scales twice."""
    size = outlined(shape, format).file_bytes
    if format.bits != 8 or not roles >= {"embedding", "head"}:
        return size
    groups = shape[1] // (format.group or shape[1])
    return size + 2 * shape[0] * groups


def summary(formats: Mapping[str, Affine]) -> str:
    """``int5 g32 × 120, int4 g32 × 91``."""
    labels = [format_label(format) for format in formats.values()]
    return ", ".join(f"{label} × {labels.count(label)}" for label in sorted(set(labels)))
