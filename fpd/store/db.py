"""One database: connections that come back by themselves, and short transactions.

psycopg's pool can stay broken for good after an outage of minutes, so the pool here is
disposable: when a connection fails, a supervisor probes the server with backoff and opens a
fresh pool once it answers. While it is away every use raises `Unavailable` at once.

A server may also hang, or the network swallow everything. So whoever uses a connection for long
is a reason to ask the server, through another connection, whether it is still there; if it does
not say so, every connection in use is cut. (Cancelling would not do: psycopg waits for the
server before it lets go.)
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from typing import Any, ParamSpec, TypeVar

import msgspec
import psycopg
import structlog
from psycopg import AsyncConnection
from psycopg.types.json import set_json_dumps, set_json_loads
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout

from fpd.errors import Unavailable
from fpd.store import migrations

log = structlog.get_logger()

P = ParamSpec("P")
T = TypeVar("T")

_OPTIONS: dict[str, Any] = {
    "autocommit": True,
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
    "application_name": "fpd",
    # To compile a plan that was thought dear takes hundreds of times as long as our queries do.
    # What is asked is new and cached, or on an SSD: an index costs there what it seems to cost.
    "options": "-c timezone=UTC -c statement_timeout=30s -c lock_timeout=10s "
    "-c idle_in_transaction_session_timeout=60s -c jit=off -c random_page_cost=1.1",
}
_AWAY = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    PoolClosed,
)
_CONTENDED = (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected)
# What the server says by itself is no sign that it has gone.
_HEALTHY = (
    psycopg.errors.QueryCanceled,
    psycopg.errors.LockNotAvailable,
    psycopg.errors.DiskFull,
    psycopg.errors.OutOfMemory,
)
_TRIES = 3
_LONG_S = 1.5  # a statement that takes longer is worth a question
_LONGEST_S = 40.0  # longer than the server itself allows any statement
_ANSWER_S = 2.0
_TURNS = 20


class Contended(Unavailable):
    """Others worked on the same rows, and PostgreSQL gave this transaction up."""


def retried(work: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """Begin `work` again when its transaction lost against another: three tries in all.

    For functions whose effects are one transaction and what follows its commit.
    """

    @functools.wraps(work)
    async def again(*args: P.args, **kwargs: P.kwargs) -> T:
        for attempt in range(1, _TRIES):
            try:
                return await work(*args, **kwargs)
            except Contended:
                await asyncio.sleep(0.02 * attempt * random.uniform(0.5, 1.5))
        return await work(*args, **kwargs)

    return again


async def migrate(url: str, *, now: datetime) -> int:
    """Bring the database up to date; return how many migrations were applied."""
    _speak_utc()
    async with await AsyncConnection.connect(url, **_migration_options()) as connection:
        return await migrations.apply(connection, now=now)


def _speak_utc() -> None:
    """Keep an operator's PGTZ out: libpq sends it after our options, and it would win."""
    os.environ.pop("PGTZ", None)


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
        self._lent: dict[AsyncConnection, float] = {}  # since when, in the event loop's time

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
        try:
            await pool.open(wait=True, timeout=5)
        except BaseException:
            await pool.close(timeout=0)
            raise
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
                    # A server that takes connections and says nothing would hold up a migration.
                    await _ask(self._url)
                    await self.open()
                except (*_AWAY, OSError) as error:
                    if not told:
                        log.warning("database.unreachable", error=_one_line(error))
                        told = True
                    await asyncio.sleep(delay_s * random.uniform(0.8, 1.2))
                    delay_s = min(delay_s * 1.6, 1.0)
                    continue
                log.info("database.opened")
                told, delay_s = False, 0.2
            await self._until_lost()
            log.warning("database.lost")
            told = True
            await self.close()

    async def _until_lost(self) -> None:
        """Return when the database has failed somebody, or does not answer while somebody waits."""
        loop = asyncio.get_running_loop()
        while not self._failed.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._failed.wait(), 0.5)
            held_s = loop.time() - min(self._lent.values(), default=loop.time())
            if held_s > _LONGEST_S or (held_s > _LONG_S and not await self._answers()):
                self._lose()
        self._cut()

    async def _answers(self) -> bool:
        try:
            await _ask(self._url)
        except psycopg.errors.TooManyConnections:
            return True
        except (psycopg.Error, OSError):
            return False
        return True

    def _cut(self) -> None:
        """End every wait for the server: who waits meets a connection that broke."""
        for connection in self._lent:
            if connection.closed:
                continue
            with (
                contextlib.suppress(OSError, psycopg.OperationalError),
                socket.socket(fileno=os.dup(connection.pgconn.socket)) as wire,
            ):
                wire.shutdown(socket.SHUT_RDWR)

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[AsyncConnection]:
        """Lend an autocommit connection. Raises Unavailable while the server is away."""
        pool = self._pool
        if pool is None or not self.ready:
            raise Unavailable("the database is away")
        try:
            async with pool.connection() as connection:
                self._lent[connection] = asyncio.get_running_loop().time()
                try:
                    yield connection
                finally:
                    del self._lent[connection]
        except _CONTENDED as error:
            raise Contended(f"the database is busy: {_one_line(error)}") from error
        except _HEALTHY as error:
            raise Unavailable(f"the database is busy: {_one_line(error)}") from error
        except PoolTimeout as error:
            # All connections lent out is load, not loss; none at all is loss.
            if not pool.get_stats().get("pool_size"):
                self._lose(pool)
            raise Unavailable("the database is busy") from error
        except _AWAY as error:
            self._lose(pool)
            raise Unavailable("the database is away") from error

    def _lose(self, pool: AsyncConnectionPool[AsyncConnection] | None = None) -> None:
        """Have the pool replaced, unless the one that failed has been replaced already."""
        if pool is None or pool is self._pool:
            self._ready.clear()
            self._failed.set()

    @contextlib.asynccontextmanager
    async def transaction(self, *, pipelined: bool = False) -> AsyncIterator[AsyncConnection]:
        """Lend a connection inside a transaction that commits when the block ends.

        `pipelined`: statements wait until a row is asked for, and meet their faults there; the
        transaction's begin and end cost no trips of their own.
        """
        async with contextlib.AsyncExitStack() as stack:
            connection = await stack.enter_async_context(self.connection())
            if pipelined:
                await stack.enter_async_context(connection.pipeline())
            await stack.enter_async_context(connection.transaction())
            yield connection


async def _ask(url: str) -> None:
    """Ask the server whether it is there. Raises psycopg's errors, OSError when it is not.

    Patience is counted in turns of the event loop: when that is slow, the server is not to blame.
    """
    question = asyncio.ensure_future(_question(url))
    try:
        for _ in range(_TURNS):
            if (await asyncio.wait({question}, timeout=_ANSWER_S / _TURNS))[0]:
                return question.result()
        raise psycopg.OperationalError("the server does not answer")
    finally:
        question.cancel()


async def _question(url: str) -> None:
    connection = await AsyncConnection.connect(url, **_OPTIONS)
    try:
        await connection.execute("select 1")
    finally:
        connection.pgconn.finish()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
