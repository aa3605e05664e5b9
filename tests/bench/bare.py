"""The least that a durable door costs: a body is read as JSON, kept with others in one commit,
and answered 204. Nobody is identified and nothing is judged. With the port of a sink, what was
kept is posted there, at most 16 at a time, and what was heard is noted, many in one commit.

Run as `python bare.py PORT DATABASE_URL [SINK_PORT]` until it is terminated.
"""

from __future__ import annotations

import asyncio
import sys

import msgspec
import psycopg
from aiohttp import ClientSession, TCPConnector, web

Waiting = list[tuple[str, bytes, "asyncio.Future[None]"]]
Kept = asyncio.Queue[tuple[str, bytes]]


async def commit(url: str, waiting: Waiting, filled: asyncio.Event, onward: Kept | None) -> None:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:
        await conn.execute(
            "create table bare (id text primary key, body bytea, heard boolean default false)"
        )
        while await filled.wait():
            filled.clear()
            batch, waiting[:] = waiting[:], []
            await conn.execute(
                "insert into bare (id, body) select * from unnest(%b::text[], %b::bytea[])",
                ([id for id, _, _ in batch], [body for _, body, _ in batch]),
                prepare=True,
            )
            for id, body, kept in batch:
                kept.set_result(None)
                if onward is not None:
                    onward.put_nowait((id, body))


async def pass_on(sink_port: int, onward: Kept, heard: Kept) -> None:
    async with ClientSession(connector=TCPConnector(limit=16)) as session:
        while True:
            id, body = await onward.get()
            headers = {"X-Request-ID": id, "Content-Type": "application/json"}
            async with session.post(
                f"http://127.0.0.1:{sink_port}/", data=body, headers=headers
            ) as said:
                assert said.status == 204
            heard.put_nowait((id, body))


async def note(url: str, heard: Kept) -> None:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:
        while True:
            ids = [(await heard.get())[0]]
            while not heard.empty():
                ids.append(heard.get_nowait()[0])
            await conn.execute(
                "update bare set heard = true where id = any(%b)", (ids,), prepare=True
            )


async def serve(port: int, url: str, sink_port: int | None) -> None:
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
    onward: Kept | None = None
    async with asyncio.TaskGroup() as tasks:
        if sink_port is not None:
            onward, heard = asyncio.Queue(), asyncio.Queue()
            for _ in range(16):
                tasks.create_task(pass_on(sink_port, onward, heard))
            tasks.create_task(note(url, heard))
        await commit(url, waiting, filled, onward)


if __name__ == "__main__":
    asyncio.run(
        serve(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else None)
    )
