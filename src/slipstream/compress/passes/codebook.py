"""Rounding to a 4-bit codebook: NF4, MXFP4 or IQ4_NL; see `formats.codebook`.

Each group's scale is searched for the least squared error; `weighted` by the power of each input,
as `passes.imatrix` has it. (GPTQ and AWQ fit even grids, which codebooks are not.)
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from slipstream.compress.moments import Moments
from slipstream.compress.passes.rounding import SERVED, selected
from slipstream.compress.recipe import fitting_group
from slipstream.compress.store import overlay
from slipstream.compress.stream import Inputs, stream
from slipstream.compress.work import Drive, Edition, Visit, roles_of
from slipstream.errors import NumericError, UnsupportedError
from slipstream.formats.codebook import Codebook, CodebookName, CodebookTensor
from slipstream.formats.codebook_round import quantize_codebook
from slipstream.formats.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class ToCodebook:
    """Options of the pass.

    levels    which codebook; MXFP4 has groups of 32, whatever `group` says
    search    several scales a group, else the one that spans it (QLoRA's and OCP's own)
    weighted  errors count by the power of their input, which needs a calibration text
    """

    select: tuple[str, ...] = ("linear",)
    levels: CodebookName = "nf4"
    group: int | None = 64
    search: bool = True
    weighted: bool = False

    @property
    def calibrated(self) -> bool:
        """Whether it reads moments."""
        return self.weighted

    @property
    def inputs(self) -> Inputs:
        """Which inputs it is calibrated on."""
        return "now" if self.calibrated else "none"

    def __str__(self) -> str:
        return self.levels

    def run(self, edition: Edition, drive: Drive) -> Edition:
        """Every selected weight of every stage, in order."""
        return stream(edition, drive, self.visit, inputs=self.inputs, label=str(self))

    def outline(self, edition: Edition) -> Edition:
        """The formats that weights will have."""
        changed: dict[str, Tensor] = {}
        for name, parts in roles_of(edition.graph).items():
            if selected(self.select, name, parts) and name not in edition.rounded:
                shape = edition.weights[name].shape
                changed[name] = _outlined((shape[0], shape[1]), self.format_for(shape[1]))
        rounded = edition.rounded | changed.keys()
        return replace(edition, weights=overlay(edition.weights, changed), rounded=rounded)

    def format_for(self, width: int) -> Codebook:
        """With a group that fits rows of `width`."""
        if self.levels == "mxfp4":
            if width % 32:
                raise UnsupportedError(f"MXFP4 has groups of 32, which rows of {width} do not fill")
            return Codebook("mxfp4", 32)
        return Codebook(self.levels, fitting_group(self.group, width, SERVED))

    def visit(self, visit: Visit) -> None:
        """The selected weights of one stage."""
        for name, moments in self._turns(visit):
            power = None
            if self.weighted and moments is None:
                visit.note(name, "rounded without weights: there is no calibration")
            elif self.weighted and moments is not None:
                power = moments.power
            try:
                weight = visit.dense(name)
                form = self.format_for(weight.shape[1])
                visit.put(name, quantize_codebook(weight, form, self.search, power))
            except (NumericError, UnsupportedError, ValueError) as error:
                visit.note(name, f"left as stored: {error}")

    def _turns(self, visit: Visit) -> Iterator[tuple[str, Moments | None]]:
        """What is to be rounded now, with its moments where the stage has them."""
        grouped = {name: group for group in visit.groups for name in group.weights}
        for name in visit.matrices:
            roles = visit.roles[name]
            waits = self.weighted and name not in grouped and roles != {"embedding"}
            if waits or visit.rounded(name) or not selected(self.select, name, roles):
                continue
            group = grouped.get(name)
            yield name, None if group is None else visit.moments.get(group.key)


def _outlined(shape: tuple[int, int], form: Codebook) -> CodebookTensor:
    """A tensor of that format without values."""
    rows, width = shape
    groups = 1 if form.group is None else width // form.group
    scale = np.zeros((), np.uint8 if form.name == "mxfp4" else np.float16)
    return CodebookTensor(
        form,
        np.broadcast_to(np.zeros((), np.uint8), (rows, width // 2)),
        np.broadcast_to(scale, (rows, groups)),
    )
