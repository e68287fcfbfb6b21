"""The requests under way, and the step that runs them all: the engine without its public face.

`Running.step` is the heart, and names its collaborators in order. Single-threaded: `Engine` holds a
lock around every call.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from slipstream.backends.batch import Program
from slipstream.engine.answer import Answer, Delta
from slipstream.engine.batching import Work, work_of
from slipstream.engine.codec import TextCodec
from slipstream.engine.drawing import Drawer, Drawn
from slipstream.engine.options import Settings
from slipstream.engine.request import FinishReason, Request
from slipstream.engine.sampler import TokenLogprob
from slipstream.engine.scheduler import Plan, Scheduler
from slipstream.engine.stats import Snapshot, Stats
from slipstream.machine import thread_count


class Mail(Protocol):
    """Where the deltas of one request are put for whoever reads them."""

    def append(self, delta: Delta, /) -> None:
        """Called on the thread that steps."""
        ...


class Running:
    """A program, its KV pages, and the requests that run and wait.

    adapter_slots  the program's slot of each adapter, by name; its owner may change it
    """

    def __init__(
        self,
        program: Program,
        tokenizer: TextCodec,
        settings: Settings,
        *,
        adapter_slots: Mapping[str, int],
        clock: Callable[[], float],
    ) -> None:
        self.program = program
        self.tokenizer = tokenizer
        self.stats = Stats()
        self.settings = settings
        self.scheduler = self._new_scheduler()
        self.vocabulary = min(program.graph.vocabulary, tokenizer.vocabulary_size)
        self.kv = program.new_kv(settings.page_counts)
        self.drawer = Drawer(settings.threads or thread_count())
        self.wait_s: float | None = None  # after a step: nothing to do for so long
        self.before_compute: Callable[[], None] = lambda: None  # called by each step that computes
        self._adapter_slots = adapter_slots
        self._clock = clock
        self._answers: dict[int, Answer] = {}
        self._mail: dict[int, Mail] = {}

    @property
    def ids(self) -> list[int]:
        """The requests under way."""
        return list(self._answers)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._answers

    def submit(self, request: Request, mail: Mail | None) -> None:
        """Queues a request; the coming steps answer it, into `mail` too."""
        now = self._clock()
        self._answers[request.id] = Answer(request, self.tokenizer, now)
        self.scheduler.add(request, now)
        if mail is not None:
            self._mail[request.id] = mail

    def cancel(self, request_id: int) -> Delta | None:
        """Ends a request now; its last delta, or None if it was over already."""
        delta = self._end(request_id, "cancelled")
        if delta is not None:
            self._file([delta])
        return delta

    def start_afresh(self) -> list[int]:
        """Forgets everything after a step that failed halfway: no request, no page, no prefix of
        before is trusted. Returns the requests that are lost; they get no delta.
        """
        lost = self.ids
        for request_id in lost:
            self.drawer.forget(request_id)
        self._answers.clear()
        self._mail.clear()
        self.scheduler = self._new_scheduler()
        self.wait_s = None
        return lost

    def _new_scheduler(self) -> Scheduler:
        settings = self.settings
        return Scheduler(settings.limits, settings.page_counts, prefix_cache=settings.prefix_cache)

    def snapshot(self) -> Snapshot:
        """What is held and was done."""
        return self.stats.snapshot(self.scheduler.state)

    def check(self) -> None:
        """Asserts that the books balance: sequences, pages, answers."""
        self.scheduler.check()
        assert self._answers.keys() == self.scheduler.sequences.keys(), "an answer is lost"
        assert self._mail.keys() <= self._answers.keys(), "a reader of nothing"

    def step(self) -> list[Delta]:
        """Runs the next step of everything under way; returns what it added to the answers."""
        now = self._clock()
        deltas = self._end_overdue(now)
        plan = self.scheduler.plan(now)
        self.wait_s = self._wait(plan, now)
        if plan.pieces:
            deltas += self._run(plan, now)
        else:
            assert self.idle or plan.wait_s, "requests are waiting and none can run"
        self._file(deltas)
        return deltas

    def _wait(self, plan: Plan, now: float) -> float | None:
        """How long nothing need be done: until a batch begins, or a deadline passes."""
        deadline_s = self.scheduler.next_deadline_s
        if plan.wait_s is None or deadline_s is None:
            return plan.wait_s
        return max(0.0, min(plan.wait_s, deadline_s - now)) or None

    def _run(self, plan: Plan, now: float) -> list[Delta]:
        for kind, source, copy in self.scheduler.begin(plan, now):
            self.kv.copy_page(source, copy, kind)
        self._count(plan, now)
        work = work_of(plan, self.scheduler.sequences, self._adapter_slots)
        self.before_compute()
        logits = self.program.step(work.batch, self.kv)[:, : self.vocabulary]
        self._score_prompts(work, logits)
        drawn = self._sample(work, logits)
        failed = self._end_failed(drawn, now)
        self.scheduler.commit(plan, drawn.tokens)
        return failed + self._detokenize(drawn.tokens, drawn.logprobs)

    def _end_overdue(self, now: float) -> list[Delta]:
        late = self.scheduler.overdue(now)
        return [delta for i in late if (delta := self._end(i, "timeout")) is not None]

    def _count(self, plan: Plan, now: float) -> None:
        self.stats.steps += 1
        self.stats.preemptions += len(plan.preempted)
        for admission in plan.admitted:
            answer = self._answers[admission.request_id]
            if answer.started_s is None:  # not set back before
                answer.started_s, answer.cached_tokens = now, admission.cached
                self.stats.count_prompt(len(answer.request.prompt_ids), admission.cached)

    def _score_prompts(self, work: Work, logits: NDArray[np.float32]) -> None:
        for scored in work.scored:
            request = scored.sequence.request
            entries = self._answers[request.id].prompt_logprobs
            top = request.params.prompt_logprobs or 0
            tokens = request.prompt_ids[scored.position + 1 :]
            entries += self.drawer.score(logits[scored.begin : scored.end], tokens, top)
            scored.sequence.scored = len(entries)

    def _sample(self, work: Work, logits: NDArray[np.float32]) -> Drawn:
        return self.drawer.draw(logits if work.rows is None else logits[work.rows], work.sampling)

    def _end_failed(self, drawn: Drawn, now: float) -> list[Delta]:
        """The last deltas of requests that have no next token; the others go on."""
        deltas = []
        for request_id, error in drawn.failed.items():
            answer = self._forget(request_id)
            assert answer is not None
            deltas.append(answer.end(now, "cancelled", error))
        return deltas

    def _detokenize(
        self, tokens: Mapping[int, int], logprobs: Mapping[int, tuple[TokenLogprob, ...]]
    ) -> list[Delta]:
        now = self._clock()
        self.stats.answer_tokens += len(tokens)
        deltas = [
            self._answers[request_id].push(token, logprobs[request_id], now)
            for request_id, token in tokens.items()
        ]
        for delta in deltas:
            if delta.finish is not None:
                self._forget(delta.request_id)
        return deltas

    def _end(self, request_id: int, reason: FinishReason) -> Delta | None:
        answer = self._forget(request_id)
        return None if answer is None else answer.end(self._clock(), reason)

    def _forget(self, request_id: int) -> Answer | None:
        answer = self._answers.pop(request_id, None)
        if answer is not None:
            self.drawer.forget(request_id)
            self.scheduler.remove(request_id)
            if answer.started_s is not None:
                self.stats.count_finished(self._clock() - answer.started_s)
        return answer

    def _file(self, deltas: Sequence[Delta]) -> None:
        """Puts deltas where readers of streams find them."""
        if not self._mail:
            return
        for delta in deltas:
            if delta.request_id in self._mail:
                self._mail[delta.request_id].append(delta)
                if delta.finish is not None:
                    del self._mail[delta.request_id]
