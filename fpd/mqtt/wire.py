"""The socket between paho and the broker: what others publish is read here, many at a time.

paho reads a message with three calls of the system and acknowledges each with another; that alone
takes a core at 20,000 messages a second. So PUBLISH and PUBACK (MQTT 3.1.1 §3.3, §3.4) pass by
paho, which is given every other packet as if it read the socket itself.
"""

from __future__ import annotations

import socket
import ssl
import sys
from array import array
from collections.abc import Sequence
from typing import Final, NamedTuple

_PUBLISH: Final = 3
_PUBACK: Final = 0x4002  # with its length
_CHUNK: Final = 32 * 1024  # some milliseconds of work
_LONGEST: Final = 256 * 1024  # bytes of a packet that is kept in memory
_NOT_NOW: Final = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Publish(NamedTuple):
    """A message from the broker. The end of a very long payload is missing."""

    topic: bytes
    payload: bytes
    message_id: int
    qos: int


class Wire:
    """A connected socket, non-blocking once paho has said so."""

    def __init__(self, plain: socket.socket) -> None:
        self._plain = plain
        self._rest = b""  # the beginning of a packet
        self._left_out = 0  # bytes to come of a packet that is too long
        self._others = bytearray()  # packets that are paho's
        self._acks = b""
        self._is_midway = False  # paho has sent a part of a packet
        self._fault: OSError | None = None
        self._has_ended = False

    def recv(self, size: int) -> bytes:
        """Give paho what is its own."""
        if self._others:
            data = bytes(self._others[:size])
            del self._others[:size]
            return data
        if self._fault is not None:
            raise self._fault
        if self._has_ended:
            return b""
        raise BlockingIOError

    def send(self, data: bytes) -> int:
        """Send a packet of paho's or the rest of one, behind what is on its way."""
        if self._acks and not self._is_midway and not self.flush():
            raise BlockingIOError
        sent = self._plain.send(data)
        self._is_midway = sent < len(data)
        return sent

    def fileno(self) -> int:
        return self._plain.fileno()

    def setblocking(self, flag: bool) -> None:
        self._plain.setblocking(flag)

    def close(self) -> None:
        self._has_ended = True
        self._plain.close()

    def shutdown(self) -> None:
        """End it in both directions. Raises OSError when it has ended already."""
        self._has_ended = True
        self._plain.shutdown(socket.SHUT_RDWR)

    @property
    def has_news(self) -> bool:
        """Whether there is something for paho: packets, or the end."""
        return bool(self._others) or self._has_ended or self._fault is not None

    @property
    def is_pending(self) -> bool:
        """Whether more can be read, though the socket says nothing (TLS)."""
        plain = self._plain
        return not self.has_news and isinstance(plain, ssl.SSLSocket) and plain.pending() > 0

    def acknowledge(self, message_ids: Sequence[int]) -> None:
        """Have the broker told that it may forget these; `flush` when `owes` stays true."""
        words = array("H", [_PUBACK]) * (2 * len(message_ids))
        words[1::2] = array("H", message_ids)
        if sys.byteorder == "little":
            words.byteswap()
        self._acks += words.tobytes()
        self.flush()

    @property
    def owes(self) -> bool:
        """Whether acknowledgements wait for the socket."""
        return bool(self._acks)

    def flush(self) -> bool:
        """Send acknowledgements, unless a packet is on its way; return whether all have left."""
        if self._acks and not self._is_midway:
            try:
                self._acks = self._acks[self._plain.send(self._acks) :]
            except _NOT_NOW:
                return False
            except OSError as error:
                self._fault = self._fault or error
                self._acks = b""
        return not self._acks

    def read(self) -> list[Publish]:
        """Return the messages that have come; never waits. Faults are left to paho to find."""
        try:
            data = self._plain.recv(_CHUNK)
        except _NOT_NOW:
            return []
        except OSError as error:
            self._fault = error
            return []
        if not data:
            self._has_ended = True
            return []
        skipped = min(self._left_out, len(data))
        self._left_out -= skipped
        return self._split(self._rest + data[skipped:])

    def _split(self, data: bytes) -> list[Publish]:
        found: list[Publish] = []
        start, end = 0, len(data)
        while end - start >= 2:
            length, body = data[start + 1], start + 2
            if length > 127:
                length, body = _length(data, start + 1)
                if not body:
                    break
            following = body + length
            if following > end:
                if length <= _LONGEST or end - body < _LONGEST // 2:
                    break
                self._left_out, following = following - end, end
            if data[start] >> 4 != _PUBLISH:
                self._pass_on(data[start:following])
            elif (message := _publish(data[start], data[body:following])) is not None:
                found.append(message)
            start = following
        self._rest = data[start:]
        return found

    def _pass_on(self, packet: bytes) -> None:
        self._others += packet
        if self._left_out:
            self._fault = ConnectionError("not MQTT")


def _publish(head: int, body: bytes) -> Publish | None:
    """Return the message in a packet, None when there is none: no broker sends that.

    QoS 2 was never asked for.
    """
    qos = head >> 1 & 3
    payload_at = 2 + int.from_bytes(body[:2], "big")
    topic = body[2:payload_at]
    message_id = 0
    if qos:
        message_id = int.from_bytes(body[payload_at : payload_at + 2], "big")
        payload_at += 2
    if qos > 1 or payload_at > len(body) or (qos and not message_id):
        return None
    return Publish(topic, body[payload_at:], message_id, qos)


def _length(data: bytes, start: int) -> tuple[int, int]:
    """Return a packet's remaining length and where it begins (§2.2.3); 0, 0: not all is there.

    A fourth byte that would go on ends the number; no broker sends that.
    """
    length = 0
    for position in range(4):
        at = start + position
        if at >= len(data):
            return 0, 0
        length |= (data[at] & 127) << 7 * position
        if data[at] < 128:
            return length, at + 1
    return length, start + 4
