"""What fpd itself does becomes datum: envelopes, reports, what devices are told, links.

Beside what peers said (`flows.publishing`) and by the same settings, under the role `fp`; a link
is its peer's. Interpretation: SolarNetwork publishes none of these, so names of actions and
properties are ours: `Envelope`, `Setpoint`, `Link`, and the operations of the reports. Reports go
to the broker alone, since the readings behind them are streams already.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from itertools import chain
from typing import Any, TypeVar

import msgspec
from psycopg import AsyncConnection

from fpd.domain.datum import Datum, Status, StreamKey, phase_suffix, unit_name
from fpd.domain.entities import Role
from fpd.flows import publishing
from fpd.flows.context import Context
from fpd.flows.device_rules import command_of, shown
from fpd.flows.publishing import Placed
from fpd.mqtt import topics
from fpd.oscp import messages
from fpd.store import publications, tree
from fpd.store.control import EnvelopeRow
from fpd.store.publications import Outlet

T = TypeVar("T")
_Numbers = dict[str, Decimal | int | None]
_Statuses = dict[str, Status | None]

_FOLLOWED = ("wanted", "setpointW", "confirmed", "confirmedW", "health")

_of_group = msgspec.json.Decoder(tuple[messages.EnergyMeasurement, ...])
_of_assets = msgspec.json.Decoder(tuple[messages.AssetMeasurement, ...])
_decode = msgspec.json.Decoder(dict[str, Any], float_hook=Decimal).decode


async def owe_envelopes(
    context: Context, conn: AsyncConnection, rows: Sequence[EnvelopeRow], *, now: datetime
) -> None:
    """Publish envelopes that come into force. What is not limited has no property."""
    outlets = await _outlets(conn, [row.group_id for row in rows])
    placed = []
    for row in rows:
        outlet = outlets.get(row.group_id)
        if outlet is not None:
            limits = {
                "importLimit": row.max_w,
                "exportLimit": None if row.min_w is None else -row.min_w,
                "optimum": row.optimum_w,
            }
            for one in row.phases:
                phase = str(one["phase"]).capitalize()
                limits[f"importLimit{phase}"] = one["max_w"]
                limits[f"exportLimit{phase}"] = None if one["min_w"] is None else -one["min_w"]
            placed += _ours(outlet, "Envelope", at=row.from_at, i=limits, s={"reason": row.reason})
    await publishing.owe(context, conn, placed, now=now)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """A report as it is owed to a peer: `body` is its message, of the period until `end_at`.

    `cuts`: where in it runs of entries begin and end; it may be megabytes, and is read run by run.
    """

    group_id: int
    peer_id: int
    audience: str
    operation: str
    request_id: str
    revision: int
    end_at: datetime
    body: bytes | bytearray
    cuts: Sequence[tuple[int, int]]


async def owe_reports(
    context: Context, conn: AsyncConnection, reports: Sequence[Reported], *, now: datetime
) -> None:
    """Publish what peers are told of periods: one datum for a group, or for each of its assets."""
    outlets = await _outlets(conn, {report.group_id for report in reports})
    placed: list[Iterable[Placed]] = []
    for report in reports:
        outlet = outlets.get(report.group_id)
        if outlet is None or not outlet.to_solar_flux:
            continue
        if report.operation == "update_asset_measurements":
            placed.append(_assets(outlet, report))
        elif len(report.cuts) > 1:
            sums = await asyncio.to_thread(_energies, _entries(_of_group, report))
            placed.append(_group(outlet, report, *sums))
        else:
            placed.append(_group(outlet, report, *_energies(_entries(_of_group, report))))
    await publishing.owe(context, conn, chain.from_iterable(placed), now=now, kept=False)


def _group(outlet: Outlet, report: Reported, i: _Numbers, s: _Statuses) -> list[Placed]:
    return _ours(
        outlet,
        "UpdateGroupMeasurements",
        at=report.end_at,
        i=i,
        s=s | _about(report),
        dest=report.peer_id,
        suffix=_alias(report),
    )


def _assets(outlet: Outlet, report: Reported) -> Iterator[Placed]:
    for asset in _entries(_of_assets, report):
        i, s = _energies([asset.energy_measurement] if asset.energy_measurement else [])
        value = asset.instantaneous_measurement
        if value is not None:
            suffix = phase_suffix(value.phase)
            i[f"amount{suffix}"] = value.value
            s[f"unit{suffix}"] = unit_name(value.unit)
        yield from _ours(
            outlet,
            "UpdateAssetMeasurements",
            at=report.end_at,
            i=i,
            s=s | _about(report),
            dest=report.peer_id,
            suffix=f"{_alias(report)}/{asset.asset_id}",
        )


def _about(report: Reported) -> _Statuses:
    revision = {"revision": Decimal(report.revision)} if report.revision else {}
    return {"reportIdentifier": report.request_id, **revision}


def _alias(report: Reported) -> str:
    return "cp" if report.audience == Role.CAPACITY_PROVIDER else "co"


def _entries(decoder: msgspec.json.Decoder[tuple[T, ...]], report: Reported) -> Iterator[T]:
    """Read a report's entries when they are asked for."""
    for start, end in report.cuts:
        yield from decoder.decode(b"[" + report.body[start:end] + b"]")


