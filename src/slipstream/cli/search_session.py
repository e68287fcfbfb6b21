"""One search from the command line: model and text in; table, artifact and report out.

`optimize` searches all candidates, `quantize` only one; both end in `run_session`.
"""

import hashlib
import json
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from slipstream.backends.batch import Program
from slipstream.backends.native import NativeOptions, compile_native, native_module
from slipstream.checkpoint.artifact import is_artifact
from slipstream.cli.search_show import Bars, misses, open_console, show
from slipstream.compress.recipe import format_label
from slipstream.errors import ArtifactError, LimitsNotMetError, SourceError
from slipstream.evaluate.verdict import Limit
from slipstream.formats.tensor import DenseTensor, Tensor
from slipstream.graph.graph import Graph
from slipstream.graph.ops import Activations
from slipstream.machine import cache_dir, forced_isa, machine, thread_count
from slipstream.models.load import load
from slipstream.models.model import Model
from slipstream.optimize.budget import TokenPlan
from slipstream.optimize.programs import Subject
from slipstream.optimize.search import Search, Settings
from slipstream.optimize.space import Candidate, check_supported
from slipstream.optimize.study import Result, Study
from slipstream.optimize.write import write_choice


@dataclass(frozen=True)
class Order:
    """What the user asked for."""

    model: str
    out: Path | None
    limits: tuple[Limit, ...]
    text: Path | None = None
    tokens: int | None = None  # of evaluation; None: as the budget allows
    budget_s: float = 240
    candidates: tuple[Candidate, ...] | None = None
    force: bool = False
    overwrite: bool = False
    fresh: bool = False
    as_json: bool = False


def run_session(order: Order) -> None:
    """Searches, prints, chooses, writes. LimitsNotMetError (exit code 3) writes nothing."""
    check_target(order)
    text = _read_text(order.text)
    model = load(order.model)
    check_supported(model.graph)
    folder = _folder(order, model, text)
    if order.fresh:
        shutil.rmtree(folder, ignore_errors=True)
    console = open_console(stderr=order.as_json)
    tokens = None if order.tokens is None else TokenPlan(order.tokens, max(4096, order.tokens))
    settings = Settings(
        order.limits,
        folder,
        budget_s=order.budget_s,
        keep_bytes=machine().memory_bytes // 4,
        tokens=tokens,
        candidates=order.candidates,
    )
    with Bars(console) as bars:
        search = Search(_subject(model), model.tokenizer, settings, bars)
        study = search.run(model.name, text, facts_of(model))
        chosen = study.choice() or _forced(order, study)
        report = None
        if chosen is not None and order.out is not None:
            report = _write(order, model, study, chosen, search)
    _tell(order, study, chosen, report, console)
    if chosen is None:
        console.print(f"Nearest to the limits:\n{misses(study)}", markup=False)
        raise LimitsNotMetError(
            f"no candidate keeps {', '.join(limit.text for limit in order.limits)}; nothing was "
            "written. Allow more (--limit), measure on more text (--tokens), or say --force."
        )
    if order.out is not None:
        shutil.rmtree(folder / "calibration", ignore_errors=True)


def _tell(
    order: Order, study: Study, chosen: Result | None, report: Path | None, console: Console
) -> None:
    if order.as_json:
        paths = {"artifact": str(order.out), "report": str(report)} if report else {}
        print(json.dumps({**study.to_json(), **paths}, indent=1, default=str))
        return
    show(study, console)
    if chosen is not None:
        within = study.verdict(chosen).met
        console.print(f"{'Chosen' if within else 'Forced, outside the limits'}: {chosen.name}")
    if report is not None:
        console.print(f"Artifact: {order.out}\nReport:   {report}", soft_wrap=True)


def _forced(order: Order, study: Study) -> Result | None:
    """Under --force the nearest miss is written, and says so."""
    return next(iter(study.nearest_misses()), None) if order.force else None


def _write(order: Order, model: Model, study: Study, chosen: Result, search: Search) -> Path:
    assert order.out is not None
    built = search.built(Candidate(chosen.name, chosen.recipe))
    return write_choice(model, study, chosen, built.changed, order.out, overwrite=order.overwrite)


def _subject(model: Model) -> Subject:
    def compile_served(
        graph: Graph, weights: Mapping[str, Tensor], settings: Mapping[str, Activations]
    ) -> Program:
        return compile_native(graph, weights, NativeOptions(), settings=settings)

    def compile_original(
        graph: Graph, weights: Mapping[str, Tensor], settings: Mapping[str, Activations]
    ) -> Program:
        exact = NativeOptions(activations="f32", kv_dtype="float32")
        return compile_native(graph, weights, exact, settings=settings)

    return Subject(model.graph, model.weights, compile_served, compile_original)


def check_target(order: Order) -> None:
    """Refused now rather than after minutes of work."""
    out = order.out
    if out is None or not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not order.overwrite:
        raise ArtifactError(f"{out} exists already: choose another -o, or say --overwrite")
    if not out.is_dir() or not is_artifact(out):
        raise ArtifactError(f"{out} is no artifact of Slipstream, so it is not overwritten")


def _read_text(path: Path | None) -> tuple[str, str] | None:
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8", errors="replace"), path.name
    except OSError as error:
        raise SourceError(f"the text {path} cannot be read: {error.strerror}") from None


def _folder(order: Order, model: Model, text: tuple[str, str] | None) -> Path:
    """Where this search keeps its journal: one folder for equal questions on equal machines."""
    content = None if text is None else hashlib.sha256(text[0].encode()).hexdigest()
    names = None if order.candidates is None else [asdict(c) for c in order.candidates]
    question = (
        model.checkpoint.identity(), content, order.tokens, order.budget_s, names,
        machine().fingerprint, forced_isa(), thread_count(), _code_stamp(),
    )  # fmt: skip
    key = hashlib.sha256(repr(question).encode()).hexdigest()[:16]
    return cache_dir() / "optimize" / key


def _code_stamp() -> str:
    """Changes whenever the kernels do: figures of other kernels are not resumed from."""
    stat = Path(str(getattr(native_module(), "__file__", ""))).stat()
    return f"{stat.st_size}-{stat.st_mtime_ns}"


def facts_of(model: Model) -> dict[str, Any]:
    """What a reader needs to judge or repeat the measurements."""
    here = machine()
    formats = stored_formats(model.weights)
    return {
        "machine": here.describe(),
        "instruction_set": forced_isa() or here.isas[-1],
        "threads": thread_count(),
        "kv_cache": "bfloat16 (the baseline: float32)",
        "stored_formats": ", ".join(f"{count} × {name}" for name, count in formats.items()),
        "stored_quantized": any(name.startswith("int") for name in formats),
        "model_identity": model.checkpoint.identity(),
        "command": shlex.join(["slipstream", *sys.argv[1:]]),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def stored_formats(weights: Mapping[str, Tensor]) -> dict[str, int]:
    """How many matrices are stored in which format, the most frequent first."""
    counts: dict[str, int] = {}
    for name in weights:
        tensor = weights[name]
        if len(tensor.shape) == 2:
            if isinstance(tensor, DenseTensor):
                label = str(tensor.data.dtype)
            else:
                label = format_label(tensor.format)
            counts[label] = counts.get(label, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))
