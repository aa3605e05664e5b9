"""What is answered about a group's limits, as it is written and as `/openapi.json` describes it.

Powers are W, into the group positive; null is no limit, 0 is a limit. Blocks are OSCP's own, as
on the wire.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from fpd.domain.forecast import Envelope, ForecastType, Reason
from fpd.domain.units import Phase, Unit, floor_w
from fpd.flows.control_settings import settings_of
from fpd.flows.explain import OFFLINE, Behind, Driven, Explained, InForce, Planned
from fpd.oscp.messages import ForecastedBlock
from fpd.store.command_history import Command, Device
from fpd.store.explain import Group, Held, Received
from fpd.web.status import rfc3339
from fpd.web.truth_documents import PhaseLimits, phases, stored_phases

Instant = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
Setting = dict[str, Any]


class Limits(Struct, rename="camel", kw_only=True):
    """What may be done during [since, until); `until` null: it goes on."""

    since: Instant
    until: Instant | None
    min_w: int | None
    max_w: int | None
    optimum_w: int | None
    reason: Reason
    forecast_ids: list[int]
    phases: list[PhaseLimits]


class EnvelopeHeld(Limits, kw_only=True):
    """An envelope that was or is in force; `expectedUntil`: when that will probably end."""

    id: int
    expected_until: Instant | None = None


class ForecastBehind(Struct, rename="camel", kw_only=True):
    """A forecast behind an envelope, its blocks that cover the instant, or the last that ended."""

    id: int
    type: ForecastType
    peer_id: int
    peer_name: str
    request_id: str
    correlation_id: str | None
    received: Instant | None
    blocks: tuple[ForecastedBlock, ...]
    ended_blocks: tuple[ForecastedBlock, ...]


class GroupSettings(Struct, rename="camel", kw_only=True):
    """The settings as they are now; `modified`: when the group was changed last."""

    static_import_limit: int | None
    static_export_limit: int | None
    gap_policy: str
    modified: Instant | None


class LinkEventThen(Struct, rename="camel", kw_only=True):
    kind: str
    at: Instant | None


class ProviderLink(Struct, rename="camel", kw_only=True):
    """The provider's link now, and what had happened to it last by the instant."""

    id: int
    name: str
    link: str
    since: Instant | None
    reason: str | None
    then: LinkEventThen | None


class CommandSent(Struct, rename="camel", kw_only=True):
    """`outcome` null: it is open."""

    id: int
    envelope_id: int | None
    wanted: Setting
    sent: Instant | None
    outcome: str | None
    settled: Instant | None
    detail: str | None


class DeviceNow(Struct, rename="camel", kw_only=True):
    """The device as last seen; `confirmed`: what it was last seen to follow."""

    type: str
    health: str
    detail: str | None
    wanted: Setting | None
    why: str | None
    told: Setting | None
    told_at: Instant | None
    confirmed: Setting | None
    confirmed_at: Instant | None


class DeviceDriven(Struct, rename="camel", kw_only=True):
    """A device: what it was sent because of the envelope, what stood at the instant (maybe sent
    for an earlier one), what it had been seen to follow by then, and how it is now.
    """

    name: str
    commands: list[CommandSent]
    standing: CommandSent | None
    followed: CommandSent | None
    now: DeviceNow | None


class Explanation(Struct, rename="camel", kw_only=True):
    """`envelope` null: nothing was in force. `moreCommands`: some are left out."""

    group_id: int
    identifier: str
    name: str
    at: Instant | None
    envelope: EnvelopeHeld | None
    note: str
    forecasts: list[ForecastBehind]
    settings: GroupSettings
    provider: ProviderLink
    devices: list[DeviceDriven]
    more_commands: bool


class Forward(Struct, rename="camel", kw_only=True):
    """What became of passing a forecast on to the optimizer."""

    message_id: int
    peer_id: int
    request_id: str
    state: str
    status: int | None
    error: str | None
    settled: Instant | None


class ForecastReceived(Struct, rename="camel", kw_only=True):
    """A forecast as received; `forward` null: it was passed on to nobody, or long ago."""

    id: int
    peer_id: int
    type: ForecastType
    request_id: str
    correlation_id: str | None
    received: Instant | None
    ends: Instant | None
    blocks: tuple[ForecastedBlock, ...]
    forward: Forward | None


class Period(Struct, rename="camel", kw_only=True):
    """`watts`: the capacity in whole W on its phase; a limit is rounded down."""

    since: Instant | None
    until: Instant | None
    capacity: float
    unit: Unit
    watts: int
    forecast_id: int
    request_id: str


class ForecastInForce(Struct, rename="camel", kw_only=True):
    """What a peer's forecasts of one type say about one phase from now on."""

    peer_id: int
    peer_name: str
    type: ForecastType
    phase: Phase
    periods: list[Period]


_NOTES: Final[Mapping[Reason, str]] = {
    Reason.FALLBACK: "the provider was offline, so the fallback that it left counted",
    Reason.LAST_KNOWN: "the provider was offline and had left no fallback, so its last known "
    "limit stayed",
    Reason.FORECAST: "the provider's forecast counted",
    Reason.GAP_FALLBACK: "no forecast covered the instant, so the provider's fallback counted",
    Reason.HOLD_LAST: "no forecast covered the instant, so the last limit was held (gapPolicy)",
    Reason.STATIC: "the static limits of the group's settings counted",
    Reason.NONE: "nothing limited the group",
}


def instant(at: datetime) -> str:
    return rfc3339(at) or ""


