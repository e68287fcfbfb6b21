"""Remembers what an administrator changes in the catalog, and brings it back at the next start.

`routes/admin` makes one where the server has a folder for its state, and calls `save` after each
change. What the command line names is always served, and is not recorded; labels are.
"""

import asyncio
import logging
from pathlib import Path

from slipstream.serve.canary import Canary
from slipstream.serve.catalog import Catalog, Entry, Served
from slipstream.serve.catalog_record import (
    AdapterRecord,
    CanaryRecord,
    CatalogRecord,
    ModelRecord,
    read_record,
)

log = logging.getLogger("slipstream.serve")


class CatalogKeeper:
    """A worker of the server; FileFormatError if the file at `path` is damaged.

    Models are loaded in the order in which they came, while others serve already; then come
    adapters and labels. What cannot be brought back is said in the log and kept in the record.
    """

    def __init__(self, catalog: Catalog, path: Path) -> None:
        self._catalog = catalog
        self._path = path
        self._given = {(entry.name, entry.version) for entry in catalog.entries()}
        self._given_adapters = {view.name for view in catalog.adapters}
        self._record = read_record(path)
        self._lost: list[AdapterRecord] = []  # adapters that could not be brought back
        self._restoring: asyncio.Task[None] | None = None
        self._live = False  # everything is back, and the server has not stopped
        self._changed = False  # before everything was back

    def start(self) -> None:
        """Begins to bring back what the record has."""
        tasks = []
        for model in self._record.models:
            if (model.name, model.version) in self._given:
                continue
            try:
                tasks.append(self._catalog.load(model.name, model.source, model.version))
            except Exception as error:  # a name that the command line gave to something else
                log.warning("%s:%s is not brought back: %s", model.name, model.version, error)
        self._restoring = asyncio.create_task(self._restore(tasks))

    async def stop(self) -> None:
        """Leaves the rest for the next start, and the record as it is."""
        self._live = False
        if self._restoring is not None:
            self._restoring.cancel()
            await asyncio.gather(self._restoring, return_exceptions=True)

    async def restored(self) -> None:
        """Waits until everything is back, or known not to be."""
        if self._restoring is not None:
            await asyncio.shield(self._restoring)

    def save(self) -> None:
        """Writes down what there is now; while things are brought back, once they are."""
        if self._live:
            self._now().write(self._path)
        else:
            self._changed = True

    async def _restore(self, tasks: list[asyncio.Task[Served]]) -> None:
        await asyncio.gather(*tasks, return_exceptions=True)  # the entries tell of failures
        for adapter in self._record.adapters:
            await self._restore_adapter(adapter)
        for name, version in self._record.defaults.items():
            self._try(f"the default of {name}", self._catalog.set_default, name, version)
        for name, canary in self._record.canaries.items():
            again = Canary(canary.version, canary.percent)
            self._try(f"the canary of {name}", self._catalog.set_canary, name, again)
        self._live = True
        if self._changed:
            self.save()

    async def _restore_adapter(self, adapter: AdapterRecord) -> None:
        if adapter.name in self._given_adapters:
            return
        try:
            await self._catalog.load_adapter(adapter.name, adapter.source, adapter.base)
        except Exception as error:  # whatever it is, the server goes on without it
            log.warning("the adapter %s is not brought back: %s", adapter.name, error)
            self._lost.append(adapter)

    def _try(self, what: str, change: object, *arguments: object) -> None:
        assert callable(change)
        try:
            change(*arguments)
        except Exception as error:
            log.warning("%s is not brought back: %s", what, error)

    def _now(self) -> CatalogRecord:
        catalog = self._catalog
        entries = [entry for entry in catalog.entries() if entry.state != "draining"]
        names = dict.fromkeys(entry.name for entry in entries if entry.state == "serving")
        versions = [catalog.versions(name) for name in names]
        return CatalogRecord(
            models=[
                ModelRecord(name=one.name, version=one.version, source=_lasting(one.source))
                for one in entries
                if one.source and (one.name, one.version) not in self._given
            ],
            adapters=[
                AdapterRecord(name=view.name, source=_lasting(view.adapter.source), base=base)
                for view in catalog.adapters
                if view.adapter is not None and view.name not in self._given_adapters
                for base in [_base_of(view, entries)]
            ]
            + [adapter for adapter in self._lost if adapter.name not in catalog.adapters],
            defaults={
                one.name: one.default
                for one in versions
                if len(one) > 1 or (one.name, one.default) not in self._given
            },
            canaries={
                one.name: CanaryRecord(version=one.canary.version, percent=one.canary.percent)
                for one in versions
                if one.canary is not None
            },
        )


def _base_of(view: Served, entries: list[Entry]) -> str:
    """The label of the version that an adapter runs on."""
    return next(
        entry.label
        for entry in entries
        if entry.served is not None and entry.served.service is view.service
    )


def _lasting(source: str) -> str:
    """A path that means the same wherever the next server is started."""
    path = Path(source)
    return str(path.resolve()) if path.exists() else source
