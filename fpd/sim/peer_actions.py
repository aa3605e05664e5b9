"""What a simulated peer does when told to at its control door: POST /_sim/actions/<name>."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from msgspec import Struct

from fpd.errors import Malformed
from fpd.sim.fp_client import Outcome
from fpd.sim.journal import iso
from fpd.sim.oscp_rules import read_instant

if TYPE_CHECKING:
    from fpd.sim.peer import Peer
    from fpd.sim.simulator import Action

_T = TypeVar("_T")


class Register(Struct, forbid_unknown_fields=True):
    """Begin a registration; wait up to `wait_s` for the FP's Register."""

    token: str = ""
    fp_url: str = ""
    wait_s: float = 10.0


class Wait(Struct, forbid_unknown_fields=True):
    """Wait up to `wait_s` for what the FP sends in return."""

    wait_s: float = 10.0


class Heartbeat(Struct, forbid_unknown_fields=True):
    """Send one heartbeat; `offline_mode_at` as is, or `offline_in_s` from now (may be negative)."""

    offline_mode_at: str | None = None
    offline_in_s: float | None = None


class Forecast(Struct, forbid_unknown_fields=True, kw_only=True):
    """A forecast: `blocks` as on the wire, or `hours` of `capacity` from `start` (RFC 3339; now).

    `block_minutes` cuts those hours into blocks; without it they are one.
    """

    group_id: str
    type: str = "CONSUMPTION"
    blocks: list[dict[str, Any]] | None = None
    hours: float = 1.0
    capacity: float | None = None
    unit: str = "KW"
    phase: str = "ALL"
    start: str | None = None
    block_minutes: float | None = None
    request_id: str | None = None
    correlation_id: str | None = None


class Send(Struct, forbid_unknown_fields=True):
    """Any message as it stands, right or wrong."""

    operation: str
    body: Any = None
    method: str = "POST"
    request_id: str | None = None
    correlation_id: str | None = None
    headers: dict[str, str] = msgspec.field(default_factory=dict)


def actions(peer: Peer[Any]) -> dict[str, Action]:
    """Return what `peer` can be told to do, by name."""
    return {
        name: getattr(PeerActions(peer), name)
        for name in (
            "register",
            "reregister",
            "unregister",
            "handshake",
            "heartbeat",
            "forecast",
            "send",
        )
    }


class PeerActions:
    """Each action answers with the FP's status and body, and the state of the link after it."""

    def __init__(self, peer: Peer[Any]) -> None:
        self._peer = peer

    async def register(self, command: dict[str, Any]) -> dict[str, Any]:
        told, peer = _read(command, Register), self._peer
        outcome = await peer.fp.register(
            told.token or peer.options.token, told.fp_url or peer.link.fp_url
        )
        if outcome.accepted:
            await peer.changes.until(lambda: peer.link.state != "registering", told.wait_s)
        return self._told(outcome)

    async def reregister(self, command: dict[str, Any]) -> dict[str, Any]:
        _read(command, Wait)
        return self._told(await self._peer.fp.update_registration())

    async def unregister(self, command: dict[str, Any]) -> dict[str, Any]:
        _read(command, Wait)
        return self._told(await self._peer.fp.unregister())

    async def handshake(self, command: dict[str, Any]) -> dict[str, Any]:
        told = _read(command, Wait)
        outcome, _ = await self._peer.shake_hands(told.wait_s)
        return self._told(outcome)

    async def heartbeat(self, command: dict[str, Any]) -> dict[str, Any]:
        told = _read(command, Heartbeat)
        deadline = told.offline_mode_at
        if told.offline_in_s is not None:
            deadline = iso(self._peer.clock() + timedelta(seconds=told.offline_in_s))
        return self._told(await self._peer.fp.heartbeat(deadline))

    async def forecast(self, command: dict[str, Any]) -> dict[str, Any]:
        told = _read(command, Forecast)
        blocks = told.blocks if told.blocks is not None else _blocks(told, self._peer.clock())
        body = {"group_id": told.group_id, "type": told.type, "forecasted_blocks": blocks}
        outcome = await self._peer.fp.forecast(
            body, request_id=told.request_id, correlation_id=told.correlation_id
        )
        return self._told(outcome)

    async def send(self, command: dict[str, Any]) -> dict[str, Any]:
        told = _read(command, Send)
        outcome = await self._peer.fp.send(
            told.operation,
            told.body,
            method=told.method,
            request_id=told.request_id,
            correlation_id=told.correlation_id,
            headers=told.headers,
        )
        return self._told(outcome)

    def _told(self, outcome: Outcome) -> dict[str, Any]:
        return {
            "request_id": outcome.request_id,
            "status": outcome.status,
            "body": outcome.body,
            "error": outcome.error,
            "link": self._peer.state()["link"],
        }


def _blocks(told: Forecast, now: datetime) -> list[dict[str, Any]]:
    if told.capacity is None:
        raise Malformed("a forecast needs blocks, or capacity (and hours, unit, phase)")
    begin = now if told.start is None else read_instant(told.start)
    if begin is None:
        raise Malformed("start must be an RFC 3339 date-time with a zone")
    start = begin.replace(microsecond=0)
    end = start + timedelta(hours=told.hours)
    step = timedelta(minutes=told.block_minutes) if told.block_minutes else end - start
    if step <= timedelta(0):
        raise Malformed("hours and block_minutes must be positive")
    blocks = []
    while start < end:
        until = min(start + step, end)
        blocks.append(
            {
                "capacity": told.capacity,
                "phase": told.phase,
                "unit": told.unit,
                "start_time": iso(start),
                "end_time": iso(until),
            }
        )
        start = until
    return blocks


def _read(command: Mapping[str, Any], kind: type[_T]) -> _T:
    try:
        return msgspec.convert(command, kind)
    except msgspec.ValidationError as error:
        raise Malformed(str(error)) from error
