"""Carries out a `qat` pass: which matrices lie on which grids, and what is trained under them."""

from typing import TYPE_CHECKING

from slipstream.compress.passes.grid import Grid, fit_grid
from slipstream.compress.passes.rounding import selected
from slipstream.compress.training.distilling import linears_of, stored_or, teach
from slipstream.compress.training.fake_quant import Rounded, grid_of
from slipstream.compress.training.parameters import Frozen, Full, LowRank, Parameters
from slipstream.compress.work import Drive, Edition, roles_of
from slipstream.errors import UnsupportedError
from slipstream.formats.tensor import AffineTensor

if TYPE_CHECKING:
    from slipstream.compress.passes.qat import Qat


def train_rounded(options: "Qat", edition: Edition, drive: Drive) -> Edition:
    """The edition with its rounded weights; at once where an earlier run has finished."""
    return stored_or(
        drive, edition, lambda: teach(options, edition, drive, _parameters(options, edition))
    )


def _parameters(options: "Qat", edition: Edition) -> Parameters:
    grids = grids_of(options, edition)
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
