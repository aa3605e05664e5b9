"""What comes over the wire is taken apart as MQTT says, however it was cut on its way."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from fpd.mqtt.wire import Publish, Wire

LONG = 300 * 1024


@pytest.fixture
def ends() -> Iterator[tuple[Wire, socket.socket]]:
    near, far = socket.socketpair()
    near.setblocking(False)
    wire = Wire(near)
    yield wire, far
    wire.close()
    far.close()


def length(size: int) -> bytes:
    found = b""
    while True:
        size, rest = divmod(size, 128)
        found += bytes([rest | (128 if size else 0)])
        if not size:
            return found


def publish(topic: bytes, payload: bytes, message_id: int = 0) -> bytes:
    told = message_id.to_bytes(2, "big") if message_id else b""
    body = len(topic).to_bytes(2, "big") + topic + told + payload
    return (b"\x32" if message_id else b"\x30") + length(len(body)) + body


PINGRESP = b"\xd0\x00"
SENT = [
    Publish(b"a", b"1", 7, 1),
    Publish(b"b/c", b"x" * 200, 65_535, 1),
    Publish(b"d", b"", 0, 0),
    Publish("ü".encode(), b"y" * 20_000, 0, 0),
]
STREAM = PINGRESP + b"".join(publish(*sent[:3]) + PINGRESP for sent in SENT)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000, len(STREAM)])
def test_packets_may_be_cut_anywhere(ends: tuple[Wire, socket.socket], size: int) -> None:
    wire, far = ends
    found = []
    for start in range(0, len(STREAM), size):
        far.sendall(STREAM[start : start + size])
        found += wire.read()
    assert found == SENT
    assert wire.recv(100) == PINGRESP * 5
    with pytest.raises(BlockingIOError):
        wire.recv(1)


def test_of_what_is_too_long_only_the_beginning_is_kept(ends: tuple[Wire, socket.socket]) -> None:
    wire, far = ends
    data = publish(b"long", b"z" * LONG, 1) + publish(b"next", b"2", 2)
    found = []
    for start in range(0, len(data), 10_000):
        far.sendall(data[start : start + 10_000])
        found += wire.read()
    assert [(one.topic, one.message_id) for one in found] == [(b"long", 1), (b"next", 2)]
    assert 64 * 1024 < len(found[0].payload) < LONG // 2


def test_acknowledgements_leave_together(ends: tuple[Wire, socket.socket]) -> None:
    wire, far = ends
    wire.acknowledge([1, 258, 65_535])
    assert not wire.owes
    assert far.recv(100) == b"\x40\x02\x00\x01\x40\x02\x01\x02\x40\x02\xff\xff"


def test_acknowledgements_wait_for_a_slow_reader(ends: tuple[Wire, socket.socket]) -> None:
    wire, far = ends
    packet = b"p" * 4_000_000
    sent = wire.send(packet)
    wire.acknowledge([1])
    assert wire.owes, "a packet is on its way"
    got = bytearray()
    while len(got) < len(packet) + 4:
        got += far.recv(1 << 20)
        if sent < len(packet):
            try:
                sent += wire.send(packet[sent:])
            except BlockingIOError:
                continue
        else:
            wire.flush()
    assert bytes(got) == packet + b"\x40\x02\x00\x01"
    assert not wire.owes


def test_the_end_is_told_to_paho(ends: tuple[Wire, socket.socket]) -> None:
    wire, far = ends
    assert not wire.has_news
    far.sendall(PINGRESP + publish(b"a", b"1"))
    far.close()
    assert [one.topic for one in wire.read()] == [b"a"]
    assert wire.read() == []
    assert wire.has_news
    assert wire.recv(9) == PINGRESP
    assert wire.recv(9) == b""


@pytest.mark.parametrize(
    "packet", [b"\x34\x06\x00\x01a\x00\x05x", b"\x30\x03\x00\x09a", b"\x32\x05\x00\x01a\x00\x00"]
)
def test_what_no_broker_sends_is_no_message(
    ends: tuple[Wire, socket.socket], packet: bytes
) -> None:
    wire, far = ends
    far.sendall(packet + publish(b"a", b"1"))
    assert [one.topic for one in wire.read()] == [b"a"]
