"""Forward-only migrations: plain SQL files, applied once, by whichever daemon starts first."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import structlog
from psycopg import AsyncConnection

from fpd.errors import Misconfigured

log = structlog.get_logger()

_LOCK = 0x66706400  # "fpd", so that no other program's advisory lock is ours by accident
_NAME = re.compile(r"(\d{4})_\w+\.sql")


@dataclass(frozen=True, slots=True)
class Migration:
    number: int
    name: str
    sql: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


def directory() -> Path:
    """Return the migrations of this installation: in the wheel, or beside the source tree."""
    package = Path(__file__).parent.parent
    for place in (package / "migrations", package.parent / "migrations"):
        if place.is_dir():
            return place
    raise Misconfigured(f"no migrations found beside {package}: the installation is incomplete")


def available() -> tuple[Migration, ...]:
    """Return all migrations in order. Raises Misconfigured when numbers are missing."""
    found = []
    for path in sorted(directory().glob("*.sql")):
        match = _NAME.fullmatch(path.name)
        if match is None:
            raise Misconfigured(f"{path}: a migration is called NNNN_name.sql")
        found.append(Migration(int(match[1]), path.stem, path.read_text(encoding="utf-8")))
    if [m.number for m in found] != list(range(1, len(found) + 1)):
        raise Misconfigured(f"{directory()}: migration numbers must run 0001, 0002, …")
    return tuple(found)


async def apply(connection: AsyncConnection, *, now: datetime) -> int:
    """Apply what is missing, each file in a transaction of its own; return how many.

    `connection` is in autocommit mode. Other daemons wait at an advisory lock. Raises
    Misconfigured when the database is newer than this fpd or a landed file was edited.
    """
    await connection.execute("select pg_advisory_lock(%s)", (_LOCK,))
    try:
        return await _apply_missing(connection, now)
    finally:
        if not connection.broken:
            await connection.execute("select pg_advisory_unlock(%s)", (_LOCK,))


async def _apply_missing(connection: AsyncConnection, now: datetime) -> int:
    await connection.execute(
        """
        create table if not exists migration (
            number     integer primary key,
            name       text not null,
            sha256     text not null,
            applied_at timestamptz not null
        )
        """
    )
    cursor = await connection.execute("select number, sha256 from migration order by number")
    landed = {number: sha256 for number, sha256 in await cursor.fetchall()}
    migrations = available()
    _compare(landed, migrations)
    missing = [m for m in migrations if m.number not in landed]
    for migration in missing:
        async with connection.transaction():
            # The file is ours, shipped with the package: as trusted as the code.
            await connection.execute(migration.sql.encode())
            await connection.execute(
                "insert into migration values (%s, %s, %s, %s)",
                (migration.number, migration.name, migration.sha256, now),
            )
        log.info("migration.applied", name=migration.name)
    return len(missing)


def _compare(landed: dict[int, str], migrations: tuple[Migration, ...]) -> None:
    known = {m.number: m for m in migrations}
    for number, sha256 in landed.items():
        if number not in known:
            raise Misconfigured(
                f"the database has migration {number:04}, which this fpd does not know: "
                "it was used by a newer version"
            )
        if known[number].sha256 != sha256:
            raise Misconfigured(f"migration {known[number].name} was edited after it was applied")
