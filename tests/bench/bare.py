"""The least that a durable door costs: a body is read as JSON, kept with others in one commit,
and answered 204. Nobody is identified, nothing is judged or passed on.

Run as `python bare.py PORT DATABASE_URL` until it is terminated.
"""

from __future__ import annotations

import asyncio
import sys

import msgspec
import psycopg
from aiohttp import web

Waiting = list[tuple[str, bytes, "asyncio.Future[None]"]]


async def commit(url: str, waiting: Waiting, filled: asyncio.Event) -> None:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:
        await conn.execute("create table bare (id text primary key, body bytea)")
        while await filled.wait():
            filled.clear()
            batch, waiting[:] = waiting[:], []
            await conn.execute(
                "insert into bare select * from unnest(%b::text[], %b::bytea[])",
                ([id for id, _, _ in batch], [body for _, body, _ in batch]),
                prepare=True,
            )
            for _, _, kept in batch:
                kept.set_result(None)


async def serve(port: int, url: str) -> None:
    waiting: Waiting = []
    filled = asyncio.Event()

    async def take(request: web.Request) -> web.Response:
        body = await request.read()
        msgspec.json.decode(body)
        kept: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting.append((request.headers["X-Request-ID"], body, kept))
        filled.set()
        await kept
        return web.Response(status=204)

    app = web.Application()
    app.router.add_post("/{path:.*}", take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await commit(url, waiting, filled)


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), sys.argv[2]))
