"""The LoRA adapters that an engine has loaded, by name: which slot of the program each one has.

The engine owns one `Adapters`; it loads and unloads between steps, and refuses to unload what a
request under way runs with. Requests name adapters, batches name slots.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field

from slipstream.backends.batch import Program
from slipstream.checkpoint.peft import Adapter, read_adapter
from slipstream.errors import RequestError

ADAPTERS_MAX = 64
NAME_LENGTH_MAX = 256


@dataclass(frozen=True)
class LoadedAdapter:
    """One adapter in the program. `size_bytes` as stored; `rank` is the largest of its parts."""

    name: str
    slot: int
    path: str
    content_hash: str
    rank: int
    size_bytes: int


@dataclass
class Adapters:
    """Names and slots. `slots` is what batches are made with."""

    program: Program
    most: int = ADAPTERS_MAX
    slots: dict[str, int] = field(default_factory=dict)
    _loaded: dict[str, LoadedAdapter] = field(default_factory=dict)
    _last: dict[str, str] = field(default_factory=dict)  # what each name stood for last, by hash

    def __iter__(self) -> Iterator[LoadedAdapter]:
        return iter(list(self._loaded.values()))

    def __len__(self) -> int:
        return len(self._loaded)

    @property
    def size_bytes(self) -> int:
        """What all of them occupy in the program."""
        return self.program.adapter_bytes

    def load(
        self, name: str, source: str | os.PathLike[str] | Adapter
    ) -> tuple[LoadedAdapter, bool]:
        """Reads an adapter (or takes one that was read) into a free slot; and whether the name
        stood for other values before, so that nothing computed under it may be used again.

        RequestError when the name is taken or there are too many; what cannot be read or does not
        fit the model is refused as `read_adapter` and `Program.load_adapter` say.
        """
        self._check_new(name)
        adapter = source if isinstance(source, Adapter) else read_adapter(source)
        slot = next(i for i in range(self.most) if i not in self.slots.values())
        self.program.load_adapter(slot, adapter)
        loaded = LoadedAdapter(
            name,
            slot,
            str(adapter.path),
            adapter.content_hash,
            max((pair.rank for pair in adapter.pairs.values()), default=0),
            adapter.size_bytes,
        )
        self.slots[name], self._loaded[name] = slot, loaded
        before = self._last.get(name, adapter.content_hash)
        self._last[name] = adapter.content_hash
        return loaded, before != adapter.content_hash

    def unload(self, name: str, in_use: int) -> None:
        """Frees the slot. RequestError while `in_use` requests run with it, or if it is unknown."""
        loaded = self.named(name)
        if in_use:
            raise RequestError(
                f"the adapter {name!r} is in use by {in_use} requests; unload it when they end"
            )
        self.program.unload_adapter(loaded.slot)
        del self.slots[name], self._loaded[name]

    def named(self, name: str) -> LoadedAdapter:
        """The adapter called `name`; RequestError says which there are instead."""
        if name not in self._loaded:
            have = ", ".join(repr(one) for one in list(self._loaded)[:20]) or "none"
            raise RequestError(f"no adapter is called {name!r}; loaded are {have}")
        return self._loaded[name]

    def check(self) -> None:
        """Asserts that every name has one slot of its own."""
        assert self.slots.keys() == self._loaded.keys()
        assert len(set(self.slots.values())) == len(self.slots), "two adapters in one slot"
        assert all(self.slots[name] == one.slot for name, one in self._loaded.items())

    def _check_new(self, name: str) -> None:
        if not name or len(name) > NAME_LENGTH_MAX:
            raise RequestError(f"an adapter's name must have 1…{NAME_LENGTH_MAX} characters")
        if name in self._loaded:
            raise RequestError(f"an adapter called {name!r} is loaded already; unload it first")
        if len(self._loaded) >= self.most:
            raise RequestError(
                f"{self.most} adapters are loaded already, which is the most; unload one first"
            )
