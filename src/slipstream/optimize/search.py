"""The search: every candidate's quality, then everyone's speed in alternation, within a budget.

    pace → text → calibration → quality of each candidate → speeds → Study

Each measurement is journaled in a folder, so that a killed run, or one with other limits, goes on
from what is known. `optimize.write` makes the artifact of what a `Study` chooses.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from slipstream.bench.offline import measure_speed
from slipstream.compress.calibrate import Hessians, calibrate, calibration_passes
from slipstream.compress.recipe import Recipe
from slipstream.compress.run import Memo, calibrated_groups
from slipstream.errors import NumericError
from slipstream.evaluate.divergence import Baseline, baseline_for
from slipstream.evaluate.evaluation import evaluate_baseline, evaluate_program
from slipstream.evaluate.interval import Measured
from slipstream.evaluate.perplexity import CHUNK_TOKENS
from slipstream.evaluate.texts import Texts, sample_texts, split_text, start_id
from slipstream.evaluate.verdict import Limit
from slipstream.models.tokenizer import Tokenizer
from slipstream.optimize import budget
from slipstream.optimize.journal import Journal
from slipstream.optimize.programs import Built, Subject, build
from slipstream.optimize.space import A32, Candidate, as_stored, candidates, served_form
from slipstream.optimize.stored_texts import read_texts, write_texts
from slipstream.optimize.study import Result, Role, Study
from slipstream.optimize.table import headline
from slipstream.optimize.timing import speed_json, uncalibrated
from slipstream.optimize.watch import Silent, Watcher

Clock = Callable[[], float]


@dataclass(frozen=True)
class Settings:
    """Resolved once by the caller.

    folder        journal, text and calibration; kept after the search
    keep_bytes    memory for programs that wait to be timed together
    tokens        None: planned from the budget and this machine's pace
    candidates    None: those of `space`
    """

    limits: tuple[Limit, ...]
    folder: Path
    budget_s: float = 240
    keep_bytes: int = 4 << 30
    tokens: budget.TokenPlan | None = None
    candidates: tuple[Candidate, ...] | None = None


class Search:
    """One search over one model. `run` is its table of contents."""

    def __init__(
        self,
        subject: Subject,
        tokenizer: Tokenizer | None,
        settings: Settings,
        watcher: Watcher | None = None,
        clock: Clock = time.perf_counter,
    ) -> None:
        self.subject = subject
        self.tokenizer = tokenizer
        self.settings = settings
        self.watcher = watcher or Silent()
        self.clock = clock
        self.started = clock()
        self.journal = Journal(settings.folder / "journal.jsonl")
        self.candidates = settings.candidates or candidates(subject.graph, subject.weights)
        self.served = served_form(subject.graph, subject.weights)
        self.kept: dict[str, Built] = {}
        self.kept_bytes = 0
        self.memo: Memo = {}
        self.slowest_s = {False: 0.0, True: 0.0}  # that a candidate took; by whether calibrated
        self.measured = 0
        self._hessians: Hessians | None = None
        self._texts: Texts | None = None

    def run(self, name: str, text: tuple[str, str] | None, facts: dict[str, Any]) -> Study:
        """Measures everything that the budget allows.

        `text` is (content, where it came from); None: the model writes its own.
        """
        texts = self.texts(text)
        reference = self._reference(texts)
        results = [self.quality(as_stored(A32), "baseline", reference)]
        if self.served != as_stored(A32):
            results.append(self.quality(self.served, "stored", reference))
        skipped: list[str] = []
        for candidate in self.candidates:
            if self._out_of_time(candidate):
                skipped.append(candidate.name)
                self.journal.add("skipped", candidate.name, {})  # a second run is quick
                continue
            results.append(self.quality(candidate, "candidate", reference))
        results = self.speeds(results)
        more = {"not_measured": skipped, "seconds": round(self.clock() - self.started, 1)}
        return Study(
            model=name,
            baseline=results[0],
            stored=next((r for r in results if r.role == "stored"), None),
            candidates=tuple(r for r in results if r.role == "candidate"),
            limits=self.settings.limits,
            text=texts.source,
            evaluation_tokens=texts.evaluation.size,
            calibration_tokens=texts.calibration.size,
            facts={**facts, **more},
        )

    # Text and calibration.

    def texts(self, text: tuple[str, str] | None) -> Texts:
        """The chunks to measure on: those of an earlier run in this folder, else new ones."""
        self._texts = read_texts(self.settings.folder)
        if self._texts is None:
            self._texts = self._new_texts(text)
            write_texts(self.settings.folder, self._texts)
        return self._texts

    def _new_texts(self, text: tuple[str, str] | None) -> Texts:
        stored = self.built(self.served).program
        plan = self.settings.tokens or budget.plan_tokens(
            self.settings.budget_s,
            budget.pace_of(self.built(as_stored(A32)).program, self.clock),
            budget.pace_of(stored, self.clock),
            len(self.candidates),
        )
        assert self.tokenizer is not None or text is None
        if text is not None and self.tokenizer is not None:
            content, source = text
            return split_text(
                self.tokenizer,
                content,
                plan.evaluation,
                plan.calibration,
                source=source,
                length=min(CHUNK_TOKENS, self.subject.graph.context),
            )
        if self.settings.tokens is None:
            rate = budget.sampling_rate(stored, self.clock)
            plan = budget.shorten_for_sampling(plan, self.settings.budget_s, rate)
        begin = 0 if self.tokenizer is None else start_id(self.tokenizer)
        advance = self.watcher.begin("the model writes text", plan.evaluation + plan.calibration)
        return sample_texts(stored, begin, plan.evaluation, plan.calibration, on_tokens=advance)

    def hessians(self) -> Hessians:
        """Of everything that some candidate calibrates; run when first needed."""
        if self._hessians is None:
            assert self._texts is not None
            recipes = [candidate.recipe for candidate in self.candidates]
            groups = calibrated_groups(self.subject.graph, self.subject.weights, recipes)
            chunks = self._texts.calibration
            total = chunks.size * calibration_passes(groups, chunks.shape[1])
            self._hessians = calibrate(
                self.built(self.served).program,
                chunks,
                groups,
                self.settings.folder / "calibration",
                on_tokens=self.watcher.begin("calibrating", total),
            )
        return self._hessians

    # Quality.

    def quality(self, candidate: Candidate, role: Role, reference: Baseline) -> Result:
        """One row without speeds: from the journal, or measured now and journaled."""
        known = self._known(candidate)
        if known is not None:
            return known
        calibrated = candidate.recipe.needs_calibration
        if calibrated:
            self.hessians()
        start = self.clock()
        try:
            built = self.built(candidate)
        except NumericError as error:
            return self._note(Result(candidate.name, role, candidate.recipe, failure=str(error)))
        build_s = self.clock() - start
        chunks = reference.chunks
        advance = self.watcher.begin(f"measuring {candidate.name}", chunks.size - len(chunks))
        result = Result(
            candidate.name,
            role,
            candidate.recipe,
            size_bytes=built.size_bytes,
            memory_bytes=built.memory_bytes,
            build_s=build_s,
        )
        try:
            if role == "baseline":
                found = evaluate_baseline(reference, advance)
            else:
                found = evaluate_program(built.program, chunks, reference, advance)
        except NumericError as error:
            return self._note(replace(result, failure=str(error)))
        self.slowest_s[calibrated] = max(self.slowest_s[calibrated], self.clock() - start)
        self.measured += 1
        return self._note(replace(result, evaluation=found))

    def built(self, candidate: Candidate) -> Built:
        """The candidate's program: kept from before, or quantized and compiled now."""
        if candidate.name in self.kept:
            return self.kept[candidate.name]
        recipe = candidate.recipe
        hessians = self.hessians() if recipe.needs_calibration else None
        weights = len(self.subject.graph.weight_names())
        advance = self.watcher.begin(f"quantizing {candidate.name}", weights)
        original = candidate == as_stored(A32)
        memo = self.memo if self.kept_bytes < self.settings.keep_bytes else None
        built = build(
            self.subject, recipe, hessians, lambda _: advance(1), original=original, memo=memo
        )
        cost = built.memory_bytes + sum(tensor.size_bytes for tensor in built.changed.values())
        if self.kept_bytes + cost <= self.settings.keep_bytes:
            self.kept[candidate.name] = built
            self.kept_bytes += cost
        return built

    def _reference(self, texts: Texts) -> Baseline:
        program = self.built(as_stored(A32)).program
        return baseline_for(program, texts.evaluation, folder=self.settings.folder)

    def _known(self, candidate: Candidate) -> Result | None:
        record = self.journal.get("quality", candidate.name)
        if record is None or Recipe.from_json(record["result"]["recipe"]) != candidate.recipe:
            return None
        return Result.from_json(record["result"])

    def _note(self, result: Result) -> Result:
        self.journal.add("quality", result.name, {"result": result.to_json()})
        self.watcher.say(headline(result))
        return result

    def _out_of_time(self, candidate: Candidate) -> bool:
        """Whether measuring it would take time that the timing needs. At least two are tried."""
        if self.journal.get("skipped", candidate.name) is not None:
            return True
        if self._known(candidate) is not None or self.measured < 4:
            return False
        left = self.settings.budget_s * (1 - budget.SPEED_SHARE) - (self.clock() - self.started)
        return left < self.slowest_s[candidate.recipe.needs_calibration]

    # Speed.

    def speeds(self, results: list[Result]) -> list[Result]:
        """All rows timed against each other; rows of one layout share one measurement."""
        alike = self._layouts(results)
        first = {name: group[0] for group in alike for name in group}
        if not all(self.journal.get("speed", group[0]) for group in alike):
            self._time([group[0] for group in alike], results)
        return [self._with_speed(result, first.get(result.name)) for result in results]

    def _layouts(self, results: list[Result]) -> list[list[str]]:
        """Names of the evaluated rows, those with equal formats together."""
        graph, weights = self.subject.graph, self.subject.weights
        groups: dict[Any, list[str]] = {}
        for result in results:
            if result.evaluation is not None:
                layout = Candidate(result.name, result.recipe).layout(graph, weights)
                groups.setdefault(layout, []).append(result.name)
        return list(groups.values())

    def _time(self, names: list[str], results: list[Result]) -> None:
        """Times programs in as few groups as memory allows; the baseline runs in each."""
        by_name = {result.name: result for result in results}
        baseline = results[0].name
        pace = budget.pace_of(self.built(self.served).program, self.clock)
        left = self.settings.budget_s * 0.97 - (self.clock() - self.started)
        repeats = budget.plan_repeats(left, len(names), pace)
        waiting = [name for name in names if name != baseline]
        advance = self.watcher.begin("timing, in alternation", len(waiting))
        while waiting:
            together, size = {baseline: self.built(as_stored(A32)).program}, 0
            while waiting and (len(together) == 1 or size < self.settings.keep_bytes):
                name = waiting.pop(0)
                built = self.kept.get(name) or build(
                    self.subject, uncalibrated(by_name[name].recipe)
                )
                together[name] = built.program
                size += built.memory_bytes
            found = measure_speed(
                together,
                prompt_tokens=min(budget.PROMPT_TOKENS, self.subject.graph.context),
                decode_tokens=budget.DECODE_TOKENS,
                repeats=repeats,
            )
            for name, speed in found.items():
                self.journal.add("speed", name, speed_json(speed))
            advance(len(together) - 1)

    def _with_speed(self, result: Result, measured_as: str | None) -> Result:
        record = self.journal.get("speed", measured_as) if measured_as else None
        if record is None:
            return result
        decode, prefill = (Measured.from_json(record[kind]) for kind in ("decode", "prefill"))
        return result.with_speed(decode, prefill)
