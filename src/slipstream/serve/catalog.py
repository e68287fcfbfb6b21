"""The models that a server has, by name. Handlers ask `choose` who answers a request.

A `Served` is one model with its engine, its queue and its metrics; the catalog starts and stops
them with the application.
"""

import asyncio
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from slipstream.engine.engine import Engine, Prompt
from slipstream.engine.request import Request, SamplingParams
from slipstream.engine.service import Service
from slipstream.serve.admission import Admission, AdmissionLimits
from slipstream.serve.caller import Caller
from slipstream.serve.metrics import Metrics
from slipstream.serve.refusal import ModelNotFound


@dataclass(eq=False)
class Served:
    """One model under one name; `service` runs its engine on a thread of its own."""

    name: str
    engine: Engine
    limits: AdmissionLimits
    created: int = field(default_factory=lambda: int(time.time()))
    service: Service = field(init=False)
    admission: Admission = field(init=False)
    metrics: Metrics = field(init=False)

    def __post_init__(self) -> None:
        self.service = Service(self.engine)
        self.admission = Admission(self.service, self.limits)
        self.metrics = Metrics(self.name, self.service.snapshot)

    async def requests(
        self, prompts: Sequence[Prompt], params: SamplingParams, caller: Caller
    ) -> list[Request]:
        """Tokenizes and checks; on a worker thread, since prompts may be long."""
        return await asyncio.to_thread(self._requests, prompts, params, caller)

    def _requests(
        self, prompts: Sequence[Prompt], params: SamplingParams, caller: Caller
    ) -> list[Request]:
        admission = self.admission
        terms: dict[str, Any] = {
            "key": caller.account,
            "priority": admission.priority(caller.account, caller.priority),
            "timeout_s": admission.timeout_s(caller.timeout_s),
        }
        made = [self.engine.requests(prompt, params, **terms) for prompt in prompts]
        return [admission.bounded(request) for siblings in made for request in siblings]


class Catalog:
    """Every model of a server, in the order in which they are listed."""

    def __init__(self, served: Iterable[Served]) -> None:
        self._served = {one.name: one for one in served}

    def __iter__(self) -> Iterator[Served]:
        return iter(self._served.values())

    def choose(self, name: str) -> Served:
        """Who answers requests for `name`. ModelNotFound says what there is instead."""
        if name not in self._served:
            have = ", ".join(f"'{one}'" for one in self._served)
            raise ModelNotFound(f"The model '{name}' does not exist here; this server has {have}")
        return self._served[name]

    def start(self) -> None:
        """Starts the engines' threads in the running event loop."""
        for one in self._served.values():
            one.service.start()

    async def stop(self) -> None:
        """Stops them; what is still open is refused in words."""
        await asyncio.gather(*(one.service.stop() for one in self._served.values()))
