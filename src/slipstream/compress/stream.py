"""Walks a model stage by stage: capture, let a pass work, run what it left, write, go on.

Each stage is calibrated on what the stages before it yield as they now are, so that a pass makes up
for the errors before it. Held at once: the rows between two stages, one stage, its moments. After
each stage its tensors and rows are on disk: a run that is killed goes on there, with equal bits.

    rows ─▶ [stage as it was] ─▶ moments ─▶ pass ─▶ [stage as it is now] ─▶ rows
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slipstream.backends.batch import PAGE_SIZE, Program, single
from slipstream.compress.blas import one_blas_thread
from slipstream.compress.calibrate import parts_of
from slipstream.compress.inputs import InputGroup, input_groups
from slipstream.compress.moments import Moments, gather
from slipstream.compress.stages import Stage, row_numbers, stage_graph, stages_of, with_rows
from slipstream.compress.store import StoredTensors, overlay, read_rows, save_rows, save_tensors
from slipstream.compress.work import Draft, Drive, Note, Visit, roles_of
from slipstream.formats.tensor import AffineTensor, Tensor

F32 = NDArray[np.float32]
Visitor = Callable[[Visit], None]


def stream(
    draft: Draft, drive: Drive, visitor: Visitor, *, calibrated: bool, label: str = "compressing"
) -> Draft:
    """The draft with what `visitor` put into each stage. `calibrated`: it reads moments."""
    drive.folder.mkdir(parents=True, exist_ok=True)
    roles = roles_of(draft.graph)
    stages = stages_of(draft.graph)
    walk = _Walk(draft, drive, stages)
    done = walk.resume(calibrated)
    advance = drive.watcher.begin(label, len(stages))
    advance(done)
    with one_blas_thread():
        for index in range(done, len(stages)):
            stage, now = stages[index], walk.now()
            moments = walk.moments(stage, now) if calibrated else {}
            visit = Visit(now, stage, moments, roles, walk.rows, _read_before(stages[:index]))
            _say_overflow(visit, calibrated)
            visitor(visit)
            walk.keep(index, visit)
            if calibrated and index + 1 < len(stages):
                walk.pass_on(index, stage)
            for note in visit.notes:
                drive.watcher.say(f"{note.weight}: {note.text}")
            advance(1)
    return walk.finish()


class _Walk:
    """Where a walk stands: the rows that enter the next stage, and what was changed so far."""

    def __init__(self, draft: Draft, drive: Drive, stages: Sequence[Stage]) -> None:
        self.draft = draft
        self.drive = drive
        self.stages = stages
        self.rows: F32 | None = None
        self.changed: dict[str, Tensor] = {}

    def tensors_path(self, index: int) -> Path:
        return self.drive.folder / f"stage-{index:04}.safetensors"

    def rows_path(self, index: int) -> Path:
        return self.drive.folder / f"rows-{index:04}.safetensors"

    def resume(self, calibrated: bool) -> int:
        """How many stages an earlier run finished; their tensors and rows are taken over."""
        done = 0
        while done < len(self.stages) and self.tensors_path(done).exists():
            done += 1
        while calibrated and 0 < done < len(self.stages) and not self.rows_path(done - 1).exists():
            done -= 1  # killed between the two files: that stage is done again
        stored = StoredTensors([self.tensors_path(index) for index in range(done)])
        self.changed.update({name: stored[name] for name in stored})
        if calibrated and 0 < done < len(self.stages):
            self.rows = read_rows(self.rows_path(done - 1))
        return done

    def now(self) -> Draft:
        """The draft with all that was changed."""
        rounded = {n for n, t in self.changed.items() if isinstance(t, AffineTensor)}
        return replace(
            self.draft,
            weights=overlay(self.draft.weights, dict(self.changed)),
            rounded=self.draft.rounded | rounded,
        )

    def moments(self, stage: Stage, draft: Draft) -> dict[str, Moments]:
        """Of every linear of the stage, by weight; those whose inputs overflowed are left out."""
        groups = input_groups(stage.nodes, lambda name: draft.weights[name].shape[1])
        if not groups:
            return {}
        chunks = self._ids()
        program = self._compile(stage, draft.weights)
        kv = program.new_kv(-(-chunks.shape[1] // PAGE_SIZE))
        found: dict[str, Moments] = {}
        all_logits = stage is self.stages[-1]
        for part in parts_of(groups, chunks.shape[1], self.drive.memory_bytes):
            by_key = gather(program, self._run_ids(stage), part, kv, all_logits=all_logits)
            found.update(_by_weight(part, by_key))
        return {name: moments for name, moments in found.items() if moments.finite}

    def keep(self, index: int, visit: Visit) -> None:
        """What was put goes to disk, and from now on is read from there: memory stays bounded."""
        path = self.tensors_path(index)
        save_tensors(path, visit.changed, {"notes": _plain(visit.notes)})
        stored = StoredTensors([path])
        self.changed.update({name: stored[name] for name in stored})

    def pass_on(self, index: int, stage: Stage) -> None:
        """Runs the stage as it is now; its rows become those of the next, on disk first."""
        program = self._compile(stage, self.now().weights)
        ids = self._run_ids(stage)
        kv = program.new_kv(-(-ids.shape[1] // PAGE_SIZE))
        width = self.draft.graph.width
        rows = np.empty((ids.size, width), np.float32)
        for number, chunk in enumerate(ids):
            part = slice(number * len(chunk), (number + 1) * len(chunk))
            rows[part] = program.step(single(chunk, all_logits=True), kv)
        save_rows(self.rows_path(index), rows)
        self.rows = rows
        if index > 0:
            self.rows_path(index - 1).unlink(missing_ok=True)

    def finish(self) -> Draft:
        """The draft whose weights are read from this pass's files."""
        stored = StoredTensors([self.tensors_path(index) for index in range(len(self.stages))])
        for path in self.drive.folder.glob("rows-*"):
            path.unlink()
        notes = [Note(**note) for facts in stored.facts for note in facts["notes"]]
        return replace(
            self.draft,
            weights=overlay(self.draft.weights, stored),
            rounded=self.draft.rounded | stored.rounded,
            notes=(*self.draft.notes, *notes),
        )

    def _compile(self, stage: Stage, weights: Mapping[str, Tensor]) -> Program:
        rows = 1 if self.rows is None else len(self.rows)
        graph = stage_graph(stage, self.draft.graph, rows)
        held = {name: weights[name] for name in stage.weights}
        if stage.reads != "ids":
            assert self.rows is not None, "the stage before this one has not been run"
            held = with_rows(held, self.rows)
        return self.drive.compile(graph, held)

    def _ids(self) -> NDArray[np.int32]:
        assert self.drive.chunks is not None, "a calibrated pass needs a text"
        return self.drive.chunks

    def _run_ids(self, stage: Stage) -> NDArray[np.int32]:
        return self._ids() if stage.reads == "ids" else row_numbers(self._ids())


def _by_weight(part: Sequence[InputGroup], found: Mapping[str, Moments]) -> dict[str, Moments]:
    return {name: found[group.key] for group in part for name in group.weights}


def _read_before(stages: Sequence[Stage]) -> frozenset[str]:
    """Weights of the blocks so far: shared ones are changed only once, at their first use."""
    blocks = (stage for stage in stages if stage.layer is not None)
    return frozenset(name for stage in blocks for name in stage.weights)


def _say_overflow(visit: Visit, calibrated: bool) -> None:
    if not calibrated:
        return
    for group in visit.groups:
        if group.key not in visit.moments:
            visit.note(group.key, "its calibration inputs are not finite; it goes uncalibrated")


def _plain(notes: Sequence[Note]) -> list[dict[str, str]]:
    return [asdict(note) for note in notes]
