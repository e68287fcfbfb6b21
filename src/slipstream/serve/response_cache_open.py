"""Which store a response cache has: a file of its own, Redis, or none. `slipstream serve` asks.

Nothing is opened or imported yet: the first request that could use the cache does that, so that a
start costs nothing.
"""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from slipstream.errors import UnsupportedError
from slipstream.machine import cache_dir
from slipstream.serve.response_cache import ResponseCache, Store

REDIS = ("redis://", "rediss://", "unix://")
OFF = "off"
LIMIT_MB = 256
LIMIT_MB_MIN = 1
TTL_S = 7 * 86_400.0


def open_cache(
    where: str | None = None, *, limit_mb: int = LIMIT_MB, ttl_s: float | None = TTL_S
) -> ResponseCache | None:
    """The cache at `where`: a file, the URL of a Redis, None for the usual file, or ``off``.

    `ttl_s` None keeps answers for as long as there is room. UnsupportedError for other URLs.
    """
    if where == OFF:
        return None
    limit_bytes = max(limit_mb, LIMIT_MB_MIN) * 2**20
    if where is not None and where.startswith(REDIS):
        if find_spec("redis") is None:
            raise UnsupportedError(
                "a response cache in Redis needs its client: pip install 'slipstream[redis]'"
            )
        return ResponseCache(Later(lambda: _redis(where, ttl_s)))
    if where is not None and "://" in where:
        raise UnsupportedError(
            f"{where.partition('://')[0]}:// is no response cache; name a file, redis://…, or off"
        )
    path = default_path() if where is None else Path(where).expanduser()
    return ResponseCache(Later(lambda: _sqlite(path, limit_bytes, ttl_s)))


def default_path() -> Path:
    """Where answers are kept unless another place is named."""
    return cache_dir() / "responses.sqlite"


class Later:
    """A store that is made when it is first used."""

    def __init__(self, make: Callable[[], Store]) -> None:
        self._make = make
        self._store: Store | None = None

    @property
    def size_bytes(self) -> int | None:
        """What the store takes; None while there is none."""
        return None if self._store is None else self._store.size_bytes

    async def get(self, key: str) -> bytes | None:
        """The store's value."""
        return await self._made().get(key)

    async def put(self, key: str, value: bytes) -> None:
        """Keeps it in the store."""
        await self._made().put(key, value)

    async def close(self) -> None:
        """Closes the store, if there is one."""
        if self._store is not None:
            await self._store.close()

    def _made(self) -> Store:
        if self._store is None:
            self._store = self._make()
        return self._store


def _sqlite(path: Path, limit_bytes: int, ttl_s: float | None) -> Store:
    module = import_module("slipstream.serve.response_cache_sqlite")
    store: Store = module.SQLiteStore(path, limit_bytes=limit_bytes, ttl_s=ttl_s)
    return store


def _redis(url: str, ttl_s: float | None) -> Store:
    store: Store = import_module("slipstream.serve.response_cache_redis").RedisStore(
        url, ttl_s=ttl_s
    )
    return store
