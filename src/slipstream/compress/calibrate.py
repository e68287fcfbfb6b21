"""Second moments of every linear's inputs, H = Xᵀ X, streamed from a running program.

GPTQ (and later passes) read them from a folder, so that several recipes share one calibration and
a killed run keeps what it had. Memory is bounded: where the Hessians of all linears do not fit,
the text is run again for each part of them.

    graph ──input_groups──▶ linears that share an input ──calibrate──▶ Hessians (a folder)
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slipstream.backends.batch import Program
from slipstream.compress.inputs import InputGroup
from slipstream.compress.moments import damping_of, gather
from slipstream.compress.passes.gptq import Factor, factor_hessian
from slipstream.compress.recipe import Roles
from slipstream.errors import NumericError

_OWNER = "chunks.json"  # in a folder of Hessians: the text that they were made from

MEMORY_BYTES = 2 << 30  # Hessians and captured inputs held at once

OnTokens = Callable[[int], None]  # told how many more tokens have been run


class Hessians:
    """A folder of Hessians, one file for each input group; made by `calibrate`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __contains__(self, key: str) -> bool:
        return self._path(key, "hessian").exists()

    def hessian(self, key: str) -> NDArray[np.float32]:
        """float32 [I, I], memory-mapped. KeyError if the group was not calibrated."""
        try:
            return np.load(self._path(key, "hessian"), mmap_mode="r")
        except FileNotFoundError:
            raise KeyError(key) from None

    @property
    def rows(self) -> int:
        """Tokens that each one sums over; 0: not known."""
        owner = self.folder / _OWNER
        return int(json.loads(owner.read_text())["rows"]) if owner.exists() else 0

    def factor(self, key: str, damping: float | None, act_order: bool) -> Factor:
        """The group's `factor_hessian`, computed once, then kept: all formats share it.

        damping  None: as much as so many rows want
        """
        if damping is None:
            damping = damping_of(len(self.hessian(key)), self.rows)
        stored = self._path(key, f"factor-{damping:g}-{'act' if act_order else 'plain'}", ".npz")
        if stored.exists():
            with np.load(stored) as arrays:
                share = float(arrays["share"])
                return Factor(arrays["u"], arrays["order"], arrays["diagonal"], share)
        try:
            factor = factor_hessian(np.asarray(self.hessian(key)), damping, act_order)
        except NumericError as error:
            raise NumericError(f"{key}: {error}") from None
        _write(stored, lambda file: _save_factor(file, factor))
        return factor

    def store(self, key: str, hessian: NDArray[np.float32]) -> None:
        """Whole or not at all."""
        _write(self._path(key, "hessian"), lambda file: np.save(file, hessian))

    def _path(self, key: str, kind: str, suffix: str = ".npy") -> Path:
        return self.folder / f"{key}.{kind}{suffix}"


def calibrate(
    program: Program,
    chunks: NDArray[np.int32],
    groups: Sequence[InputGroup],
    folder: Path,
    *,
    memory_bytes: int = MEMORY_BYTES,
    on_tokens: OnTokens | None = None,
) -> Hessians:
    """Runs int32 [C, T] chunks and leaves H = Xᵀ X / rows of each group in `folder`.

    Groups already there (for these chunks) are kept; a folder made from other chunks is emptied.
    NumericError names the group whose inputs are not finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _claim(folder, chunks)
    hessians = Hessians(folder)
    missing = [group for group in groups if group.key not in hessians]
    for part in parts_of(missing, chunks.shape[1], memory_bytes):
        sums = _sum_products(program, chunks, part, on_tokens)
        for group in part:
            hessians.store(group.key, sums[group.key])
    return hessians


def parts_of(
    groups: Sequence[InputGroup], rows: int, memory_bytes: int
) -> Iterator[list[InputGroup]]:
    """Cuts the groups into runs whose Hessians and captured inputs fit; one group at least."""
    part: list[InputGroup] = []
    used = 0
    for group in groups:
        needed = 4 * group.width * (group.width + rows)
        if part and used + needed > memory_bytes:
            yield part
            part, used = [], 0
        part.append(group)
        used += needed
    if part:
        yield part


def calibration_passes(
    groups: Sequence[InputGroup], rows: int, memory_bytes: int = MEMORY_BYTES
) -> int:
    """How many times `calibrate` will run the text."""
    return sum(1 for _ in parts_of(groups, rows, memory_bytes))


def _sum_products(
    program: Program,
    chunks: NDArray[np.int32],
    part: Sequence[InputGroup],
    on_tokens: OnTokens | None,
) -> dict[str, NDArray[np.float32]]:
    """Mean of x xᵀ over all rows, float32 [I, I] for each group."""
    roles = Roles.of(program.graph).by_weight
    with_head = any("head" in roles[group.key] for group in part)  # it sees only rows with logits
    found = gather(program, chunks, part, all_logits=with_head, on_tokens=on_tokens)
    for key, moments in found.items():
        if not moments.finite:
            raise NumericError(f"{key}: its calibration inputs are not finite")
    return {key: moments.hessian for key, moments in found.items()}


def _claim(folder: Path, chunks: NDArray[np.int32]) -> None:
    """Empties the folder unless it was made from these very chunks."""
    owner = folder / _OWNER
    digest = hashlib.sha256(chunks.astype("<i4").tobytes()).hexdigest()
    mine = {"sha256": digest, "rows": chunks.size}
    if owner.exists() and json.loads(owner.read_text()) == mine:
        return
    for old in [*folder.glob("*.npy"), *folder.glob("*.npz")]:
        old.unlink()
    owner.write_text(json.dumps(mine))


def _save_factor(file: Any, factor: Factor) -> None:
    share = np.float64(factor.damping)
    np.savez(file, u=factor.upper, order=factor.order, diagonal=factor.diagonal, share=share)


def _write(path: Path, save: Callable[[Any], None]) -> None:
    """Through a temporary name, so that a killed run leaves no half file."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        save(file)
    os.replace(partial, path)
