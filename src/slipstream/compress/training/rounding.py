"""Carries out a `qat` pass: which matrices lie on which grids, and what is trained under them."""

from dataclasses import replace
from typing import TYPE_CHECKING

from slipstream.compress.passes.grid import Grid, fit_grid
from slipstream.compress.passes.rounding import selected
from slipstream.compress.training.distilling import linears_of, stored_or, teach
from slipstream.compress.training.fake_quant import Rounded, grid_of
from slipstream.compress.training.parameters import Frozen, Full, LowRank, Parameters
from slipstream.compress.work import Drive, Edition, Note, roles_of
from slipstream.errors import UnsupportedError
from slipstream.formats.tensor import AffineTensor

if TYPE_CHECKING:
    from slipstream.compress.passes.qat import Qat


def train_rounded(options: "Qat", edition: Edition, drive: Drive) -> Edition:
    """The edition with its rounded weights; at once where an earlier run has finished.

    What is selected and fits no group stays as it is, with a note.
    """
    grids = grids_of(options, edition)
    unfit = [
        name
        for name, parts in roles_of(edition.graph).items()
        if selected(options.select, name, parts)
        and name not in grids
        and name not in edition.rounded
    ]
    after = stored_or(
        drive, edition, lambda: teach(options, edition, drive, _parameters(options, edition, grids))
    )
    notes = [Note(name, "left as stored: its rows are no multiple of 16") for name in unfit]
    return replace(after, notes=(*after.notes, *notes))


def _parameters(options: "Qat", edition: Edition, grids: dict[str, Grid]) -> Parameters:
    if not grids:
        raise UnsupportedError("qat: no matrix is selected whose rows its groups fit")
    learned = options.steps == "learned"
    return Rounded(_inner(options, edition, grids), grids, learned=learned, device=options.device)


def grids_of(options: "Qat", edition: Edition) -> dict[str, Grid]:
    """By weight: the grid that an earlier pass chose, or one fitted to the values."""
    found: dict[str, Grid] = {}
    for name, parts in roles_of(edition.graph).items():
        stored = edition.weights[name]
        if name in edition.rounded:
            if isinstance(stored, AffineTensor) and selected(options.select, name, parts):
                found[name] = grid_of(stored)
        elif selected(options.select, name, parts) and stored.shape[1] % 16 == 0:
            format = options.format_for(stored.shape[1])
            found[name] = fit_grid(stored.dequantize(), format)
    return found


def _inner(options: "Qat", edition: Edition, grids: dict[str, Grid]) -> Parameters:
    """What moves under the rounding. What is rounded and not selected stays as it is."""
    names = edition.graph.weight_names()
    if options.train == "steps":
        return Frozen(edition.weights, names, options.device)
    if options.train == "lora":
        chosen = [name for name in linears_of(edition) if name in grids]
        return LowRank(
            edition.weights,
            names,
            chosen,
            rank=options.rank,
            seed=options.seed,
            device=options.device,
        )
    fixed = frozenset(name for name in edition.rounded if name not in grids)
    return Full(edition.weights, names, options.device, fixed)
