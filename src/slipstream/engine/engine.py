"""The engine: requests in, tokens out, many at once in one running batch.

The public face of `running.Running`, whose `step` is the heart. A lock makes each method whole, so
that streams may be read by several threads; `service.Service` gives servers a thread for it.

>>> engine = Engine.open("smollm2:135m")
>>> engine.generate(["Once upon a time"], SamplingParams(max_tokens=32))[0].text
"""

import os
import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import RLock
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from slipstream.backends.batch import KV, Program
from slipstream.checkpoint.peft import Adapter
from slipstream.engine import embedding, offline
from slipstream.engine.adapters import Adapters, LoadedAdapter
from slipstream.engine.answer import Completion, Delta
from slipstream.engine.codec import Message, TextCodec
from slipstream.engine.intake import Intake, Prompt, Terms
from slipstream.engine.loading import compile_program
from slipstream.engine.options import EngineOptions, Settings, resolve
from slipstream.engine.proof import require_match
from slipstream.engine.request import Request, SamplingParams
from slipstream.engine.running import Running
from slipstream.engine.scheduler import Scheduler
from slipstream.engine.stats import Snapshot, Stats
from slipstream.engine.streams import DeltaStream
from slipstream.errors import RequestError, UnsupportedError
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
        self.clock = clock
        self.adapters = Adapters(program)
        self.running = Running(
            program, tokenizer, settings, adapter_slots=self.adapters.slots, clock=clock
        )
        self.intake = Intake(
            tokenizer, self.vocabulary, settings.context, clock=clock, fresh_seed=fresh_seed
        )
        self._lock = RLock()

    @classmethod
    def open(cls, source: str | Path | Model, options: EngineOptions | None = None) -> "Engine":
        """Loads a model by name or path (or takes a loaded one) and makes it ready to answer.

        ArtifactError for an artifact that answers its stored prompts otherwise than when it was
        written (`options.verify`).
        """
        model = source if isinstance(source, Model) else load(source)
        options = options or EngineOptions()
        settings = resolve(options, model.graph, machine())
        program = compile_program(model, settings)
        if options.verify:
            require_match(model, program, settings)
        return cls(program, model.tokenizer, settings, name=model.name)

    # Whole answers and streams.

    def generate(
        self,
        prompts: str | Sequence[Prompt],
        params: SamplingParams | None = None,
        *,
        progress: bool = False,
        adapter: str | None = None,
    ) -> list[Completion]:
        """Answers all prompts (texts, or token ids) together; completions in the prompts' order,
        `params.n` of each. `progress` draws a bar; `adapter` names a loaded one.
        """
        listed: Sequence[Prompt] = [prompts] if isinstance(prompts, str) else prompts
        asked = params or SamplingParams()
        return offline.generate(self, listed, asked, progress=progress, adapter=adapter)

    def stream(self, prompt: Prompt, params: SamplingParams | None = None) -> DeltaStream:
        """The answer as it grows. Closing the stream early cancels the request."""
        return DeltaStream(self, self.request(prompt, params))

    def astream(self, prompt: Prompt, params: SamplingParams | None = None) -> DeltaStream:
        """The same, to be read with `async for`; also where an event loop runs already.

        >>> async with engine.astream("Once upon a time") as stream:
        ...     async for delta in stream:
        ...         print(delta.text, end="")
        """
        return self.stream(prompt, params)

    def chat(self, messages: Sequence[Message], params: SamplingParams | None = None) -> Completion:
        """The next turn of a conversation."""
        return self.generate([self.chat_ids(messages)], params)[0]

    def chat_ids(self, messages: Sequence[Message]) -> list[int]:
        """The prompt of a conversation, as the model's own chat template writes it."""
        if self.tokenizer.chat is None:
            raise UnsupportedError(f"{self.name} has no chat template; use a plain completion")
        text = self.tokenizer.chat.render(messages, add_generation_prompt=True)
        return self.tokenizer.encode(text, special=False)

    def embed(
        self,
        prompts: str | Sequence[Prompt],
        pooling: Literal["mean", "last"] = "mean",
        *,
        adapter: str | None = None,
    ) -> list[NDArray[np.float32]]:
        """Each prompt's float32 [D]: the states before the head, pooled; their length is kept."""
        listed: Sequence[Prompt] = [prompts] if isinstance(prompts, str) else prompts
        ids = [self.intake.prompt_ids(prompt) for prompt in listed]
        with self._lock:
            slot = -1 if adapter is None else self.adapters.named(adapter).slot
            program = embedding.States(self.program, self.settings.limits.token_budget, slot)
            return embedding.embed(program, ids, pooling)

    # Adapters.

    def load_adapter(self, name: str, source: str | os.PathLike[str] | Adapter) -> LoadedAdapter:
        """Loads a LoRA adapter in PEFT's format (a folder, or one read before), for requests that
        name it. Refused: a name that is taken, too many, and what `Adapters.load` says.
        """
        with self._lock:
            loaded, replaces = self.adapters.load(name, source)
            if replaces:
                self.forget_prefixes()
            return loaded

    def unload_adapter(self, name: str) -> None:
        """Frees an adapter. RequestError while a request under way runs with it."""
        with self._lock:
            sequences = self.scheduler.sequences.values()
            self.adapters.unload(name, sum(s.request.adapter == name for s in sequences))

    def adapter_key(self, name: str) -> str:
        """What the values computed with an adapter depend on: its name and its files' hash."""
        return f"{name}@{self.adapters.named(name).content_hash}"

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

    def submit(self, request: Request, mail: deque[Delta] | None = None) -> None:
        """Queues a request made by `request`; the coming steps answer it, into `mail` too."""
        if request.params.beam_width > 1:
            raise RequestError("beam search is not streamed: use Engine.generate, or stream=false")
        with self._lock:
            if request.adapter is not None:
                self.adapters.named(request.adapter)
            self.running.submit(request, mail)

    def cancel(self, request_id: int) -> Delta | None:
        """Ends a request now, frees its pages; its last delta, or None if it was over already."""
        with self._lock:
            return self.running.cancel(request_id)

    def cancel_all(self) -> None:
        """Ends every request: after a failed step, or when the server must stop."""
        with self._lock:
            for request_id in self.running.ids:
                self.cancel(request_id)

    def start_afresh(self) -> list[int]:
        """After a step that failed: forgets all requests, which are returned, and all pages."""
        with self._lock:
            return self.running.start_afresh()

    def forget_prefixes(self) -> None:
        """Empties the prefix cache: for when a name comes to stand for another adapter."""
        with self._lock:
            self.scheduler.forget_prefixes()

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return self.running.idle

    @property
    def wait_s(self) -> float | None:
        """After a step: how long there is nothing to do unless a request comes in."""
        return self.running.wait_s

    @property
    def scheduler(self) -> Scheduler:
        """Who runs, who waits, and who owns which page."""
        return self.running.scheduler

    @property
    def stats(self) -> Stats:
        """What was done so far."""
        return self.running.stats

    @property
    def kv(self) -> KV:
        """The storage of keys and values."""
        return self.running.kv

    @property
    def vocabulary(self) -> int:
        """Token ids below this one can be asked with and drawn."""
        return self.running.vocabulary

    def snapshot(self) -> Snapshot:
        """What the engine holds and has done."""
        return self.running.snapshot()

    def check(self) -> None:
        """Asserts that the books balance: sequences, pages, answers."""
        with self._lock:
            self.running.check()
            self.adapters.check()

    # The step.

    def advance(self, mail: deque[Delta]) -> None:
        """Steps once unless there is mail already: what readers of streams do in turn."""
        with self._lock:
            if not mail:
                self.step()
        if self.wait_s and not mail:
            time.sleep(self.wait_s)

    def step(self) -> list[Delta]:
        """Runs the next step of everything under way; returns what it added to the answers."""
        with self._lock:
            return self.running.step()
