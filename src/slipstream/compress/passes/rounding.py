"""What all quantizers share: which weights they take, the format that fits, and what is done when
a layer fails.

A quantizer is a dataclass over `Rounding` that says how one stack of rows is rounded. Linears that
read the same input are handed over together, since their calibration is the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from slipstream.compress.inputs import InputGroup
from slipstream.compress.moments import Moments
from slipstream.compress.passes.rtn import round_to_nearest
from slipstream.compress.recipe import fitting_group
from slipstream.compress.store import overlay
from slipstream.compress.stream import Inputs, stream
from slipstream.compress.work import Drive, Edition, Visit, roles_of
from slipstream.errors import NumericError
from slipstream.formats.tensor import Affine, AffineTensor, Tensor, Zero
from slipstream.graph.ops import Activations

F32 = NDArray[np.float32]

LOOKED_UP = 0.3  # SmolLM2's table at int5 g32, KL: 0.0172 with 0.01, 0.0150 with 0.3, 0.0192 with 3
SERVED = Activations(8, 32)  # the inputs that groups of weights have to agree with


@dataclass(frozen=True, kw_only=True)
class Rounding:
    """Options of every quantizer.

    select  roles (``linear``, ``head``, ``embedding``) or patterns over weight names
    group   inputs that share a scale, a multiple of 16; None: the whole row
    """

    select: tuple[str, ...] = ("linear",)
    bits: Literal[2, 3, 4, 5, 6, 8] = 4
    group: int | None = 64
    zero: Zero = "symmetric"

    @property
    def calibrated(self) -> bool:
        """Whether it reads moments."""
        return False

    @property
    def inputs(self) -> Inputs:
        """Which inputs it is calibrated on."""
        return "now" if self.calibrated else "none"

    def run(self, edition: Edition, drive: Drive) -> Edition:
        """Every selected weight of every stage, in order."""
        return stream(edition, drive, self.visit, inputs=self.inputs, label=str(self))

    def __str__(self) -> str:
        return type(self).__name__.lower()

    def visit(self, visit: Visit) -> None:
        """The selected weights of one stage."""
        grouped = {name for group in visit.groups for name in group.weights}
        alone = [InputGroup((name,), 0) for name in visit.matrices if name not in grouped]
        for group in [*alone, *visit.groups]:
            names = [name for name in group.weights if self._turn(visit, name, group)]
            sound = _sound(visit, names)
            moments = _moments_of(visit, group)
            for format, alike in self._by_format(sound).items():
                self._round_or_leave(visit, alike, moments, format)

    def round(self, weight: F32, moments: Moments | None, format: Affine) -> AffineTensor:
        """Rows float32 [O, I] onto `format`; NumericError if they cannot be calibrated."""
        raise NotImplementedError

    def format_for(self, width: int) -> Affine:
        """The wanted format, with a group that fits rows of `width`."""
        return Affine(self.bits, fitting_group(self.group, width, SERVED), self.zero)

    def format_of(self, name: str, width: int) -> Affine:
        """That of one weight; the same for all, unless a subclass chooses."""
        return self.format_for(width)

    def outline(self, edition: Edition) -> Edition:
        """The formats that weights will have."""
        roles = roles_of(edition.graph)
        changed: dict[str, Tensor] = {}
        for name, parts in roles.items():
            if selected(self.select, name, parts) and name not in edition.rounded:
                shape = edition.weights[name].shape
                changed[name] = outlined(shape, self.format_for(shape[1]))
        rounded = edition.rounded | changed.keys()
        return replace(edition, weights=overlay(edition.weights, changed), rounded=rounded)

    def takes(self, visit: Visit, name: str) -> bool:
        """Whether it is selected and not rounded yet."""
        return selected(self.select, name, visit.roles[name]) and not visit.rounded(name)

    def _turn(self, visit: Visit, name: str, group: InputGroup) -> bool:
        """Whether it is to be rounded, and not waiting for the stage that calibrates it."""
        waits = self.calibrated and not group.width and visit.roles[name] != {"embedding"}
        return self.takes(visit, name) and not waits

    def _by_format(self, matrices: Mapping[str, F32]) -> dict[Affine, dict[str, F32]]:
        alike: dict[Affine, dict[str, F32]] = {}
        for name, matrix in matrices.items():
            alike.setdefault(self.format_of(name, matrix.shape[1]), {})[name] = matrix
        return alike

    def _round_or_leave(
        self, visit: Visit, matrices: Mapping[str, F32], moments: Moments | None, format: Affine
    ) -> None:
        try:
            self._round_together(visit, matrices, moments, format)
        except ValueError as error:  # rows that are no multiple of 16
            for name in matrices:
                visit.note(name, f"left as stored: {error}")

    def _round_together(
        self, visit: Visit, matrices: Mapping[str, F32], moments: Moments | None, format: Affine
    ) -> None:
        """Rows are independent, so matrices of one input are rounded as one."""
        if len(matrices) == 1 or not self.calibrated:
            for name, matrix in matrices.items():
                visit.put(name, self._round_or_fall_back(visit, name, matrix, moments, format))
            return
        stacked = np.concatenate(list(matrices.values()))
        whole = self._round_or_fall_back(visit, next(iter(matrices)), stacked, moments, format)
        start = 0
        for name, matrix in matrices.items():
            visit.put(name, rows_of(whole, slice(start, start + len(matrix))))
            start += len(matrix)

    def _round_or_fall_back(
        self, visit: Visit, name: str, weight: F32, moments: Moments | None, format: Affine
    ) -> AffineTensor:
        try:
            return self.round(weight, moments, format)
        except NumericError as error:
            visit.note(name, f"rounded to nearest instead of {self}: {error}")
            return round_to_nearest(weight, format)


def selected(select: Sequence[str], name: str, roles: frozenset[str]) -> bool:
    """Whether one of the roles or patterns names the weight."""
    return any(wanted in roles or fnmatchcase(name, wanted) for wanted in select)


def outlined(shape: tuple[int, ...], format: Affine) -> AffineTensor:
    """A tensor of that format without values; see `work.flat`."""
    rows, width = shape
    groups = 1 if format.group is None else width // format.group
    bytes_in_row = width // 2 if format.nibbles else width
    zeros = np.broadcast_to(np.zeros((), np.uint8), (rows, groups))
    return AffineTensor(
        format,
        np.broadcast_to(np.zeros((), np.uint8), (rows, bytes_in_row)),
        np.broadcast_to(np.zeros((), np.float16), (rows, groups)),
        None if format.zero == "symmetric" else zeros,
    )


def rows_of(tensor: AffineTensor, rows: slice) -> AffineTensor:
    """Some rows of a matrix, as an own tensor."""
    offsets = None if tensor.offsets is None else tensor.offsets[rows].copy()
    return replace(
        tensor, codes=tensor.codes[rows].copy(), scales=tensor.scales[rows].copy(), offsets=offsets
    )


def _moments_of(visit: Visit, group: InputGroup) -> Moments | None:
    """What the errors of a group's weights count by.

    A tied table is multiplied with the head's inputs and looked up as well, where every input
    counts alike: a share of the mean power is added for that.
    """
    moments = visit.moments.get(group.key)
    tied = any(visit.roles[name] >= {"embedding", "head"} for name in group.weights)
    if moments is None or not tied:
        return moments
    added = np.float32(LOOKED_UP * float(moments.power.mean()))
    return replace(moments, hessian=moments.hessian + added * np.eye(group.width, dtype=np.float32))


def _sound(visit: Visit, names: Sequence[str]) -> dict[str, F32]:
    """Those whose stored values are finite; the others are noted and left as they are."""
    matrices: dict[str, F32] = {}
    for name in names:
        try:
            matrices[name] = visit.dense(name)
        except NumericError as error:
            visit.note(name, f"left as stored: {error}")
    return matrices