def explanation(told: Explained) -> Explanation:
    group, held = told.group, told.held
    terms = settings_of(group.control).terms
    event = told.link_event
    return Explanation(
        group_id=group.id,
        identifier=group.identifier,
        name=group.name,
        at=instant(told.at),
        envelope=None if held is None else envelope(held, group),
        note=_note(told),
        forecasts=[_behind(one) for one in told.forecasts],
        settings=GroupSettings(
            static_import_limit=terms.static_import_w,
            static_export_limit=terms.static_export_w,
            gap_policy=terms.gap_policy,
            modified=rfc3339(group.modified_at),
        ),
        provider=ProviderLink(
            id=group.provider_id,
            name=group.provider_name,
            link=group.provider_link,
            since=rfc3339(group.provider_since_at),
            reason=group.provider_trouble,
            then=None if event is None else LinkEventThen(kind=event[0], at=rfc3339(event[1])),
        ),
        devices=[_driven(device) for device in told.devices],
        more_commands=told.more,
    )


def _note(told: Explained) -> str:
    if told.held is None:
        return "nothing had been in force by then"
    reason = Reason(told.held.reason)
    said = _NOTES[reason]
    if reason in OFFLINE and told.link_event is not None:
        kind, at = told.link_event
        said += f"; {kind} at {instant(at)}"
    return said


def envelope(held: Held, group: Group) -> EnvelopeHeld:
    return EnvelopeHeld(
        id=held.id,
        since=instant(held.from_at),
        until=rfc3339(held.until_at),
        expected_until=None if held.until_at is not None else rfc3339(group.until_at),
        min_w=held.min_w,
        max_w=held.max_w,
        optimum_w=held.optimum_w,
        reason=Reason(held.reason),
        forecast_ids=list(held.forecast_ids),
        phases=stored_phases(held.phases),
    )


def planned(found: Planned) -> list[Limits]:
    return [_limits(one) for one in found.envelopes]


def _limits(planned: Envelope) -> Limits:
    return Limits(
        since=instant(planned.start_at),
        until=rfc3339(planned.end_at),
        min_w=planned.min_w,
        max_w=planned.max_w,
        optimum_w=planned.optimum_w,
        reason=planned.reason,
        forecast_ids=list(planned.forecast_ids),
        phases=phases(planned.phases),
    )


def _behind(behind: Behind) -> ForecastBehind:
    known = behind.known
    return ForecastBehind(
        id=known.id,
        type=known.type,
        peer_id=known.peer_id,
        peer_name=known.peer_name,
        request_id=known.request_id,
        correlation_id=known.correlation_id,
        received=rfc3339(known.received_at),
        blocks=behind.blocks,
        ended_blocks=behind.held,
    )


def _driven(device: Driven) -> DeviceDriven:
    return DeviceDriven(
        name=device.name,
        commands=[_sent(command) for command in device.because],
        standing=None if device.standing is None else _sent(device.standing),
        followed=None if device.followed is None else _sent(device.followed),
        now=None if device.now is None else _now(device.now),
    )


def _sent(command: Command) -> CommandSent:
    return CommandSent(
        id=command.id,
        envelope_id=command.envelope_id,
        wanted=dict(command.wanted),
        sent=rfc3339(command.sent_at),
        outcome=command.outcome,
        settled=rfc3339(command.settled_at),
        detail=command.detail,
    )


def _now(device: Device) -> DeviceNow:
    return DeviceNow(
        type=device.type,
        health=device.health,
        detail=device.detail,
        wanted=None if device.wanted is None else dict(device.wanted),
        why=device.why,
        told=None if device.told is None else dict(device.told),
        told_at=rfc3339(device.told_at),
        confirmed=None if device.confirmed is None else dict(device.confirmed),
        confirmed_at=rfc3339(device.confirmed_at),
    )


class _Body(Struct):
    forecasted_blocks: msgspec.Raw


def received(rows: Sequence[Received]) -> list[dict[str, Any]]:
    """Return forecasts as `ForecastReceived`, their blocks byte for byte."""
    return [
        {
            "id": row.id,
            "peerId": row.peer_id,
            "type": row.type,
            "requestId": row.request_id,
            "correlationId": row.correlation_id,
            "received": rfc3339(row.received_at),
            "ends": rfc3339(row.ends_at),
            "blocks": msgspec.json.decode(row.body, type=_Body).forecasted_blocks,
            "forward": _forward(row),
        }
        for row in rows
    ]


def _forward(row: Received) -> Forward | None:
    if row.message_id is None or row.forward_peer_id is None or row.forward_request_id is None:
        return None
    return Forward(
        message_id=row.message_id,
        peer_id=row.forward_peer_id,
        request_id=row.forward_request_id,
        state=row.forward_state or "",
        status=row.forward_status,
        error=row.forward_error,
        settled=rfc3339(row.forward_settled_at),
    )


def in_force(found: InForce) -> list[ForecastInForce]:
    shown = []
    for of in found.standing:
        periods = [
            Period(
                since=rfc3339(span.start_at),
                until=rfc3339(span.end_at),
                capacity=float(span.value.block.capacity),
                unit=span.value.block.unit,
                watts=floor_w(span.value.watts),
                forecast_id=span.value.forecast_id,
                request_id=found.known[span.value.forecast_id].request_id,
            )
            for span in of.spans
        ]
        peer = found.known[of.spans[0].value.forecast_id].peer_name
        shown.append(
            ForecastInForce(
                peer_id=of.peer_id, peer_name=peer, type=of.type, phase=of.phase, periods=periods
            )
        )
    return shown
