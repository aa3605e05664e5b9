"""Fixtures for every room: a real PostgreSQL, a real broker, the clock.

FPD_TEST_DATABASE_URL names a server to use instead of the embedded one; its user must be
allowed to create databases. FPD_PG_BIN chooses the programs of the embedded one. FPD_TEST_FRESH=1
starts every fpd anew instead of forking it (see support/processes.py).
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
import structlog
from support.database import Databases, scratch_directory

from fpd.embedded.broker import EmbeddedBroker
from fpd.embedded.postgres import EmbeddedPostgres
from fpd.store.db import migrate

# Compiling fpd anew is half of what the start of a process costs, and the stories start hundreds.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _now() -> datetime:
    # A real datetime also under freezegun, whose own msgspec and psycopg do not know.
    return _EPOCH + timedelta(seconds=time.time())


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Leave neighbours to one worker, so that what a module shares is made once."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log) if config.getoption("dist") == "load" else None


@pytest.fixture(autouse=True)
def log_of_its_own() -> Iterator[None]:
    """Leave structlog and logging to the next test as they were: commands configure them."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


@pytest.fixture
def clock() -> Callable[[], datetime]:
    """What tells the time: real, or what freezegun says."""
    return _now


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def postgres_url() -> AsyncIterator[str]:
    """The server's own address. Each xdist worker has a server of its own, started when needed."""
    given = os.environ.get("FPD_TEST_DATABASE_URL")
    if given:
        yield given
        return
    directory = scratch_directory()
    server = EmbeddedPostgres(directory / "postgres", durable=False)
    try:
        yield await server.start()
    finally:
        await server.stop()
        shutil.rmtree(directory)


@pytest.fixture(scope="session")
def databases(postgres_url: str) -> Iterator[Databases]:
    """Makes databases that no migration has touched."""
    with Databases(postgres_url) as databases:
        yield databases


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def template_url(databases: Databases) -> AsyncIterator[str]:
    """The database that every test's database is a copy of. Nobody may be connected to it."""
    with databases.new() as url:
        await migrate(url, now=_now())
        yield url


@pytest.fixture
def database_url(databases: Databases, template_url: str) -> Iterator[str]:
    """A database of this test alone, migrated and empty."""
    with databases.new(template_url) as url:
        yield url


@pytest.fixture
async def broker() -> AsyncIterator[EmbeddedBroker]:
    """A broker of this test alone. `stop` and `start` make an outage; `address` stays."""
    broker = EmbeddedBroker(port=0, users={"subscriber": "subscriber's password"})
    await broker.start()
    yield broker
    await broker.stop()


@pytest.fixture
def free_port() -> Callable[[], int]:
    """Returns a TCP port on loopback that nobody listens on, another one at each call."""

    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
            return port

    return find
