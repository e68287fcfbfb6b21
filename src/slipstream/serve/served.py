"""One version of a model, being served: its engine, its queue, its metrics, its answers under way.

The catalog hands it out; routes make requests with it, `answering` answers them. While anybody
uses it, it is not taken down.
"""

import asyncio
import copy
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from uuid import uuid4

from slipstream.engine.engine import Engine, Prompt
from slipstream.engine.request import Request, SamplingParams
from slipstream.engine.service import Service
from slipstream.serve.admission import Admission, AdmissionLimits
from slipstream.serve.caller import Caller
from slipstream.serve.dialect import Dialect, dialect_of
from slipstream.serve.logs import log_prompt
from slipstream.serve.metrics import Metrics
from slipstream.serve.response_cache import ResponseCache
from slipstream.serve.response_cache_key import is_deterministic, key_of, model_identity
from slipstream.serve.response_cache_use import CacheUse
from slipstream.serve.single_flight import Flights

VERSION = "1"  # where none is said


class Users:
    """How many use something, and when nobody does; who uses a part uses the `whole`, too."""

    def __init__(self, whole: "Users | None" = None) -> None:
        self.count = 0
        self._whole = whole
        self._nobody = asyncio.Event()
        self._nobody.set()

    def enter(self) -> None:
        """One more."""
        self.count += 1
        self._nobody.clear()
        if self._whole is not None:
            self._whole.enter()

    def leave(self) -> None:
        """One fewer."""
        self.count -= 1
        if not self.count:
            self._nobody.set()
        if self._whole is not None:
            self._whole.leave()

    async def gone(self) -> None:
        """Waits until nobody uses it."""
        await self._nobody.wait()


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter of a base model, under a name of its own; `content` is a hash of its files,
    `source` the folder that they were in.
    """

    name: str
    content: str
    source: str = ""


@dataclass(eq=False)
class Served:
    """One model version under one name; `service` runs its engine on a thread of its own.

    source   what it was loaded from; "" when it was given as an engine
    content  a hash of the model's files; two of the same content give the same answers
    cache    of responses, shared by all models of a server
    adapter  what `with_adapter` has set: requests run with it
    tool_format  how it calls tools, a name in `tools.formats`; None: as its template says
    """

    name: str
    engine: Engine
    limits: AdmissionLimits
    version: str = VERSION
    source: str = ""
    content: str = field(default_factory=lambda: uuid4().hex)
    cache: ResponseCache | None = None
    adapter: Adapter | None = None
    tool_format: str | None = None
    created: int = field(default_factory=lambda: int(time.time()))
    service: Service = field(init=False)
    admission: Admission = field(init=False)
    metrics: Metrics = field(init=False)
    flights: Flights = field(init=False)
    users: Users = field(init=False, default_factory=Users)

    def __post_init__(self) -> None:
        self.service = Service(self.engine)
        self.admission = Admission(self.service, self.limits)
        self.metrics = Metrics(self.name, self.service.snapshot, self.version)
        self.service.on_gaps = self.metrics.gaps
        self.flights = Flights(self.service)

    @cached_property
    def _identity(self) -> str:
        return model_identity(self.content, self.engine.settings)

    @cached_property
    def dialect(self) -> Dialect:
        """How it calls tools and reasons."""
        return dialect_of(self.engine.tokenizer, self.tool_format)

    @property
    def label(self) -> str:
        """``name:version``, which asks for exactly this one; an adapter has no versions."""
        return self.name if self.adapter else f"{self.name}:{self.version}"

    def with_adapter(self, adapter: Adapter) -> "Served":
        """The same engine under the adapter's name, every request running with the adapter."""
        view = copy.copy(self)
        view.name, view.adapter, view.users = adapter.name, adapter, Users(self.users)
        return view

    @contextmanager
    def used(self) -> Iterator[None]:
        """While entered, the catalog leaves the engine up."""
        self.users.enter()
        try:
            yield
        finally:
            self.users.leave()

    def let_in(self, count: int, params: SamplingParams, use: CacheUse) -> None:
        """Refuses `count` answers before any work where there is no room for them: OverloadedError.

        Answers that may be known or under way already need no place, so these go on until that is
        looked up; `answering` then asks for places for those that must be computed.
        """
        known = self.cache is not None or len(self.flights) > 0
        if known and use.read and is_deterministic(params):
            self.admission.check_count(count)
        else:
            self.admission.admit(count)

    def key_of(self, request: Request) -> str | None:
        """What equal requests share; None for a request whose answer is a fresh draw."""
        if not is_deterministic(request.params):
            return None
        return key_of(self._identity, request, self.adapter.content if self.adapter else "")

    async def requests(
        self, prompts: Sequence[Prompt], params: SamplingParams, caller: Caller
    ) -> list[Request]:
        """`params.n` requests for each prompt, in a row; on a worker thread, as they are long."""
        return await asyncio.to_thread(self._requests, prompts, params, caller)

    def _requests(
        self, prompts: Sequence[Prompt], params: SamplingParams, caller: Caller
    ) -> list[Request]:
        admission = self.admission
        terms: dict[str, Any] = {
            "key": caller.account,
            "priority": admission.priority(caller.account, caller.priority),
            "timeout_s": admission.timeout_s(caller.timeout_s),
            "adapter": self.adapter.name if self.adapter else None,
        }
        made = [self.engine.requests(prompt, params, **terms) for prompt in prompts]
        if self.limits.log_prompts:
            for leader, *_ in made:
                text = self.engine.tokenizer.decode(leader.prompt_ids, skip_special=False)
                log_prompt(caller, text)
        return [admission.bounded(request) for siblings in made for request in siblings]
