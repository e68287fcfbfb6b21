"""The original and its compressed form, measured against each other: quality, speed, memory.

`compress_session` calls it. The result has the shape of a search with one candidate, so that table,
limits and report are those of `optimize`.
"""

from dataclasses import dataclass

from slipstream.backends.batch import Program
from slipstream.backends.native import NativeOptions, compile_native
from slipstream.bench.offline import Speed, measure_speed
from slipstream.bench.samples import Samples
from slipstream.cli.search_show import Bars
from slipstream.compress.chain import Chain
from slipstream.compress.recipe import Recipe, activations_label
from slipstream.compress.work import Edition
from slipstream.evaluate.divergence import baseline_for
from slipstream.evaluate.evaluation import Evaluation, evaluate_baseline, evaluate_program
from slipstream.evaluate.interval import Measured
from slipstream.evaluate.texts import Texts
from slipstream.evaluate.verdict import Limit
from slipstream.graph.ops import Activations
from slipstream.models.model import Model
from slipstream.optimize import budget
from slipstream.optimize.programs import (
    MEMORY_TOKENS,
    anonymous_bytes,
    run_prompt,
    settings_of,
)
from slipstream.optimize.space import served_form
from slipstream.optimize.study import Result, Role, Study

ORIGINAL = "original · a32"
SERVED = "original, as served"
REPEATS = 5


@dataclass(frozen=True)
class _Subject:
    """Something that runs, and what it takes."""

    name: str
    role: Role
    program: Program
    recipe: Recipe
    size_bytes: int
    memory_bytes: int

    def result(self, evaluation: Evaluation, speed: Speed) -> Result:
        """Its row."""
        return Result(
            self.name,
            self.role,
            self.recipe,
            evaluation=evaluation,
            size_bytes=self.size_bytes,
            memory_bytes=self.memory_bytes,
            decode=_interval(speed.decode),
            prefill=_interval(speed.prefill),
        )


def measure(
    model: Model,
    after: Edition,
    chain: Chain,
    texts: Texts,
    *,
    limits: tuple[Limit, ...],
    bars: Bars,
) -> Study:
    """Three rows: the original exactly, the original as it is served, the compressed model."""
    edition = Edition(model.checkpoint.config, model.graph, model.weights)
    original = _compiled(ORIGINAL, "baseline", edition, Activations())
    stored = served_form(edition.graph, edition.weights).recipe.activations
    served = _compiled(SERVED, "stored", edition, stored)
    name = f"{chain.label()} · {activations_label(chain.activations)}"
    compressed = _compiled(name, "candidate", after, chain.activations)
    subjects = (original, served, compressed)
    evaluations = _evaluate(subjects, texts, bars)
    bars.begin("timing, in alternation", 1)
    speeds = measure_speed(
        {subject.name: subject.program for subject in subjects},
        prompt_tokens=min(budget.PROMPT_TOKENS, model.graph.context),
        decode_tokens=budget.DECODE_TOKENS,
        repeats=min(REPEATS, max(budget.REPEATS)),
    )
    rows = [s.result(e, speeds[s.name]) for s, e in zip(subjects, evaluations, strict=True)]
    return Study(
        model=model.name,
        baseline=rows[0],
        stored=rows[1],
        candidates=(rows[2],),
        limits=limits,
        text=texts.source,
        evaluation_tokens=texts.evaluation.size,
        calibration_tokens=texts.calibration.size if chain.calibrated else 0,
        facts={"recipe": chain.label()},
    )


def _compiled(name: str, role: Role, edition: Edition, activations: Activations) -> _Subject:
    """The program of an edition; the baseline keeps float32 keys and values."""
    before = anonymous_bytes()
    settings = served_inputs(edition, activations)
    exact = NativeOptions(activations="f32", kv_dtype="float32")
    options = exact if role == "baseline" else NativeOptions()
    program = compile_native(edition.graph, edition.weights, options, settings=settings)
    run_prompt(program, MEMORY_TOKENS)
    size = sum(edition.weights[name].size_bytes for name in edition.graph.weight_names())
    memory = max(0, anonymous_bytes() - before)
    return _Subject(name, role, program, Recipe((), activations), size, memory)


def served_inputs(edition: Edition, activations: Activations) -> dict[str, Activations]:
    """How inputs are stored, by weight: where a pass fixed their scales, so; else as is asked."""
    return {**settings_of(edition.graph, edition.weights, activations), **edition.inputs}


def _evaluate(subjects: tuple[_Subject, ...], texts: Texts, bars: Bars) -> list[Evaluation]:
    baseline = baseline_for(subjects[0].program, texts.evaluation)
    positions = texts.evaluation.size - len(texts.evaluation)
    found = []
    for subject in subjects:
        advance = bars.begin(f"measuring {subject.name}", positions)
        if subject.role == "baseline":
            found.append(evaluate_baseline(baseline, advance))
        else:
            found.append(evaluate_program(subject.program, texts.evaluation, baseline, advance))
    return found


def _interval(samples: Samples | None) -> Measured:
    """Median, lowest, highest."""
    assert samples is not None, "the workload has both parts"
    return Measured(samples.median, samples.low, samples.high)
