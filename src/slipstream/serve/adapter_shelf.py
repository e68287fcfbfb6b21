"""The LoRA adapters that a server has, each a model of its own name on the engine of its base.

The catalog owns one shelf. An adapter belongs to one version of its base; it is unloaded when the
requests that run with it are answered, and the base goes only after its adapters.
"""

from collections.abc import Iterator
from pathlib import Path

from slipstream.errors import RequestError
from slipstream.serve.refusal import ModelNotFound
from slipstream.serve.served import Adapter, Served
from slipstream.serve.versions import Conflict


class AdapterShelf:
    """Adapters by name, each as a view of the model version that it runs on."""

    def __init__(self) -> None:
        self._views: dict[str, Served] = {}
        self._busy: set[str] = set()  # being loaded or unloaded

    def __contains__(self, name: str) -> bool:
        return name in self._views or name in self._busy

    def __iter__(self) -> Iterator[Served]:
        return iter(self._views.values())

    def get(self, name: str) -> Served | None:
        """The model that `name` asks for, if it is an adapter."""
        return self._views.get(name)

    def of(self, base: Served) -> list[str]:
        """The names of the adapters of a model version."""
        return [name for name, view in self._views.items() if view.service is base.service]

    async def load(self, name: str, path: Path, base: Served) -> Served:
        """Puts the adapter at `path` on the engine of `base`; the view that requests are sent to.

        What cannot be read or does not fit the model is refused as `Engine.load_adapter` says.
        """
        self._busy.add(name)
        try:
            with base.used():
                loaded = await base.service.call(lambda engine: engine.load_adapter(name, path))
        finally:
            self._busy.discard(name)
        return self._put(base, Adapter(name, loaded.content_hash, str(path)))

    def load_now(self, name: str, path: Path, base: Served) -> Served:
        """The same before the engine's thread has been started."""
        loaded = base.engine.load_adapter(name, path)
        return self._put(base, Adapter(name, loaded.content_hash, str(path)))

    async def unload(self, name: str) -> None:
        """Takes no more requests for an adapter, waits for those under way, and frees it."""
        if name in self._busy:
            raise Conflict(f"the adapter '{name}' is being loaded or unloaded; wait for that")
        view = self._views.pop(name, None)
        if view is None:
            have = ", ".join(f"'{one}'" for one in self._views) or "none"
            raise ModelNotFound(f"The adapter '{name}' does not exist here; there are {have}")
        self._busy.add(name)
        try:
            await view.users.gone()
            await view.service.call(lambda engine: engine.unload_adapter(name))
        except BaseException:  # a batch job runs with it, or the client has left: it stays
            self._views[name] = view
            raise
        finally:
            self._busy.discard(name)

    def _put(self, base: Served, adapter: Adapter) -> Served:
        view = self._views[adapter.name] = base.with_adapter(adapter)
        return view

    def check_gone(self, base: Served) -> None:
        """Conflict while a model version has adapters."""
        names = ", ".join(f"'{name}'" for name in self.of(base))
        if names:
            raise Conflict(f"'{base.label}' carries the adapters {names}; unload them first")

    def check_base(self, base: Served) -> None:
        """RequestError: an adapter cannot be the base of another."""
        if base.adapter is not None:
            raise RequestError(f"'{base.name}' is an adapter itself; name its base model")
