"""The engine: requests in, tokens out, many at once in one running batch.

Synchronous and single-threaded; `service.Service` gives it a thread and an asynchronous front.
`step` is its heart and names its collaborators in order.

>>> engine = Engine.open("smollm2:135m")
>>> engine.generate(["Once upon a time"], SamplingParams(max_tokens=32))[0].text
"""

import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from slipstream.backends.batch import Program
from slipstream.engine.answer import Answer, Completion, Delta, fold
from slipstream.engine.batching import batch_of
from slipstream.engine.codec import Message, TextCodec
from slipstream.engine.drawing import Drawer, Drawn
from slipstream.engine.intake import Intake, Prompt, Terms
from slipstream.engine.loading import compile_program
from slipstream.engine.options import EngineOptions, Settings, resolve
from slipstream.engine.request import Request, SamplingParams
from slipstream.engine.sampler import TokenLogprob
from slipstream.engine.scheduler import Plan, Scheduler
from slipstream.engine.stats import Snapshot, Stats
from slipstream.errors import UnsupportedError
from slipstream.machine import machine
from slipstream.models.load import load
from slipstream.models.model import Model

__all__ = ["Engine", "Prompt"]


class Engine:
    """A program, its KV pages, and the requests under way."""

    def __init__(
        self,
        program: Program,
        tokenizer: TextCodec,
        settings: Settings,
        *,
        name: str = "model",
        clock: Callable[[], float] = time.monotonic,
        fresh_seed: Callable[[], int] = lambda: secrets.randbits(63),
    ) -> None:
        self.program = program
        self.tokenizer = tokenizer
        self.settings = settings
        self.name = name
        self.stats = Stats()
        self.scheduler = Scheduler(settings.limits, settings.page_count)
        self.vocabulary = min(program.graph.vocabulary, tokenizer.vocabulary_size)
        self.kv = program.new_kv(settings.page_count)
        self.drawer = Drawer()
        self._clock = clock
        self._answers: dict[int, Answer] = {}
        self._mail: dict[int, deque[Delta]] = {}  # of callers of `stream` and `generate`
        self.intake = Intake(
            tokenizer, self.vocabulary, settings.context, clock=clock, fresh_seed=fresh_seed
        )

    @classmethod
    def open(cls, source: str | Path | Model, options: EngineOptions | None = None) -> "Engine":
        """Loads a model by name or path (or takes a loaded one) and makes it ready to answer."""
        model = source if isinstance(source, Model) else load(source)
        settings = resolve(options or EngineOptions(), model.graph, machine())
        return cls(compile_program(model, settings), model.tokenizer, settings, name=model.name)

    # Whole answers and streams.

    def generate(
        self, prompts: str | Sequence[Prompt], params: SamplingParams | None = None
    ) -> list[Completion]:
        """Answers all prompts (texts, or token ids) together; completions in the prompts' order."""
        listed: Sequence[Prompt] = [prompts] if isinstance(prompts, str) else prompts
        requests = [self.request(prompt, params) for prompt in listed]
        with ExitStack() as stack:  # interrupted: nothing is left running
            streams = [stack.enter_context(DeltaStream(self, request)) for request in requests]
            return [fold(stream.request.prompt_ids, stream) for stream in streams]

    def stream(self, prompt: Prompt, params: SamplingParams | None = None) -> "DeltaStream":
        """The answer as it grows. Closing the stream early cancels the request."""
        return DeltaStream(self, self.request(prompt, params))

    def chat(self, messages: Sequence[Message], params: SamplingParams | None = None) -> Completion:
        """The next turn of a conversation."""
        return self.generate([self.chat_ids(messages)], params)[0]

    def chat_ids(self, messages: Sequence[Message]) -> list[int]:
        """The prompt of a conversation, as the model's own chat template writes it."""
        if self.tokenizer.chat is None:
            raise UnsupportedError(f"{self.name} has no chat template; use a plain completion")
        text = self.tokenizer.chat.render(messages, add_generation_prompt=True)
        return self.tokenizer.encode(text, special=False)

    # Requests, one by one: what the service uses.

    def request(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        choice: int = 0,
        priority: int = 0,
        timeout_s: float | None = None,
        key: str = "",
        adapter: str | None = None,
    ) -> Request:
        """Checks a prompt and completes its parameters; does not queue it yet.

        `choice` varies the seed; `timeout_s` counts from now; see `Request` for the others.
        """
        terms = Terms(priority, timeout_s, key, adapter)
        return self.intake.request(prompt, params or SamplingParams(), terms, choice)

    def requests(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        priority: int = 0,
        timeout_s: float | None = None,
        key: str = "",
        adapter: str | None = None,
    ) -> list[Request]:
        """`params.n` requests of one prompt, each with a seed of its own; submit all of them."""
        terms = Terms(priority, timeout_s, key, adapter)
        return self.intake.siblings(prompt, params or SamplingParams(), terms)

    def submit(self, request: Request) -> None:
        """Queues a request made by `request`; the coming steps answer it."""
        self._answers[request.id] = Answer(request, self.tokenizer, self._clock())
        self.scheduler.add(request)

    def cancel(self, request_id: int) -> Delta | None:
        """Ends a request now, frees its pages; its last delta, or None if it was over already."""
        answer = self._forget(request_id)
        if answer is None:
            return None
        delta = answer.cancel(self._clock())
        self._file([delta])
        return delta

    def cancel_all(self) -> None:
        """Ends every request: after a failed step, or when the server must stop."""
        for request_id in list(self._answers):
            self.cancel(request_id)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._answers

    def snapshot(self) -> Snapshot:
        """What the engine holds and has done."""
        state = self.scheduler.state
        return self.stats.snapshot(
            len(state.running), len(state.waiting), state.pool.used_count, state.pool.page_count
        )

    def check(self) -> None:
        """Asserts that the books balance: sequences, pages, answers."""
        self.scheduler.check()
        assert self._answers.keys() == self.scheduler.sequences.keys(), "an answer is lost"

    # The step.

    def step(self) -> list[Delta]:
        """Runs the next step of everything under way; returns what it added to the answers."""
        plan = self.scheduler.plan()
        if not plan.pieces:
            assert self.idle, "requests are waiting and none can run"
            return []
        self._count(plan)
        self.scheduler.begin(plan)
        logits = self.program.step(batch_of(plan, self.scheduler.sequences), self.kv)
        drawn = self._sample(plan, logits)
        failed = self._end_failed(drawn)
        self.scheduler.commit(plan, drawn.tokens)
        deltas = failed + self._detokenize(drawn.tokens, drawn.logprobs)
        self._file(deltas)
        return deltas

    def _count(self, plan: Plan) -> None:
        now = self._clock()
        self.stats.steps += 1
        self.stats.preemptions += len(plan.preempted)
        for request_id in plan.admitted:
            answer = self._answers[request_id]
            if answer.started_s is None:  # not set back before
                answer.started_s = now
                self.stats.prompt_tokens += len(answer.request.prompt_ids)

    def _sample(self, plan: Plan, logits: NDArray[np.float32]) -> Drawn:
        sampling = [self.scheduler.sequences[p.request_id] for p in plan.pieces if p.samples]
        return self.drawer.draw(logits[:, : self.vocabulary], sampling)

    def _end_failed(self, drawn: Drawn) -> list[Delta]:
        """The last deltas of requests that have no next token; the others go on."""
        deltas = []
        for request_id, error in drawn.failed.items():
            answer = self._forget(request_id)
            assert answer is not None
            deltas.append(answer.cancel(self._clock(), error))
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

    def _forget(self, request_id: int) -> Answer | None:
        answer = self._answers.pop(request_id, None)
        if answer is not None:
            self.drawer.forget(request_id)
            self.scheduler.remove(request_id)
            if answer.started_s is not None:
                self.stats.count_finished(self._clock() - answer.started_s)
        return answer

    def _file(self, deltas: Sequence[Delta]) -> None:
        for delta in deltas:
            if delta.request_id in self._mail:
                self._mail[delta.request_id].append(delta)


class DeltaStream(Iterator[Delta]):
    """One request's deltas; asking for the next one runs the engine as far as it takes.

    Several streams of one engine may be read in turn: each step serves them all.
    """

    def __init__(self, engine: Engine, request: Request) -> None:
        self.request = request
        self._engine = engine
        self._ended = False
        self._mail: deque[Delta] = deque()
        engine.submit(request)
        engine._mail[request.id] = self._mail

    def __next__(self) -> Delta:
        if self._ended:
            raise StopIteration
        while not self._mail:
            self._engine.step()
        delta = self._mail.popleft()
        if delta.finish is not None:
            self._leave()
        if delta.error is not None:
            raise delta.error
        return delta

    def close(self) -> None:
        """Cancels what has not ended yet."""
        if not self._ended:
            self._leave()
            self._engine.cancel(self.request.id)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _leave(self) -> None:
        self._ended = True
        self._engine._mail.pop(self.request.id, None)
