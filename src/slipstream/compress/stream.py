"""Walks a model stage by stage: capture, let a pass work, run what it left, write, go on.

Each stage is calibrated on what the stages before it yield as they now are, so that a pass makes up
for the errors before it. Held at once: the rows between two stages, one stage, its moments. After
each stage its tensors and rows are on disk, and what was mapped goes: a run that is killed goes on
there, with equal bits.

    rows ─▶ [stage as it was] ─▶ moments ─▶ pass ─▶ [stage as it is now] ─▶ rows
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

from slipstream.compress.blas import one_blas_thread
from slipstream.compress.calibrate import parts_of
from slipstream.compress.inputs import InputGroup, input_groups
from slipstream.compress.lane import Lane
from slipstream.compress.moments import F32, Moments, Powers, gather
from slipstream.compress.stages import Stage, stages_of
from slipstream.compress.store import (
    StoredTensors,
    overlay,
    read_rows,
    release,
    save_rows,
    save_tensors,
)
from slipstream.compress.work import Drive, Edition, Note, Visit, roles_of
from slipstream.formats.tensor import Quantized, Tensor

Visitor = Callable[[Visit], None]
# What a pass is calibrated on: nothing, inputs as they now are, or only the power of each of them.
Inputs = Literal["none", "now", "power"]


def stream(
    edition: Edition, drive: Drive, visitor: Visitor, *, inputs: Inputs, label: str = "compressing"
) -> Edition:
    """The edition with what `visitor` put into each stage."""
    drive.folder.mkdir(parents=True, exist_ok=True)
    roles = roles_of(edition.graph)
    stages = stages_of(edition.graph)
    walk = _Walk(edition, drive, stages, inputs)
    done = walk.resume()
    advance = drive.watcher.begin(label, len(stages))
    advance(done)
    with one_blas_thread():
        for index in range(done, len(stages)):
            stage, now = stages[index], walk.now()
            moments = walk.moments(stage, now)
            visit = Visit(now, stage, moments, roles, walk.rows, _read_before(stages[:index]))
            if inputs != "none":
                _say_overflow(visit)
            visitor(visit)
            walk.keep(index, visit)
            walk.pass_on(index)
            walk.release()
            for note in visit.notes:
                drive.watcher.say(f"{note.weight}: {note.text}")
            advance(1)
    return walk.finish()


class _Walk:
    """Where a walk stands: the rows before the next stage, and what was changed so far."""

    def __init__(
        self, edition: Edition, drive: Drive, stages: Sequence[Stage], inputs: Inputs
    ) -> None:
        self.edition = edition
        self.drive = drive
        self.stages = stages
        self.changed: dict[str, Tensor] = {}
        self.stored: list[StoredTensors] = []  # the files that `changed` reads from
        self.kind = Powers if inputs == "power" else Moments
        self.lane: Lane | None = None
        if inputs != "none":
            assert drive.chunks is not None, "a calibrated pass needs a text"
            self.lane = Lane(edition.graph, drive.compile, drive.chunks)

    @property
    def rows(self) -> F32 | None:
        return None if self.lane is None else self.lane.rows

    def tensors_path(self, index: int) -> Path:
        return self.drive.folder / f"stage-{index:04}.safetensors"

    def rows_path(self, index: int) -> Path:
        return self.drive.folder / f"rows-{index:04}.safetensors"

    def resume(self) -> int:
        """How many stages an earlier run finished; their tensors and rows are taken over."""
        done = 0
        while done < len(self.stages) and self.tensors_path(done).exists():
            done += 1
        if self.lane is not None and done < len(self.stages):
            while done and not self.rows_path(done - 1).exists():
                done -= 1  # killed before the rows were written: that stage is done again
        self._take(StoredTensors([self.tensors_path(index) for index in range(done)]))
        if self.lane is not None and 0 < done < len(self.stages):
            self.lane.rows = read_rows(self.rows_path(done - 1))
        return done

    def now(self) -> Edition:
        """The edition with all that was changed."""
        rounded = {n for n, t in self.changed.items() if isinstance(t, Quantized)}
        return replace(
            self.edition,
            weights=overlay(self.edition.weights, dict(self.changed)),
            rounded=self.edition.rounded | rounded,
        )

    def moments(self, stage: Stage, edition: Edition) -> dict[str, Moments]:
        """Of every linear of the stage, by weight; those whose inputs overflowed are left out."""
        groups = input_groups(stage.nodes, lambda name: edition.weights[name].shape[1])
        if not groups or self.lane is None:
            return {}
        program, ids = self.lane.program(stage, edition.weights), self.lane.ids(stage)
        found: dict[str, Moments] = {}
        all_logits = stage is self.stages[-1]
        for part in parts_of(groups, ids.shape[1], self.drive.memory_bytes):
            by_key = gather(program, ids, part, kind=self.kind, all_logits=all_logits)
            found.update(_by_weight(part, by_key))
        return {name: moments for name, moments in found.items() if moments.finite}

    def keep(self, index: int, visit: Visit) -> None:
        """What was put goes to disk, and from now on is read from there: memory stays bounded."""
        path = self.tensors_path(index)
        save_tensors(path, visit.changed, {"notes": [asdict(note) for note in visit.notes]})
        self._take(StoredTensors([path]))

    def pass_on(self, index: int) -> None:
        """Runs the stage as it now is; its rows are on disk before those that entered it go."""
        if self.lane is None or index + 1 == len(self.stages):
            return
        self.lane.advance(self.stages[index], self.now().weights)
        assert self.lane.rows is not None
        save_rows(self.rows_path(index), self.lane.rows)
        if index > 0:
            self.rows_path(index - 1).unlink(missing_ok=True)

    def release(self) -> None:
        """Lets the mapped pages of all stages so far go, else they would count as memory."""
        release(self.edition.weights)
        for stored in self.stored:
            stored.release()

    def _take(self, stored: StoredTensors) -> None:
        self.stored.append(stored)
        self.changed.update({name: stored[name] for name in stored})

    def finish(self) -> Edition:
        """The edition whose weights are read from this pass's files."""
        stored = StoredTensors([self.tensors_path(index) for index in range(len(self.stages))])
        for path in self.drive.folder.glob("rows-*"):
            path.unlink()
        notes = [Note(**note) for facts in stored.facts for note in facts["notes"]]
        return replace(
            self.edition,
            weights=overlay(self.edition.weights, stored),
            rounded=self.edition.rounded | stored.rounded,
            notes=(*self.edition.notes, *notes),
        )


def _by_weight(part: Sequence[InputGroup], found: dict[str, Moments]) -> dict[str, Moments]:
    return {name: found[group.key] for group in part for name in group.weights}


def _read_before(stages: Sequence[Stage]) -> frozenset[str]:
    """Weights of the blocks so far: shared ones are changed only once, at their first use."""
    blocks = (stage for stage in stages if stage.layer is not None)
    return frozenset(name for stage in blocks for name in stage.weights)


def _say_overflow(visit: Visit) -> None:
    for group in visit.groups:
        if group.key not in visit.moments:
            visit.note(group.key, "its calibration inputs are not finite; it goes uncalibrated")
