"""One database: connections that come back by themselves, and short transactions.

psycopg's pool can stay broken for good after an outage of minutes, so the pool here is
disposable: when a connection fails, a supervisor probes the server with backoff and opens a
fresh pool once it answers. While it is away every use raises `Unavailable` at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Any

import msgspec
import psycopg
import structlog
from psycopg import AsyncConnection
from psycopg.types.json import set_json_dumps, set_json_loads
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout

from fpd.errors import Unavailable
from fpd.store import migrations

log = structlog.get_logger()

_OPTIONS: dict[str, Any] = {
    "autocommit": True,
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
    "application_name": "fpd",
    "options": "-c timezone=UTC -c statement_timeout=30s -c lock_timeout=10s "
    "-c idle_in_transaction_session_timeout=60s",
}
_AWAY = (psycopg.OperationalError, psycopg.InterfaceError, PoolClosed)
# A wish of the server to try again says nothing about its health.
_HEALTHY = (
    psycopg.errors.SerializationFailure,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.QueryCanceled,
    psycopg.errors.LockNotAvailable,
)


async def migrate(url: str, *, now: datetime) -> int:
    """Bring the database up to date; return how many migrations were applied."""
    async with await AsyncConnection.connect(url, **_migration_options()) as connection:
        return await migrations.apply(connection, now=now)


def _migration_options() -> dict[str, Any]:
    # Waiting for another daemon's migration, and a long migration itself, are legitimate.
    return _OPTIONS | {"options": "-c timezone=UTC"}


class Database:
    """The PostgreSQL behind one daemon."""

    def __init__(self, url: str, *, clock: Callable[[], datetime], max_size: int = 12) -> None:
        self._url = url
        self._clock = clock
        self._max_size = max_size
        self._pool: AsyncConnectionPool[AsyncConnection] | None = None
        self._ready = asyncio.Event()
        self._failed = asyncio.Event()

    @property
    def ready(self) -> bool:
        """Whether the server answered last time and is migrated."""
        return self._ready.is_set()

    async def wait_ready(self) -> None:
        """Return once the database can be used."""
        await self._ready.wait()

    async def open(self) -> None:
        """Connect and migrate now. Raises what psycopg raises; `supervise` retries instead."""
        await migrate(self._url, now=self._clock())
        set_json_dumps(msgspec.json.encode)
        set_json_loads(msgspec.json.decode)
        pool: AsyncConnectionPool[AsyncConnection] = AsyncConnectionPool(
            self._url, kwargs=_OPTIONS, min_size=2, max_size=self._max_size, timeout=5, open=False
        )
        await pool.open(wait=True, timeout=10)
        self._pool = pool
        self._failed.clear()
        self._ready.set()

    async def close(self) -> None:
        """Let go of every connection."""
        self._ready.clear()
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close(timeout=2)

    async def supervise(self) -> None:
        """Keep the database usable for ever: open it, notice when it is away, open it again."""
        told = False
        delay_s = 0.2
        while True:
            if not self.ready:
                try:
                    await self.open()
                except (*_AWAY, OSError) as error:
                    if not told:
                        log.warning("database.unreachable", error=_one_line(error))
                        told = True
                    await asyncio.sleep(delay_s * random.uniform(0.8, 1.2))
                    delay_s = min(delay_s * 1.6, 2.0)
                    continue
                log.info("database.opened")
                told, delay_s = False, 0.2
            await self._failed.wait()
            log.warning("database.lost")
            told = True
            await self.close()

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[AsyncConnection]:
        """Lend an autocommit connection. Raises Unavailable while the server is away."""
        pool = self._pool
        if pool is None or not self.ready:
            raise Unavailable("the database is away")
        try:
            async with pool.connection() as connection:
                yield connection
        except _HEALTHY as error:
            raise Unavailable(f"the database is busy: {_one_line(error)}") from error
        except PoolTimeout as error:
            # All connections lent out is load, not loss; none at all is loss.
            if not pool.get_stats().get("pool_size"):
                self._lose()
            raise Unavailable("the database is busy") from error
        except _AWAY as error:
            self._lose()
            raise Unavailable("the database is away") from error

    def _lose(self) -> None:
        self._ready.clear()
        self._failed.set()

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """Lend a connection inside a transaction that commits when the block ends."""
        async with self.connection() as connection, connection.transaction():
            yield connection


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
