"""The broker is away for an hour of the daemon's clock: what waits, what goes, what is restated."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from flows.measured_site import Hands, Site
from support.listener import PROGRAM, Listener, in_order
from support.mosquitto import MARKS, Mosquitto
from support.mqtt import Clients, Inbox, client_at
from support.waiting import wait_for

from fpd.errors import Unavailable
from fpd.flows import publisher
from fpd.flows.tree import Tree
from fpd.store import publications
from fpd.store.db import Database
from fpd.store.publications import Publication

pytestmark = [
    *MARKS,
    pytest.mark.skipif(PROGRAM is None, reason="no mosquitto_sub is installed"),
]

BEFORE, MINUTES, A_MINUTE, TOPICS = 100, 60, 20, 10
COUNT = BEFORE + MINUTES * A_MINUTE


@pytest.fixture
async def clients() -> AsyncIterator[Clients]:
    clients = Clients()
    yield clients
    await clients.close()


async def owe(site: Site, first: int, count: int) -> None:
    messages = [Publication(f"x/{n % TOPICS}", b"%d" % n) for n in range(first, first + count)]
    async with site.db.transaction() as conn:
        await publications.owe(conn, messages, now=site.clock.at)


async def look(tree: Tree) -> None:
    tree._rest_until = 0.0
    await tree.step()


async def an_hour(site: Site, tree: Tree) -> None:
    """Each minute messages are owed, a state changes, and what is too much goes."""
    for minute in range(MINUTES):
        site.clock.move(minutes=1)
        await owe(site, BEFORE + minute * A_MINUTE, A_MINUTE)
        await site.execute("update capacity_group set name = %(name)s", name=f"after {minute}")
        await look(tree)
        with pytest.raises(Unavailable):
            await publisher.step(site.context)
        await publisher.shed(site.context)


async def publish_all(site: Site) -> None:
    await wait_for(lambda: site.context.mqtt.connected)
    while await publisher.step(site.context):
        pass


async def held(clients: Clients, broker: Mosquitto) -> dict[str, bytes]:
    """What somebody is told who comes now."""
    inbox = Inbox()
    late = await clients.connect(broker, "late", filters=["fpd/fpd/#"], inbox=inbox)
    await late.publish("fpd/fpd/end", b"", qos=1, retain=False)
    await wait_for(lambda: ("fpd/fpd/end", b"") in inbox.messages)
    return dict(inbox.messages)


async def judge(site: Site, listener: Listener, spool: int) -> None:
    """All that is within the bound is heard, in order; what is beyond it is counted and told."""
    dropped = int(site.counted("fpd_mqtt_dropped", reason="many"))
    expected = MINUTES * A_MINUTE - dropped
    await wait_for(lambda: listener.count() == expected)
    heard = listener.numbers()
    assert all(in_order(numbers) for numbers in heard.values())
    newest = range(COUNT - expected, COUNT)
    assert sorted(n for numbers in heard.values() for n in numbers) == list(newest)
    told = await site.fetch("select data from event where kind = 'publications.dropped'")
    assert sum(data["count"] for (data,) in told) == dropped
    assert (dropped > 0) == (spool < COUNT)
    assert expected >= min(spool, MINUTES * A_MINUTE) - 1  # one place is the tree's


@pytest.mark.parametrize("spool", [1_000_000, 1000])
async def test_an_hour_without_a_broker(
    spool: int,
    database_url: str,
    tmp_path: Path,
    free_port: Callable[[], int],
    clients: Clients,
) -> None:
    broker = Mosquitto(tmp_path, free_port(), lines="max_queued_messages 0\npersistence false")
    await broker.start()
    listener, again = (Listener(broker, "x/#", tmp_path / name) for name in ("before", "after"))
    for name in ("before", "after"):
        (tmp_path / name).mkdir()
    await listener.start()
    db = Database(database_url, clock=Hands())
    await db.open()
    site = Site(db, Hands(), client_at(broker.url, "fpd"))
    site.configure(spool=spool)
    await site.add_peers()
    await site.add_group()
    tree = Tree(site.context)
    clients.run(site.context.mqtt)
    try:
        await owe(site, 0, BEFORE)
        await publish_all(site)
        await look(tree)
        await publish_all(site)
        await wait_for(lambda: listener.count() == BEFORE)
        await broker.stop()
        await wait_for(lambda: not site.context.mqtt.connected)
        await an_hour(site, tree)
        await broker.start()  # it remembers nothing
        await listener.stop()
        await again.start()
        await publish_all(site)
        await look(tree)
        await publish_all(site)
        await judge(site, again, spool)
        tree_now = await held(clients, broker)
        group = json.loads(tree_now["fpd/fpd/group/1"])
        assert group["name"] == f"after {MINUTES - 1}"
        assert {"fpd/fpd/peer/1", "fpd/fpd/peer/2", "fpd/fpd/status"} <= tree_now.keys()
        await again.stop()
    finally:
        await listener.stop()
        await clients.close()
        await db.close()
        await broker.stop()
