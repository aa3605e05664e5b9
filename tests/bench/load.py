"""Load for the benchmarks, in a process of its own: providers that post, an optimizer that hears.

Speaks HTTP/1.1 by hand, because a client library would take more of the machine than the daemon
that it measures. Run as `python load.py PLAN.json`; prints one JSON object.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"
MARK = re.compile(rb'"capacity":(\d+)\.25,')
RUN = b"bench-%d" % time.time_ns()
LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


@dataclass
class Plan:
    """`rate`: forecasts a second over all clients, None: as fast as they are answered.

    `doors`: base URLs of the daemons, taken in turn; `senders`: (token, group) of each client.
    """

    doors: list[tuple[str, int]]
    senders: list[tuple[str, str]]
    for_s: float
    blocks: int = 2
    rate: float | None = None
    sink_port: int | None = None


@dataclass
class Tally:
    sent: dict[int, float] = field(default_factory=dict)
    answered_s: list[float] = field(default_factory=list)
    heard_s: list[float] = field(default_factory=list)
    last_heard: float = 0.0
    refused: dict[str, int] = field(default_factory=dict)


def forecast(group: str, number: int, blocks: int) -> bytes:
    """Return a forecast that follows upon those before it, around two days: little of what an
    optimizer is still to hear is superseded meanwhile.
    """
    start = datetime.now(UTC).replace(microsecond=0, second=0)
    start += timedelta(minutes=15) * (number * blocks % 192)
    step = timedelta(minutes=15)
    body = {
        "group_id": group,
        "type": "CONSUMPTION",
        "forecasted_blocks": [
            {
                "capacity": 3.5 + i % 7 if i else number + 0.25,
                "phase": "ALL",
                "unit": "KW",
                "start_time": (start + i * step).isoformat(),
                "end_time": (start + (i + 1) * step).isoformat(),
            }
            for i in range(blocks)
        ],
    }
    return json.dumps(body, separators=(",", ":")).encode()


class Client:
    """One provider on one connection, one request at a time."""

    def __init__(self, index: int, plan: Plan, tally: Tally) -> None:
        self._index = index
        self._plan = plan
        self._tally = tally
        self._token, group = plan.senders[index]
        self._bodies = [
            forecast(group, n, plan.blocks).split(b"%d.25," % n) for n in range(192 // plan.blocks)
        ]

    async def run(self, until: float) -> None:
        host, port = self._plan.doors[self._index % len(self._plan.doors)]
        reader, writer = await asyncio.open_connection(host, port)
        count = len(self._plan.senders)
        number = self._index
        gap = count / self._plan.rate if self._plan.rate else 0.0
        at = time.perf_counter() + gap * self._index / count
        while (now := time.perf_counter()) < until:
            if at > now:
                await asyncio.sleep(at - now)
            self._tally.sent[number] = started = time.perf_counter()
            writer.write(self._request(number, self._bodies[number // count % len(self._bodies)]))
            head = await reader.readuntil(b"\r\n\r\n")
            status = head[9:12]
            if status == b"204":
                self._tally.answered_s.append(time.perf_counter() - started)
            else:
                length = LENGTH.search(head)
                said = await reader.readexactly(int(length[1])) if length else b""
                key = (status + b" " + said).decode()
                self._tally.refused[key] = self._tally.refused.get(key, 0) + 1
            number += count
            at = max(at + gap, time.perf_counter() - 1) if gap else 0.0
        writer.close()

    def _request(self, number: int, around: list[bytes]) -> bytes:
        body = (b"%d.25," % number).join(around)
        return (
            b"POST /oscp/fp/2.0/update_group_capacity_forecast HTTP/1.1\r\nHost: fpd\r\n"
            b"Authorization: Token %s\r\nX-Request-ID: %s-%d\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
            % (self._token.encode(), RUN, number, len(body), body)
        )


class Sink(asyncio.Protocol):
    """An optimizer that answers 204 to everything at once and notes when it heard it."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            length = LENGTH.search(self._buffer, 0, end)
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(self._buffer) < whole:
                return
            mark = MARK.search(self._buffer, end, whole)
            self._buffer = self._buffer[whole:]
            self._transport.write(NO_CONTENT)
            now = time.perf_counter()
            started = self._tally.sent.get(int(mark[1])) if mark else None
            if started is not None:
                self._tally.heard_s.append(now - started)
                self._tally.last_heard = now


async def run(plan: Plan) -> dict[str, Any]:
    tally = Tally()
    server = None
    if plan.sink_port is not None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Sink(tally), "127.0.0.1", plan.sink_port)
    began = time.perf_counter()
    clients = [Client(i, plan, tally) for i in range(len(plan.senders))]
    await asyncio.gather(*(client.run(began + plan.for_s) for client in clients))
    took_s = time.perf_counter() - began
    heard_in_time = len(tally.heard_s)
    if server is not None:
        accepted = len(tally.answered_s)
        patience = time.perf_counter() + 30
        while len(tally.heard_s) < accepted and time.perf_counter() < patience:
            await asyncio.sleep(0.05)
        server.close()
    return {
        "accepted": len(tally.answered_s),
        "took_s": took_s,
        "refused": tally.refused,
        "answered": quantiles(tally.answered_s),
        "heard": len(tally.heard_s),
        "heard_in_time": heard_in_time,
        "heard_took_s": max(tally.last_heard - began, 0.0),
        "passed_on": quantiles(tally.heard_s),
    }


def quantiles(seconds: list[float]) -> dict[str, float]:
    """Return p50, p99 and the longest, in ms."""
    if not seconds:
        return {}
    ordered = sorted(seconds)
    return {
        "p50": 1000 * ordered[len(ordered) // 2],
        "p99": 1000 * ordered[len(ordered) * 99 // 100],
        "max": 1000 * ordered[-1],
    }


if __name__ == "__main__":
    given = Plan(**json.loads(Path(sys.argv[1]).read_text()))
    print(json.dumps(asyncio.run(run(given))))
