"""Messages a second from the outbox to a broker at QoS 1, beside the least that paho costs.

Nothing here passes or fails by its speed. CPU is told by part, since the machine may be shared.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from bench.machine import cpu_s
from flows.measured_site import NOON, Hands, Site
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion
from support.mosquitto import MARKS, Mosquitto
from support.mqtt import Clients, client_at
from support.waiting import wait_for

from fpd.flows import publisher
from fpd.store import publications
from fpd.store.db import Database
from fpd.store.publications import Publication

pytestmark = MARKS

COUNT = int(os.environ.get("FPD_MESSAGES", "40000"))
PAYLOAD = b'{"created":1773144000000,"nodeId":2,"sourceId":"/oscp/cp/Heartbeat/1/one","x":%d}'


@pytest.fixture
async def mosquitto(tmp_path: Path, free_port: Callable[[], int]) -> AsyncIterator[Mosquitto]:
    broker = Mosquitto(tmp_path, free_port())
    await broker.start()
    yield broker
    await broker.stop()


def bare(port: int) -> tuple[float, float]:
    """Publish with paho and a select loop alone; return messages/s and CPU µs a message."""
    acknowledged = 0

    def count(*_: object) -> None:
        nonlocal acknowledged
        acknowledged += 1

    client = Client(CallbackAPIVersion.VERSION2, client_id="bare")
    client.max_inflight_messages_set(0)
    client.on_publish = count
    client.connect("127.0.0.1", port)
    while not client.is_connected():
        client.loop(0.1)
    began, spent = time.perf_counter(), time.process_time()
    sent = 0
    while acknowledged < COUNT:
        while sent < COUNT and sent - acknowledged < 512:
            client.publish(f"bare/{sent % 100}", PAYLOAD % sent, qos=1)
            sent += 1
        readable, _, _ = select.select([client.socket()], [], [], 0.1)
        if readable:
            client.loop_read()
        if client.want_write():
            client.loop_write()
    took, spent = time.perf_counter() - began, time.process_time() - spent
    client.disconnect()
    return COUNT / took, spent / COUNT * 1e6


async def test_outbox_to_broker(
    database_url: str, mosquitto: Mosquitto, capsys: pytest.CaptureFixture[str]
) -> None:
    db = Database(database_url, clock=Hands())
    await db.open()
    clients = Clients()
    try:
        client = client_at(mosquitto.url, "fpd")
        clients.run(client)
        await wait_for(lambda: client.connected)
        site = Site(db, Hands(), client)
        async with db.transaction() as conn:
            await publications.owe(
                conn,
                [Publication(f"user/1/{n % 100}", PAYLOAD % n) for n in range(COUNT)],
                now=NOON,
            )
        async with db.connection() as conn:
            cursor = await conn.execute(
                "select pid from pg_stat_activity where datname = current_database()"
            )
            backends = [pid for (pid,) in await cursor.fetchall()]
        broker_pid = mosquitto.pid
        parts = (lambda: sum(map(cpu_s, backends)), lambda: cpu_s(broker_pid), time.process_time)
        before = [part() for part in parts]
        began = time.perf_counter()
        while await publisher.step(site.context):
            pass
        took = time.perf_counter() - began
        in_db, in_broker, in_us = (part() - at for part, at in zip(parts, before, strict=True))
        assert await site.fetch("select from publication") == []
        floor, floor_us = bare(mosquitto.port)
        with capsys.disabled():
            print(
                f"\nMQTT out, QoS 1: {COUNT / took:,.0f} msg/s; bare paho {floor:,.0f} msg/s: "
                f"{COUNT / took / floor:.2f} of it\n  CPU µs a message: fpd "
                f"{in_us / COUNT * 1e6:.0f} (bare paho {floor_us:.0f}), PostgreSQL "
                f"{in_db / COUNT * 1e6:.0f}, mosquitto {in_broker / COUNT * 1e6:.0f}"
            )
    finally:
        await clients.close()
        await db.close()
