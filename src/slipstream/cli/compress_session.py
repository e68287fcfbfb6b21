"""One recipe from the command line: model and text in; proof, table and artifact out.

`quantize` and `prune` end here. The recipe is carried out block by block in a folder of the cache,
where a killed run goes on; then the result is measured against the original, and written with what
was measured. Nothing is written that breaks a limit, unless forced.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from slipstream.backends.batch import Program
from slipstream.backends.native import NativeOptions, compile_native
from slipstream.cli.compress_measure import measure
from slipstream.cli.compress_show import show_notes, show_preview
from slipstream.cli.compress_text import Reading, read_texts
from slipstream.cli.compress_write import write_edition
from slipstream.cli.search_session import Order as Target
from slipstream.cli.search_session import check_target, facts_of
from slipstream.cli.search_show import Bars, misses, open_console, show
from slipstream.compress.carry_out import carry_out, check_passes, run_folder
from slipstream.compress.chain import Chain
from slipstream.compress.preview import preview
from slipstream.compress.work import Edition
from slipstream.errors import LimitsNotMetError, MachineError, UnsupportedError
from slipstream.evaluate.verdict import Limit
from slipstream.formats.tensor import Tensor
from slipstream.graph.graph import Graph
from slipstream.machine import Ceilings, cache_dir, ceilings, machine
from slipstream.models.load import load
from slipstream.models.model import Model
from slipstream.optimize.space import check_supported
from slipstream.optimize.study import Study


@dataclass(frozen=True)
class Order:
    """What the user asked for. `text` comes before that of the recipe.

    teacher  another model that trained passes learn from; None: the model itself, as it was
    log      folder for TensorBoard
    """

    model: str
    out: Path | None
    chain: Chain
    limits: tuple[Limit, ...] = ()
    text: Path | None = None
    tokens: int = 4096
    memory_bytes: int | None = None
    dry_run: bool = False
    force: bool = False
    overwrite: bool = False
    fresh: bool = False
    as_json: bool = False
    teacher: str | None = None
    log: Path | None = None


def run_compression(order: Order) -> None:
    """Compresses, measures, prints, writes. LimitsNotMetError (exit code 3) writes nothing."""
    check_target(Target(order.model, order.out, order.limits, overwrite=order.overwrite))
    model = load(order.model)
    check_supported(model.graph)
    console = open_console(stderr=order.as_json)
    edition = Edition(model.checkpoint.config, model.graph, model.weights)
    if order.dry_run:
        show_preview(preview(order.chain, edition, _ceilings()), console, order.as_json)
        return
    check_passes(order.chain, edition)
    with Bars(console) as bars:
        reading = read_texts(order.chain, model, order.text, order.tokens, bars)
        texts = reading.texts
        chunks = texts.calibration if order.chain.calibrated else None
        folder = run_folder(
            cache_dir() / "compress", identity_of(order, model), order.chain, chunks, reading.corpus
        )
        if order.fresh:
            shutil.rmtree(folder, ignore_errors=True)
        after = _compressed(order, edition, reading, folder, bars)
        study = measure(model, after, order.chain, texts, limits=order.limits, bars=bars)
    _conclude(order, model, after, _with_facts(study, model, after), console)
    shutil.rmtree(folder, ignore_errors=True)


def compile_exact(graph: Graph, weights: Mapping[str, Tensor]) -> Program:
    """Float32 inputs and keys: what calibration runs on."""
    return compile_native(graph, weights, NativeOptions(activations="f32", kv_dtype="float32"))


def identity_of(order: Order, model: Model) -> str:
    """Of the model and of its teacher, if it has another."""
    own = model.checkpoint.identity()
    return own if order.teacher is None else f"{own} {load(order.teacher).checkpoint.identity()}"


def _compressed(
    order: Order, edition: Edition, reading: Reading, folder: Path, bars: Bars
) -> Edition:
    return carry_out(
        order.chain,
        edition,
        compile_exact,
        reading.texts.calibration if order.chain.calibrated else None,
        folder,
        memory_bytes=order.memory_bytes or machine().memory_bytes // 2,
        watcher=bars,
        corpus=reading.corpus,
        original=_teacher(order, edition),
        log=order.log,
    )


def _teacher(order: Order, edition: Edition) -> Edition | None:
    """Another model to learn from; UnsupportedError unless it speaks the same tokens."""
    if order.teacher is None:
        return None
    teacher = load(order.teacher)
    if teacher.graph.vocabulary != edition.graph.vocabulary:
        raise UnsupportedError(
            f"{order.teacher} has {teacher.graph.vocabulary} tokens and the student "
            f"{edition.graph.vocabulary}: a teacher needs the same tokenizer"
        )
    return Edition(teacher.checkpoint.config, teacher.graph, teacher.weights)


def _conclude(order: Order, model: Model, after: Edition, study: Study, console: Console) -> None:
    within = study.verdict(study.candidates[0]).met
    write = order.out is not None and (within or order.force)
    if write:
        assert order.out is not None
        write_edition(model, after, order.chain, study, order.out, overwrite=order.overwrite)
    if order.as_json:
        paths = {"artifact": str(order.out)} if write else {}
        notes = [vars(note) for note in after.notes]
        print(json.dumps({**study.to_json(), "notes": notes, **paths}, indent=1, default=str))
    else:
        show(study, console)
        show_notes(after.notes, console)
        if write:
            console.print(f"Artifact: {order.out}", soft_wrap=True)
    if not within:
        console.print(f"Outside the limits:\n{misses(study)}", markup=False)
    if not within and not order.force:
        raise LimitsNotMetError(
            "the result breaks a limit, so nothing was written. Allow more (--limit), measure on "
            "more text (--tokens), or say --force."
        )


def _with_facts(study: Study, model: Model, after: Edition) -> Study:
    notes = [f"{note.weight}: {note.text}" for note in after.notes]
    return replace(study, facts={**study.facts, **facts_of(model), "notes": notes})


def _ceilings() -> Ceilings | None:
    """None where the native module is missing: then no speed is predicted."""
    try:
        return ceilings()
    except MachineError:
        return None
