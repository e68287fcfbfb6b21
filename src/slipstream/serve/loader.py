"""Opens engines for a server that is already serving: one after the other, on a thread of its own.

What this machine's memory cannot hold is refused before it is loaded. The catalog and `slipstream
serve` call `Loader.open`.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from slipstream.checkpoint.sources import resolve as find
from slipstream.engine.engine import Engine
from slipstream.engine.options import EngineOptions, kv_bytes, resolve
from slipstream.errors import MachineError
from slipstream.machine import machine
from slipstream.models.load import load
from slipstream.models.model import Model
from slipstream.serve.loader_content import content_of
from slipstream.serve.loader_memory import available_bytes

SPARE_BYTES = 64 * 2**20  # for buffers, the tokenizer and everything else


class NoMemory(MachineError):
    """A model that this machine has no room for, next to what it serves already."""

    http_status = 507


@dataclass(frozen=True)
class Opened:
    """An engine that is ready, and the hash of the files it was made from."""

    engine: Engine
    content: str


class Loader:
    """Opens models with the same options; `open_one` stands in for the real thing in tests."""

    def __init__(
        self,
        options: EngineOptions | None = None,
        open_one: Callable[[str, EngineOptions], Opened] | None = None,
    ) -> None:
        self._options = options or EngineOptions()
        self._open_one = open_one or open_model
        self._thread = ThreadPoolExecutor(1, "loader")

    async def open(self, source: str) -> Opened:
        """The engine of the model called `source` (a name, a file, a folder), ready to answer.

        Whatever is wrong with it is raised as loading it alone would raise it; NoMemory.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._open_one, source, self._options)

    def close(self) -> None:
        """Takes no further work; what is being loaded is dropped when it is ready."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def open_model(source: str, options: EngineOptions) -> Opened:
    """Loads a model if there is memory for it."""
    path = find(source, quiet=True)
    model = load(path)
    check_memory(model, path, options, available_bytes())
    return Opened(Engine.open(model, options), content_of(path))


def check_memory(model: Model, path: Path, options: EngineOptions, available: int | None) -> None:
    """NoMemory unless weights and KV pages fit into `available` bytes (None: unknown, let it try).

    Weights are packed once into memory of our own, about as many bytes as their files have.
    """
    settings = resolve(options, model.graph, machine())
    weights = size_of(path)
    pages = kv_bytes(model.graph, settings)
    needed = weights + pages + SPARE_BYTES
    if available is not None and needed > available:
        raise NoMemory(
            f"{path.name} needs about {needed / 1e6:.0f} MB (weights {weights / 1e6:.0f}, KV pages "
            f"{pages / 1e6:.0f}), and {available / 1e6:.0f} MB are free; unload a model, or give "
            "the pages less with --kv-memory"
        )


def size_of(path: Path) -> int:
    """Bytes of a model's files."""
    files = path.glob("*.safetensors") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)
