"""A PostgreSQL for the tests: one server, one migrated template, one clone for each test."""

from __future__ import annotations

import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg.sql import SQL, Identifier

_MEMORY = Path("/dev/shm")
_ROOM_BYTES = 2 << 30
_ABANDONED_S = 6 * 3600


def scratch_directory() -> Path:
    """Make a directory for a throw-away cluster: in memory if there is room, and with a short path.

    Not pytest's: that one is closed to the user that a server started by root may have to run as.
    Clears away what runs that were killed long ago have left.
    """
    in_memory = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _ROOM_BYTES
    place = _MEMORY if in_memory else Path(tempfile.gettempdir())
    for left in place.glob("fpd-tests-*"):
        if left.stat().st_mtime < time.time() - _ABANDONED_S:
            shutil.rmtree(left, ignore_errors=True)
    directory = Path(tempfile.mkdtemp(prefix="fpd-tests-", dir=place))
    directory.chmod(0o755)
    return directory


def named(url: str, database: str) -> str:
    """Return the address of another database on the same server."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{database}"))


class Databases:
    """Makes and drops databases on one server."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> Databases:
        self._admin = psycopg.connect(self._url, autocommit=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._admin.close()

    @contextmanager
    def new(self, template: str = "template1") -> Iterator[str]:
        """Lend a new database like `template` (an address or a name); drop it, whoever uses it."""
        name = f"fpd_{uuid.uuid4().hex}"
        statement = SQL("create database {} template {}").format(
            Identifier(name), Identifier(urlsplit(template).path.lstrip("/"))
        )
        if self._admin.info.server_version >= 150000:
            statement += SQL(" strategy file_copy")  # twice as fast as through the WAL
        self._admin.execute(statement)
        try:
            yield named(self._url, name)
        finally:
            self._admin.execute(SQL("drop database {} with (force)").format(Identifier(name)))
