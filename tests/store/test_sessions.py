"""Sessions of the database: as we need them, whatever its server is set to."""

from __future__ import annotations

import psycopg
from flows.measured_site import Hands

from fpd.store.db import Database


async def test_no_session_compiles_its_plans_on_whatever_server(database_url: str) -> None:
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as conn:
        name = psycopg.sql.Identifier(conn.info.dbname)
        await conn.execute(psycopg.sql.SQL("alter database {} set jit to on").format(name))
    db = Database(database_url, clock=Hands())
    await db.open()
    try:
        async with db.connection() as conn:
            assert await (await conn.execute("show jit")).fetchone() == ("off",)
    finally:
        await db.close()
