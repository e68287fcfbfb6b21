"""Walks a model stage by stage: capture, let a pass work, run what it left, write, go on.

Each stage is calibrated on what the stages before it yield as they now are, so that a pass makes up
for the errors before it. Held at once: the rows between two stages, one stage, its moments. After
each stage its tensors and rows are on disk: a run that is killed goes on there, with equal bits.

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
from slipstream.compress.moments import F32, Moments, gather
from slipstream.compress.stages import Stage, stages_of
from slipstream.compress.store import StoredTensors, overlay, read_rows, save_rows, save_tensors
from slipstream.compress.work import Drive, Edition, Note, Visit, roles_of
from slipstream.formats.tensor import AffineTensor, Tensor

Visitor = Callable[[Visit], None]
# How a pass is calibrated: by the inputs as they now are, and by those of the model as it was too.
Inputs = Literal["none", "now", "both"]


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
            for note in visit.notes:
                drive.watcher.say(f"{note.weight}: {note.text}")
            advance(1)
    return walk.finish()


class _Walk:
    """Where a walk stands: the lanes before the next stage, and what was changed so far."""

    def __init__(
        self, edition: Edition, drive: Drive, stages: Sequence[Stage], inputs: Inputs
    ) -> None:
        self.edition = edition
        self.drive = drive
        self.stages = stages
        self.changed: dict[str, Tensor] = {}
        self.lanes: list[Lane] = []  # now; and as it was, where that is wanted
        if inputs != "none":
            assert drive.chunks is not None, "a calibrated pass needs a text"
            count = 2 if inputs == "both" else 1
            for _ in range(count):
                self.lanes.append(Lane(edition.graph, drive.compile, drive.chunks))

    @property
    def rows(self) -> F32 | None:
        return self.lanes[0].rows if self.lanes else None

    def tensors_path(self, index: int) -> Path:
        return self.drive.folder / f"stage-{index:04}.safetensors"

    def rows_path(self, index: int, lane: int = 0) -> Path:
        return self.drive.folder / f"rows-{index:04}-{lane}.safetensors"

    def resume(self) -> int:
        """How many stages an earlier run finished; their tensors and rows are taken over."""
        done = 0
        while done < len(self.stages) and self.tensors_path(done).exists():
            done += 1
        if done < len(self.stages):
            while done and not self._has_rows(done - 1):
                done -= 1  # killed before the rows were written: that stage is done again
        stored = StoredTensors([self.tensors_path(index) for index in range(done)])
        self.changed.update({name: stored[name] for name in stored})
        if 0 < done < len(self.stages):
            for number, lane in enumerate(self.lanes):
                lane.rows = read_rows(self.rows_path(done - 1, number))
        return done

    def _has_rows(self, index: int) -> bool:
        return all(self.rows_path(index, n).exists() for n in range(len(self.lanes)))

    def now(self) -> Edition:
        """The edition with all that was changed."""
        rounded = {n for n, t in self.changed.items() if isinstance(t, AffineTensor)}
        return replace(
            self.edition,
            weights=overlay(self.edition.weights, dict(self.changed)),
            rounded=self.edition.rounded | rounded,
        )

    def moments(self, stage: Stage, edition: Edition) -> dict[str, Moments]:
        """Of every linear of the stage, by weight; those whose inputs overflowed are left out."""
        groups = input_groups(stage.nodes, lambda name: edition.weights[name].shape[1])
        if not groups or not self.lanes:
            return {}
        versions = [edition, self.edition][: len(self.lanes)]
        programs = [
            lane.program(stage, version.weights)
            for lane, version in zip(self.lanes, versions, strict=True)
        ]
        ids = self.lanes[0].ids(stage)
        found: dict[str, Moments] = {}
        all_logits = stage is self.stages[-1]
        rows = ids.shape[1] * len(programs)
        for part in parts_of(groups, rows, self.drive.memory_bytes // len(programs)):
            by_key = gather(programs, ids, part, all_logits=all_logits)
            found.update(_by_weight(part, by_key))
        return {name: moments for name, moments in found.items() if moments.finite}

    def keep(self, index: int, visit: Visit) -> None:
        """What was put goes to disk, and from now on is read from there: memory stays bounded."""
        path = self.tensors_path(index)
        save_tensors(path, visit.changed, {"notes": [asdict(note) for note in visit.notes]})
        stored = StoredTensors([path])
        self.changed.update({name: stored[name] for name in stored})

    def pass_on(self, index: int) -> None:
        """Runs the stage in every lane; the rows are on disk before those before them go."""
        if index + 1 == len(self.stages):
            return
        versions = [self.now(), self.edition][: len(self.lanes)]
        for number, (lane, version) in enumerate(zip(self.lanes, versions, strict=True)):
            lane.advance(self.stages[index], version.weights)
            assert lane.rows is not None
            save_rows(self.rows_path(index, number), lane.rows)
        for number in range(len(self.lanes)):
            self.rows_path(index - 1, number).unlink(missing_ok=True)

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
