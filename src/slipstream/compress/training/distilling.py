"""Carries out a `distill` pass: makes student and teacher, trains, stores what came of it."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from slipstream.compress.corpus import Corpus
from slipstream.compress.passes.trained import Trained, check_room
from slipstream.compress.store import StoredTensors, overlay, save_tensors
from slipstream.compress.training.distillation import (
    Distillation,
    Mixture,
    Pairs,
    check_pairs,
    even_pairs,
    new_projections,
)
from slipstream.compress.training.loop import SNAPSHOT, Settings, Where, fit
from slipstream.compress.training.network import Network
from slipstream.compress.training.parameters import Frozen, Full, LowRank, Parameters
from slipstream.compress.training.schedule import Schedule
from slipstream.compress.training.teacher import Kept, Teacher, keep_likeliest
from slipstream.compress.work import Drive, Edition, roles_of

if TYPE_CHECKING:
    from slipstream.compress.passes.distill import Distill

RESULT = "trained.safetensors"
CURVE = "curve.json"


def distill(options: "Distill", edition: Edition, drive: Drive) -> Edition:
    """The edition with its trained weights; at once where an earlier run has finished."""
    return stored_or(
        drive, edition, lambda: teach(options, edition, drive, parameters_of(options, edition))
    )


def stored_or(drive: Drive, edition: Edition, train: Callable[[], Parameters]) -> Edition:
    """The edition over what `train` left in the pass's file; trains only if it is not there."""
    drive.folder.mkdir(parents=True, exist_ok=True)
    path = drive.folder / RESULT
    if not path.exists():
        save_tensors(path, train().tensors(), {"notes": []})
        (drive.folder / SNAPSHOT).unlink(missing_ok=True)
    stored = StoredTensors([path])
    return replace(
        edition,
        weights=overlay(edition.weights, stored),
        rounded=edition.rounded | stored.rounded,
    )


def teach(options: "Distill", edition: Edition, drive: Drive, parameters: Parameters) -> Parameters:
    """Trains the parameters of the edition to the end; MachineError if they do not fit."""
    corpus = _corpus(drive)
    train, held_out = corpus.split(options.held_out) if options.held_out else (corpus, None)
    assert drive.original is not None, "there is no original to learn from"
    check_room(drive.original, edition, options, drive.memory_bytes)
    pairs = _pairs(options, edition, drive)
    task = Distillation(
        student=network_of(options, edition, parameters),
        parameters=parameters,
        teacher=None if options.top_k else teacher_of(options, drive),
        train=train,
        held_out=held_out,
        mixture=_mixture(options),
        seed=options.seed,
        pairs=pairs,
        projections=_projections(options, pairs, edition, drive),
    )
    if options.top_k:
        _keep(options, drive, task)
    curve = fit(task, settings_of(options, train), where_of(drive, options.label))
    keep_curve(drive, curve, options.batch)
    return parameters


def parameters_of(options: Trained, edition: Edition) -> Parameters:
    """All weights, or low-rank changes of the blocks' matrices."""
    names = edition.graph.weight_names()
    if options.train == "full":
        return Full(edition.weights, names, options.device)
    return LowRank(
        edition.weights,
        names,
        linears_of(edition),
        rank=options.rank,
        seed=options.seed,
        device=options.device,
    )


def linears_of(edition: Edition) -> list[str]:
    """The matrices of the blocks: neither embedding nor head."""
    return [name for name, parts in roles_of(edition.graph).items() if parts == {"linear"}]


def network_of(options: Trained, edition: Edition, parameters: Parameters) -> Network:
    """The edition's graph over its parameters."""
    keep = not options.checkpointing
    return Network(edition.graph, parameters.values, options.device, keep)


def teacher_of(options: Trained, drive: Drive) -> Teacher:
    """The model as it was before the first pass of the recipe."""
    assert drive.original is not None, "there is no original to learn from"
    original = drive.original
    frozen = Frozen(original.weights, original.graph.weight_names(), options.device)
    return Teacher(Network(original.graph, frozen.values, options.device))


def settings_of(options: Trained, train: Corpus) -> Settings:
    """The loop's settings for this text."""
    accumulate = max(1, round(options.batch / min(train.length, train.tokens)))
    updates = max(1, math.ceil(options.tokens / options.batch))
    warmup = round(options.warmup * updates)
    return Settings(
        schedule=Schedule(updates, warmup, options.shape),
        rate=options.rate,
        accumulate=accumulate,
        decay=options.decay,
        clip=options.clip,
        seed=options.seed,
        bfloat16=options.precision == "bfloat16",
        measure=options.measure,
    )


def where_of(drive: Drive, label: str) -> Where:
    """Snapshots in the pass's folder; a log where one is wanted, a folder for each pass."""
    log: Path | None = None if drive.log is None else drive.log / drive.folder.name
    return Where(drive.folder, drive.watcher, label, log)


def keep_curve(drive: Drive, curve: list[dict[str, float]], batch: int) -> None:
    """What was measured on held-out text, in a file; its first and last in a line."""
    (drive.folder / CURVE).write_text(json.dumps(curve, indent=1))
    if curve and "kl" in curve[0]:
        first, last = curve[0], curve[-1]
        drive.watcher.say(
            f"held-out KL {first['kl']:.4f} → {last['kl']:.4f} over "
            f"{int(last['update']) * batch} tokens"
        )


def _corpus(drive: Drive) -> Corpus:
    assert drive.corpus is not None, "a trained pass needs a text"
    return drive.corpus


def _mixture(options: "Distill") -> Mixture:
    return Mixture(
        options.divergence,
        options.temperature,
        options.beta,
        soft=options.soft,
        labels=options.labels,
        hidden=options.hidden,
        relations=options.relations,
    )


def _pairs(options: "Distill", edition: Edition, drive: Drive) -> Pairs:
    assert drive.original is not None
    student, teacher = len(edition.graph.attentions), len(drive.original.graph.attentions)
    every = even_pairs(student, teacher)
    if options.layers:
        every = tuple(enumerate(options.layers))
    pairs = Pairs(
        every if options.hidden else (),
        every[-1:] if options.relations else (),
    )
    check_pairs(pairs, student, teacher)
    return pairs


def _projections(
    options: "Distill", pairs: Pairs, edition: Edition, drive: Drive
) -> dict[int, torch.nn.Parameter]:
    assert drive.original is not None
    widths = (edition.graph.width, drive.original.graph.width)
    return new_projections(
        pairs,
        widths,
        lambda start: torch.nn.Parameter(torch.from_numpy(start).to(options.device)),
    )


def _keep(options: "Distill", drive: Drive, task: Distillation) -> None:
    """The likeliest tokens on disk: at the temperature to train on, at 1 to measure on."""
    made: list[Teacher] = []

    def teacher() -> Teacher:
        if not made:
            made.append(teacher_of(options, drive))
        return made[0]

    task.kept = Kept(drive.folder / "teacher", options.device)
    advance = drive.watcher.begin("asking the teacher", len(task.train.portions))
    keep_likeliest(
        task.train,
        task.kept,
        teacher,
        k=options.top_k,
        temperature=options.temperature,
        advance=advance,
    )
    if task.held_out is not None:
        task.kept_held_out = Kept(drive.folder / "teacher-held-out", options.device)
        keep_likeliest(
            task.held_out,
            task.kept_held_out,
            teacher,
            k=options.top_k,
            temperature=1.0,
            advance=lambda units: None,
        )