def _energies(
    measurements: Iterable[messages.EnergyMeasurement],
) -> tuple[_Numbers, _Statuses]:
    """Return energies as properties: `energyImport`, of a phase `energyImport_a`; the standing of
    a register is `registerImport`; what is not of the total says so. Those of one name are added,
    in Wh if they are not all of one unit.
    """
    kinds: dict[str, list[messages.EnergyMeasurement]] = {}
    for one in measurements:
        kind = "" if one.energy_type in (None, messages.EnergyType.TOTAL) else one.energy_type
        suffix = f"{one.direction.capitalize()}{(kind or '').capitalize()}"
        kinds.setdefault(suffix + phase_suffix(one.phase), []).append(one)
    i: dict[str, Any] = {}
    s: dict[str, Status | None] = {}
    for suffix, alike in kinds.items():
        in_kwh = all(one.unit is messages.EnergyUnit.KWH for one in alike)
        for one in alike:
            name = f"{'register' if one.initial_measure_time is None else 'energy'}{suffix}"
            factor = 1 if in_kwh or one.unit is messages.EnergyUnit.WH else 1000
            i[name] = i.get(name, Decimal(0)) + one.value * factor
        s[f"unit{suffix}"] = "kWh" if in_kwh else "Wh"
    return i, s


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a look at the tree has found."""

    devices: Sequence[tree.Device]
    peers: Sequence[tree.Peer]


async def owe_changes(
    context: Context,
    conn: AsyncConnection,
    seen: Seen,
    *,
    known: Mapping[str, bytes],
    changed: Mapping[str, bytes],
    now: datetime,
) -> None:
    """Publish what devices are told and follow, and links, as far as the tree's documents differ.

    Interpretation: what changes twice between two looks is told once.
    """
    instance = context.config.mqtt.instance

    def differs(kind: str, key: str, names: Collection[str]) -> dict[str, Any] | None:
        topic = topics.tree(instance, kind, key)
        if topic not in changed:
            return None
        before, after = _decode(known.get(topic, b"{}")), _decode(changed[topic])
        return after if any(before.get(n) != after.get(n) for n in names) else None

    steered = [
        (device, document)
        for device in seen.devices
        if (document := differs("device", device.name, _FOLLOWED)) is not None
    ]
    linked = {p.id: p for p in seen.peers if differs("peer", str(p.id), ("link",))}
    placed = []
    outlets = await _outlets(conn, {device.group_id for device, _ in steered})
    for device, document in steered:
        if device.group_id in outlets:
            placed += _setpoint(outlets[device.group_id], device, document, now)
    if linked:
        for outlet in await publications.outlets(conn, peer_ids=list(linked)):
            placed += _link(outlet, linked[outlet.sender_id])
    await publishing.owe(context, conn, placed, now=now)


def _setpoint(
    outlet: Outlet, device: tree.Device, document: Mapping[str, Any], now: datetime
) -> list[Placed]:
    wanted, confirmed = command_of(device.wanted), command_of(device.confirmed)
    return _ours(
        outlet,
        "Setpoint",
        at=now,
        i={"wantedWatts": document["setpointW"], "confirmedWatts": document["confirmedW"]},
        s={
            "wanted": shown(wanted) if wanted else None,
            "confirmed": shown(confirmed) if confirmed else None,
            "followed": device.wanted == device.confirmed,
            "health": device.health,
        },
        suffix=device.name,
    )


def _link(outlet: Outlet, peer: tree.Peer) -> list[Placed]:
    def make(stream: StreamKey) -> Iterable[Datum]:
        s: dict[str, Status] = {"link": peer.link}
        if peer.trouble is not None:
            s["trouble"] = peer.trouble
        return (Datum(stream=stream, at=peer.since_at, s=s),)

    return publishing.place(outlet, publishing.values_alone(outlet, "Link"), make)


async def _outlets(conn: AsyncConnection, group_ids: Collection[int | None]) -> dict[int, Outlet]:
    of = [group_id for group_id in group_ids if group_id is not None]
    if not of:
        return {}
    found = await publications.group_outlets(conn, group_ids=of)
    return {outlet.group_id: outlet for outlet in found}


def _ours(
    outlet: Outlet,
    action: str,
    *,
    at: datetime,
    i: Mapping[str, Decimal | int | None],
    s: Mapping[str, Status | None],
    dest: int | None = None,
    suffix: str = "",
) -> list[Placed]:
    """Place a datum of ours; what is None is left out."""
    role = {"role": Role.FLEXIBILITY_PROVIDER.alias, "src": None, "dest": dest}

    def make(stream: StreamKey) -> Iterable[Datum]:
        return (
            Datum(
                stream=stream,
                at=at,
                i={name: Decimal(value) for name, value in i.items() if value is not None},
                s={name: value for name, value in s.items() if value is not None},
            ),
        )

    return publishing.place(outlet, publishing.values(outlet, action) | role, make, suffix=suffix)
