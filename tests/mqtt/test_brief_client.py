"""A command beside the daemon publishes and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.mosquitto import Mosquitto, needs_mosquitto
from support.mqtt import Clients, Inbox
from support.waiting import wait_for

from fpd.errors import Unavailable
from fpd.mqtt.brief import BriefClient


def brief(url: str) -> BriefClient:
    return BriefClient(url, username=None, password=None, ca_file=None, instance="one")


@needs_mosquitto
async def test_it_is_heard_and_the_daemon_keeps_its_session(
    mosquitto: Mosquitto, clients: Clients
) -> None:
    inbox = Inbox()
    daemon = await clients.connect(mosquitto, "one", filters=["#"], inbox=inbox)
    client = brief(mosquitto.url)
    for payload in (b"1", b"0"):
        await client.publish("myems/command/battery", payload, qos=1, retain=False)
    client.close()
    await wait_for(lambda: len(inbox.messages) >= 3, what="what was published")
    heard = [payload for topic, payload in inbox.messages if topic == "myems/command/battery"]
    assert heard == [b"1", b"0"]
    assert b"offline" not in inbox.payloads
    assert daemon.connected and daemon.connections == 1


async def test_a_broker_that_is_away_is_told(free_port: Callable[[], int]) -> None:
    client = brief(f"mqtt://127.0.0.1:{free_port()}")
    with pytest.raises(Unavailable, match="away"):
        await client.publish("a", b"", qos=1, retain=False)
    client.close()
