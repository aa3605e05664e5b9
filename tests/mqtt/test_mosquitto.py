"""What only a real broker has: sessions that outlive it, TLS, wills."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme
from structlog.testing import capture_logs
from support.mosquitto import MARKS, Mosquitto
from support.mqtt import Clients, Inbox, client_at
from support.waiting import wait_for

pytestmark = MARKS


async def test_nothing_is_lost_while_we_are_away(mosquitto: Mosquitto, clients: Clients) -> None:
    before, after = Inbox(), Inbox()
    sender = await clients.connect(mosquitto, "sender")
    us = await clients.connect(mosquitto, "us", filters=["x/#"], inbox=before)
    await sender.publish("x/1", b"1", qos=1, retain=False)
    await wait_for(lambda: before.payloads == [b"1"])
    await clients.end(us)
    await sender.publish("x/2", b"2", qos=1, retain=False)
    await clients.connect(mosquitto, "us", filters=["x/#"], inbox=after)
    await wait_for(lambda: after.payloads == [b"2"])


async def test_what_was_not_acknowledged_comes_again(
    mosquitto: Mosquitto, clients: Clients
) -> None:
    """As after a kill -9 between receipt and commit."""
    dying, living = Inbox(acks=False), Inbox()
    sender = await clients.connect(mosquitto, "sender")
    us = await clients.connect(mosquitto, "us", filters=["x/#"], inbox=dying)
    for number in (b"1", b"2"):
        await sender.publish("x", number, qos=1, retain=False)
    await wait_for(lambda: len(dying.messages) == 2)
    await clients.end(us)
    us = await clients.connect(mosquitto, "us", filters=["x/#"], inbox=living)
    await wait_for(lambda: living.payloads == [b"1", b"2"])
    await clients.end(us)
    again = Inbox()
    await clients.connect(mosquitto, "us", filters=["x/#"], inbox=again)
    await sender.publish("x", b"3", qos=1, retain=False)
    await wait_for(lambda: again.payloads == [b"3"])


async def test_a_client_can_ask_to_be_sent_again(mosquitto: Mosquitto, clients: Clients) -> None:
    inbox = Inbox(acks=False)
    us = await clients.connect(mosquitto, "us", filters=["x"], inbox=inbox)
    await us.publish("x", b"1", qos=1, retain=False)
    await wait_for(lambda: inbox.payloads == [b"1"])
    with capture_logs() as logs:
        us.renew()
        await wait_for(lambda: inbox.payloads == [b"1", b"1"])
    assert "mqtt.lost" not in [entry["event"] for entry in logs]


async def test_a_restart_of_the_broker_loses_nothing(
    mosquitto: Mosquitto, clients: Clients
) -> None:
    inbox = Inbox()
    us = await clients.connect(mosquitto, "us", filters=["x"], inbox=inbox)
    sender = await clients.connect(mosquitto, "sender")
    for number in range(3):
        await sender.publish("x", b"%d before" % number, qos=1, retain=False)
        await mosquitto.stop()
        await wait_for(lambda: not us.connected and not sender.connected)
        await mosquitto.start()
        await wait_for(lambda: us.connected and sender.connected, timeout=10)
    await sender.publish("x", b"after", qos=1, retain=False)
    await wait_for(lambda: inbox.payloads[-1:] == [b"after"])
    assert set(inbox.payloads) == {b"0 before", b"1 before", b"2 before", b"after"}


async def test_what_a_former_configuration_asked_for_does_not_block_us(
    mosquitto: Mosquitto, clients: Clients
) -> None:
    us = await clients.connect(mosquitto, "us", filters=["old/#"], inbox=Inbox())
    await clients.end(us)
    sender = await clients.connect(mosquitto, "sender")
    for number in range(30):  # more than a broker has in flight
        await sender.publish("old/x", b"%d" % number, qos=1, retain=False)
    inbox = Inbox()
    await clients.connect(mosquitto, "us", filters=["new/#"], inbox=inbox)

    async def is_heard() -> bool:  # our subscription and the message may overtake each other
        await sender.publish("new/x", b"fresh", qos=1, retain=False)
        return b"fresh" in inbox.payloads

    await wait_for(is_heard)
    assert {*inbox.payloads} == {b"fresh"}


async def test_the_will_says_offline_when_we_are_cut_off(
    mosquitto: Mosquitto, clients: Clients
) -> None:
    inbox = Inbox()
    await clients.connect(mosquitto, "watcher", filters=["fpd/us/status"], inbox=inbox)
    us = await clients.connect(mosquitto, "us")
    await wait_for(lambda: inbox.payloads == [b"online"])
    connection = us._connection
    assert connection is not None
    connection.drop("as a broken cable would")
    await wait_for(lambda: inbox.payloads == [b"online", b"offline", b"online"])


@pytest.fixture
def tls_broker(tmp_path: Path, free_port: Callable[[], int]) -> tuple[Mosquitto, Path]:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "server.pem"))
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    pem = tmp_path / "server.pem"
    broker = Mosquitto(tmp_path, free_port(), lines=f"certfile {pem}\nkeyfile {pem}")
    return broker, tmp_path / "ca.pem"


async def test_tls_with_an_authority_of_ones_own(
    tls_broker: tuple[Mosquitto, Path], clients: Clients
) -> None:
    broker, authority = tls_broker
    await broker.start()
    try:
        inbox = Inbox()
        client = client_at(f"mqtts://localhost:{broker.port}", ca_file=authority)
        client.subscribe(["x"], inbox)
        clients.run(client)
        await wait_for(lambda: client.connected)
        large = b"x" * 300_000  # many TLS records, and a rest that only TLS knows about
        await asyncio.gather(
            *[client.publish("x", large, qos=1, retain=False) for _ in range(3)],
            *[client.publish("x", b"%d" % n, qos=1, retain=False) for n in range(200)],
        )
        await wait_for(lambda: len(inbox.messages) == 203)
        assert inbox.payloads[-1] == b"199"

        stranger = client_at(f"mqtts://localhost:{broker.port}", "stranger")
        with capture_logs() as logs:
            clients.run(stranger)
            await wait_for(lambda: len(logs) > 0)
        assert "CERTIFICATE_VERIFY_FAILED" in logs[0]["error"]
    finally:
        await clients.close()
        await broker.stop()
