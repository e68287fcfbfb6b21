"""Which store a response cache has: a file of its own, Redis, or none. `slipstream serve` asks.

Nothing is opened yet: the first request that could use the cache does that.
"""

from pathlib import Path

from slipstream.errors import UnsupportedError
from slipstream.machine import cache_dir
from slipstream.serve.response_cache import ResponseCache, Store
from slipstream.serve.response_cache_redis import RedisStore
from slipstream.serve.response_cache_sqlite import SQLiteStore

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
    return ResponseCache(_store(where, max(limit_mb, LIMIT_MB_MIN) * 2**20, ttl_s))


def default_path() -> Path:
    """Where answers are kept unless another place is named."""
    return cache_dir() / "responses.sqlite"


def _store(where: str | None, limit_bytes: int, ttl_s: float | None) -> Store:
    if where is not None and where.startswith(REDIS):
        return RedisStore(where, ttl_s=ttl_s)
    if where is not None and "://" in where:
        raise UnsupportedError(
            f"{where.partition('://')[0]}:// is no response cache; name a file, redis://…, or off"
        )
    path = default_path() if where is None else Path(where).expanduser()
    return SQLiteStore(path, limit_bytes=limit_bytes, ttl_s=ttl_s)
