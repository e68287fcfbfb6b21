"""The models that a server has, by name and version. Handlers ask `choose` who answers a request.

Versions come and go while others serve: each is loaded beside them, and taken down only when
nobody uses it any more. The application starts and stops the catalog; `routes/admin` changes it.

    loading ──▶ serving ──▶ draining ──▶ (gone)
       └──▶ failed
"""

import asyncio
import logging
from collections.abc import Coroutine, Iterable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

from slipstream.errors import RequestError, UnavailableError
from slipstream.serve.adapter_shelf import AdapterShelf
from slipstream.serve.admission import AdmissionLimits
from slipstream.serve.canary import Canary
from slipstream.serve.catalog_entry import Entry, check_names
from slipstream.serve.leases import lease
from slipstream.serve.loader import Loader, Opened
from slipstream.serve.loader_memory import give_back
from slipstream.serve.refusal import ModelNotFound
from slipstream.serve.response_cache import ResponseCache
from slipstream.serve.served import VERSION, Served
from slipstream.serve.versions import Conflict, Versions

__all__ = ["Catalog", "Entry", "Served"]

log = logging.getLogger("slipstream.serve")


class Catalog:
    """Every model of a server, in the order in which they came."""

    def __init__(
        self,
        served: Iterable[Served] = (),
        *,
        loader: Loader | None = None,
        cache: ResponseCache | None = None,
        limits: AdmissionLimits | None = None,
    ) -> None:
        self.cache = cache
        self._loader = loader or Loader()
        self._limits = limits or AdmissionLimits()
        self._models: dict[str, Versions[Served]] = {}
        self._entries: dict[tuple[str, str], Entry] = {}
        self.adapters = AdapterShelf()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._running = False
        for one in served:
            self._check_new(one.name, one.version)
            entry = Entry(one.name, one.version, one.source, "loading")
            self._entries[one.name, one.version] = entry
            self._admit(entry, one)

    def __iter__(self) -> Iterator[Served]:
        """Every version that takes requests."""
        for versions in self._models.values():
            yield from versions

    def choose(self, name: str, who: str = "") -> Served:
        """Who answers requests for `name`, a model or ``model:version``; it stays up meanwhile.

        `who` asks (an account or a user: the same one meets the same canary); "" for nobody in
        particular. ModelNotFound says what there is instead.
        """
        served = self._find(name, who)
        lease(served.used())
        return served

    def listed(self) -> list[Served]:
        """What requests may name: the default of each model, every other version, the adapters."""
        defaults = [versions[versions.default] for versions in self._models.values()]
        others = [one for one in self if one not in defaults]
        return [*defaults, *others, *self.adapters]

    def entries(self) -> list[Entry]:
        """Every version in every state."""
        return list(self._entries.values())

    def versions(self, name: str) -> Versions[Served]:
        """The versions of a model that take requests. ModelNotFound if there are none."""
        if name not in self._models:
            raise self._not_found(name)
        return self._models[name]

    # What an administrator changes.

    def load(
        self, name: str, source: str, version: str = VERSION, *, default: bool = False
    ) -> asyncio.Task[Served]:
        """Begins to load a version beside those that serve; the task ends when it takes requests.

        The first version of a name is its default; `default`: this one is, once it is ready.
        Refused at once: a name that is taken. A failure is told by the task and by the entry.
        """
        self._check_new(name, version)
        entry = self._entries[name, version] = Entry(name, version, source, "loading")
        return self._task(self._load(entry, default))

    def unload(
        self, name: str, version: str | None = None, *, timeout_s: float | None = None
    ) -> asyncio.Task[None]:
        """Takes no more requests for a version; the task ends when those under way are answered
        and the engine is gone.

        After `timeout_s` what is still under way is ended, in words. Conflict: it is the default of
        others, or in the middle of something. One that has failed is forgotten.
        """
        entry = self._entry(name, version)
        if entry.state == "failed":
            del self._entries[entry.name, entry.version]
            return self._task(_nothing())
        if entry.state != "serving":
            raise Conflict(f"'{entry.label}' is {entry.state}; wait until that is over")
        assert entry.served is not None
        self.adapters.check_gone(entry.served)
        versions = self._models[entry.name]
        versions.remove(entry.version)
        if not versions:
            del self._models[entry.name]
        entry.state = "draining"
        return self._task(self._take_down(entry, timeout_s))

    def put_adapter(self, name: str, source: str, base: str) -> Served:
        """`load_adapter` for a catalog that has not been started."""
        self._check_new(name, VERSION)
        served = self._find(base, "")
        self.adapters.check_base(served)
        return self.adapters.load_now(name, Path(source), served)

    async def load_adapter(self, name: str, source: str, base: str) -> Served:
        """Loads the LoRA adapter in the folder `source` as a model called `name`, which runs on
        the model `base` (its default version, unless it names one).
        """
        self._check_new(name, VERSION)
        served = self._find(base, "")
        self.adapters.check_base(served)
        with served.used():
            view = await self.adapters.load(name, Path(source), served)
            if served not in list(self):
                await self.adapters.unload(name)
                raise Conflict(f"'{served.label}' was unloaded meanwhile")
        return view

    def set_default(self, name: str, version: str) -> None:
        """Requests for `name` alone go to this version from now on."""
        self.versions(name).set_default(version)

    def set_canary(self, name: str, canary: Canary | None) -> None:
        """A share of the requests for `name` alone goes to the canary; None: to nobody else."""
        self.versions(name).set_canary(canary)

    # The life of the server.

    def start(self) -> None:
        """Starts the engines' threads in the running event loop."""
        self._running = True
        for one in self:
            one.service.start()

    async def stop(self) -> None:
        """Stops them; what is still open is refused in words."""
        if not self._running:
            return
        self._running = False
        for task in self._tasks:
            task.cancel()
        self._loader.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        running = [entry.served for entry in self.entries() if entry.served is not None]
        await asyncio.gather(*(one.service.stop() for one in running))
        if self.cache is not None:
            await self.cache.close()

    def check(self) -> None:
        """Asserts that what takes requests is what the entries say."""
        serving = {(one.name, one.version): one for one in self}
        assert serving == {
            (entry.name, entry.version): entry.served
            for entry in self.entries()
            if entry.state == "serving"
        }
        for versions in self._models.values():
            versions.check()

    # Helpers.

    def _find(self, name: str, who: str) -> Served:
        if name in self._models:
            return self._models[name].pick(who or uuid4().hex)
        adapted = self.adapters.get(name)
        if adapted is not None:
            return adapted
        base, _, version = name.rpartition(":")
        if base in self._models and version in self._models[base]:
            return self._models[base][version]
        raise self._not_found(name)

    def _not_found(self, name: str) -> Exception:
        if any(name in (entry.name, entry.label) for entry in self.entries()):
            states = {entry.state for entry in self.entries() if name in (entry.name, entry.label)}
            if "loading" in states:
                return UnavailableError(f"the model '{name}' is being loaded; try again soon")
        names = [*self._models, *(view.name for view in self.adapters)]
        have = ", ".join(f"'{one}'" for one in names) or "none"
        return ModelNotFound(f"The model '{name}' does not exist here; this server has {have}")

    def _check_new(self, name: str, version: str) -> None:
        check_names(name, version)
        entry = self._entries.get((name, version))
        if entry is not None and entry.state != "failed":
            raise Conflict(f"'{entry.label}' is {entry.state} already; unload it first")
        label = f"{name}:{version}"
        if name in self.adapters or label in self.adapters:
            raise Conflict(f"an adapter is called '{name}' already; unload it first")
        if label in self._models or any(name == other.label for other in self.entries()):
            raise Conflict(f"'{name}', version '{version}' could be mistaken for another model")

    def _entry(self, name: str, version: str | None) -> Entry:
        if version is None:
            of_name = [entry for entry in self.entries() if entry.name == name]
            if len(of_name) > 1:
                have = ", ".join(repr(entry.version) for entry in of_name)
                raise RequestError(f"'{name}' has versions {have}; say which")
            version = of_name[0].version if of_name else VERSION
        if (name, version) not in self._entries:
            raise ModelNotFound(f"The model '{name}' has no version '{version}' here")
        return self._entries[name, version]

    def _admit(self, entry: Entry, served: Served) -> None:
        served.cache = self.cache
        entry.state, entry.served, entry.error = "serving", served, None
        if entry.name in self._models:
            self._models[entry.name].add(entry.version, served)
        else:
            self._models[entry.name] = Versions(entry.name, entry.version, served)
        if self._running:
            served.service.start()

    async def _load(self, entry: Entry, default: bool) -> Served:
        try:
            opened: Opened = await self._loader.open(entry.source)
        except BaseException as error:
            entry.state, entry.error = "failed", str(error) or type(error).__name__
            log.warning("%s was not loaded: %s", entry.label, entry.error)
            raise
        served = Served(
            entry.name,
            opened.engine,
            self._limits,
            version=entry.version,
            content=opened.content,
            source=entry.source,
        )
        self._admit(entry, served)
        if default:
            self.set_default(entry.name, entry.version)
        return served

    async def _take_down(self, entry: Entry, timeout_s: float | None) -> None:
        served = entry.served
        assert served is not None
        try:
            async with asyncio.timeout(timeout_s):
                await served.users.gone()
                await served.service.drain()
        except TimeoutError:
            log.warning("%s is taken down before its answers are complete", entry.label)
        await served.service.stop()
        del self._entries[entry.name, entry.version]
        entry.served = served = None
        await asyncio.to_thread(give_back)

    def _task(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # told by the entry, and to whoever awaits the task


async def _nothing() -> None:
    return
