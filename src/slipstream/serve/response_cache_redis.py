"""The response cache in Redis, for servers that share one. Needs the extra ``[redis]``.

Redis bounds its own memory (`maxmemory`, with `maxmemory-policy allkeys-lru`). While it cannot be
reached, requests do not wait for it: after a failure it is left alone for a moment.
"""

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from redis.asyncio import Redis

PREFIX = "slipstream:response:"
PATIENCE_S = 0.5  # for one answer of Redis: computing a short reply may take no longer
REST_S = 5.0  # after a failure


class RedisStore:
    """Bytes by key, in the Redis at `url`; values live for `ttl_s` (None: while there is room)."""

    size_bytes = None  # shared with others: Redis knows

    def __init__(self, url: str, *, ttl_s: float | None) -> None:
        self._url = url
        self._ttl_ms = None if ttl_s is None else max(1, int(ttl_s * 1000))
        self._client: Redis | None = None
        self._rests_until_s = 0.0

    async def get(self, key: str) -> bytes | None:
        """The value, if Redis has it and can be reached."""
        if self._rests():
            return None
        try:
            value = await self._opened().get(PREFIX + key)
        except Exception:
            self._rest()
            raise
        return value if isinstance(value, bytes) else None

    async def put(self, key: str, value: bytes) -> None:
        """Keeps a value; Redis decides what goes for it."""
        if self._rests():
            return
        try:
            await self._opened().set(PREFIX + key, value, px=self._ttl_ms)
        except Exception:
            self._rest()
            raise

    async def close(self) -> None:
        """Closes the connections."""
        if self._client is not None:
            await self._client.aclose()

    def _opened(self) -> "Redis":
        if self._client is None:
            from redis.asyncio import Redis  # noqa: PLC0415  optional
            from redis.asyncio.retry import Retry  # noqa: PLC0415
            from redis.backoff import NoBackoff  # noqa: PLC0415

            self._client = Redis.from_url(
                self._url,
                socket_timeout=PATIENCE_S,
                socket_connect_timeout=PATIENCE_S,
                retry=Retry(NoBackoff(), 0),
                protocol=2,  # all servers speak it
            )
        return self._client

    def _rest(self) -> None:
        self._rests_until_s = time.monotonic() + REST_S

    def _rests(self) -> bool:
        return time.monotonic() < self._rests_until_s
