"""The retained tree `fpd/{instance}/…`: how groups, devices and links are now.

Each look reads all states, makes their documents and owes the broker those that differ from what
it was given last, and what Home Assistant is to know of them before that. A broker that may have
forgotten is given all of it again, from the database. Powers are W: into the group is
positive, what a device is told and delivers is positive towards the site.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import structlog
from psycopg import AsyncConnection

from fpd import adapters
from fpd.adapters.device import Command, Profile, Setpoint
from fpd.domain.control.ability import Storage, Weekly
from fpd.domain.control.caps import tick_of
from fpd.domain.control.ticks import Week
from fpd.flows import announcing
from fpd.flows.context import Context
from fpd.flows.device_rules import command_of
from fpd.flows.home_assistant import Part, Teller
from fpd.flows.planned import Planned, Plans, compact
from fpd.mqtt import discovery, topics
from fpd.store import measurements, overview
from fpd.store import tree as store
from fpd.store.overview import Measured

log = structlog.get_logger()

_SHARE = 20  # a look that took long is followed by a rest of so many times that
_LONGEST_REST_S = 60.0
_BREATH = 200  # documents made without letting others work

_encode = msgspec.json.Encoder(decimal_format="number").encode


@dataclass(frozen=True, slots=True, kw_only=True)
class States:
    """All that the tree tells of, as of one instant."""

    groups: list[store.Group]
    power: Mapping[int, Measured]
    plans: Mapping[int, Planned]
    devices: list[store.Device]
    peers: list[store.Peer]


class Tree:
    """What the broker is to hold; remembers what it was given."""

    def __init__(self, context: Context) -> None:
        """Listen for Home Assistant, if it is to be told anything."""
        self._context = context
        self._plans = Plans()
        self._written: dict[int, tuple[int, bytes]] = {}  # by group: which plan, and as what
        self._teller = Teller(context)
        self._known: dict[str, bytes] | None = None
        self._births = 0  # of Home Assistant
        self._restated = (0, 0)  # after which birth and connection
        self._rest_until = 0.0
        settings = context.config.mqtt
        if settings.home_assistant:
            topic = discovery.born(settings.home_assistant_prefix)
            context.mqtt.subscribe([topic], self._on_born)

    def _on_born(self, topic: str, payload: bytes, ack: Callable[[], None]) -> None:
        self._births += payload == discovery.ONLINE
        ack()

    async def step(self) -> bool:
        """Look at all states and owe what has changed, or all of it to who may not know it."""
        loop = asyncio.get_running_loop()
        connections = self._context.mqtt.connections
        births = self._births
        anew = (births, connections) != self._restated
        if not anew and loop.time() < self._rest_until:
            return False
        if not anew and await self._yields():
            return False
        began = loop.time()
        owed = await self._look(anew=anew)
        self._restated = births, connections
        self._rest_until = loop.time() + min(_SHARE * (loop.time() - began), _LONGEST_REST_S)
        if owed:
            self._context.bells.publishing()
        return False

    async def _yields(self) -> bool:
        """Whether others are in a hurry: to look at all newest datum takes long."""
        async with self._context.db.connection() as conn:
            return await measurements.are_being_closed(conn, now=self._context.clock())

    async def _look(self, *, anew: bool) -> bool:
        context, now = self._context, self._context.clock()
        instance = context.config.mqtt.instance
        async with context.db.connection() as conn:
            known = self._known
            if known is None:
                known = await store.known(conn, instance=instance)
            states = States(
                groups=await store.groups(conn),
                power=await overview.measured(conn, user_id=None, now=now),
                plans=await self._plans.look(conn),
                devices=await store.devices(conn, names=[d.name for d in context.config.devices]),
                peers=await store.peers(conn),
            )
        parts, wanted = await _documents(context, states, now)
        wanted |= self._planned(states.plans)
        changed = {topic: doc for topic, doc in wanted.items() if known.get(topic) != doc}
        gone = known.keys() - wanted.keys()
        self._known = None  # until it is sure what the database has
        try:
            async with context.db.transaction() as conn:
                owed = await self._owe(conn, states, parts, known, changed, gone, anew, now)
        except BaseException:
            self._teller.doubt()
            raise
        self._known = wanted
        return owed

    async def _owe(
        self,
        conn: AsyncConnection,
        states: States,
        parts: Sequence[Part],
        known: Mapping[str, bytes],
        changed: Mapping[str, bytes],
        gone: Collection[str],
        anew: bool,
        now: datetime,
    ) -> bool:
        context, instance = self._context, self._context.config.mqtt.instance
        cleared = await self._teller.clear(conn, now=now)
        told = await self._teller.tell(conn, parts, anew=anew, now=now)
        if changed or gone:
            await store.change(conn, instance=instance, changed=changed, gone=gone, now=now)
            await announcing.owe_changes(
                context,
                conn,
                announcing.Seen(
                    devices=states.devices,
                    peers=states.peers,
                ),
                known=known,
                changed=changed,
                now=now,
            )
        restated = await store.restate(conn, instance=instance, now=now) if anew else 0
        if restated:
            log.info("tree.restated", topics=restated)
        return bool(cleared or told or changed or gone or restated)

    def _planned(self, plans: Mapping[int, Planned]) -> dict[str, bytes]:
        """Return the groups' plans; each is written once."""
        instance, before = self._context.config.mqtt.instance, self._written
        self._written = {
            group_id: before[group_id]
            if before.get(group_id, (0, b""))[0] == plan.row.id
            else (plan.row.id, _encode(compact(plan)))
            for group_id, plan in plans.items()
        }
        return {
            topics.plan(instance, group_id): document
            for group_id, (_, document) in self._written.items()
        }


async def _documents(
    context: Context, states: States, now: datetime
) -> tuple[list[Part], dict[str, bytes]]:
    """Return what there is, and the whole tree."""
    instance = context.config.mqtt.instance
    parts: list[Part] = []
    tree: dict[str, bytes] = {}
    stored = {
        device.name
        for device in context.config.devices
        if isinstance(adapters.ability(device), Storage)
    }
    for number, (kind, key, name, model, document) in enumerate(_all(context, states, now)):
        parts.append((kind, key, name, model, kind == "device" and key in stored))
        tree[topics.tree(instance, kind, key)] = _encode(document)
        if number % _BREATH == 0:
            await asyncio.sleep(0)
    return parts, tree


def _all(
    context: Context, states: States, now: datetime
) -> Iterable[tuple[discovery.Kind, str, str, str, dict[str, Any]]]:
    """Return (kind, key, name, model, document) of everything there is."""
    fresh = now - timedelta(seconds=context.config.measurements.hold_s)
    weeks = {
        device.name: ability.week
        for device in context.config.devices
        if isinstance(ability := adapters.ability(device), Weekly)
    }
    for group in states.groups:
        power = states.power.get(group.id)
        yield "group", str(group.id), group.name, "", _group(group, power, fresh)
    for device in states.devices:
        week = weeks.get(device.name, Week())
        yield "device", device.name, device.name, device.type, _device(device, week, now)
    for peer in states.peers:
        yield "peer", str(peer.id), peer.name, "", _peer(peer)


def _group(group: store.Group, power: Measured | None, fresh: datetime) -> dict[str, Any]:
    """Interpretation: a power of which a part is missing or old is not known, and no headroom is
    told from it.
    """
    power_w = None
    if power is not None and power.at is not None and power.at >= fresh and power.parts == power.of:
        power_w = power.power_w
    export_w = None if group.min_w is None else -group.min_w
    return {
        "id": group.id,
        "userId": group.user_id,
        "identifier": group.identifier,
        "name": group.name,
        "enabled": group.enabled,
        "importLimitW": group.max_w,
        "exportLimitW": export_w,
        "optimumW": group.optimum_w,
        "reason": group.reason,
        "since": group.since_at,
        "until": group.until_at,
        "powerW": power_w,
        "powerAt": power.at if power else None,
        "importHeadroomW": _left(group.max_w, power_w),
        "exportHeadroomW": _left(export_w, None if power_w is None else -power_w),
    }


def _left(limit_w: int | None, power_w: Decimal | None) -> Decimal | None:
    return None if limit_w is None or power_w is None else limit_w - power_w


def _device(device: store.Device, week: Week, now: datetime) -> dict[str, Any]:
    wanted, confirmed = command_of(device.wanted), command_of(device.confirmed)
    return {
        "name": device.name,
        "type": device.type,
        "health": device.health,
        "detail": device.detail,
        "groupId": device.group_id,
        "wanted": device.wanted,
        "why": device.why,
        "setpointW": power_w(wanted, week, now),
        "confirmed": device.confirmed,
        "confirmedW": power_w(confirmed, week, now),
        "confirmedAt": device.confirmed_at,
        "outputW": device.output_w,
        "soc": device.soc,
        "readingAt": device.reading_at,
    }


def power_w(command: Command | None, week: Week, now: datetime) -> int | None:
    """Return what a command asks for at `now`: delivered is positive; None: nothing, or unknown.

    Interpretation: of a profile, the power of its last point by now; unknown when that depends on
    the day and nobody knows on which one the unit's week begins.
    """
    match command:
        case Setpoint(power_w=asked_w):
            return asked_w
        case Profile(points=points) if points:
            asked = {_held(points, index) for index in week.indices(tick_of(now))}
            return asked.pop() if len(asked) == 1 else None
    return None


def _held(points: tuple[tuple[int, int], ...], index: int) -> int:
    """Return the power of the last point by `index`; before the first, the week's last holds."""
    return max(((tick <= index, tick, watts) for tick, watts in points), default=(True, 0, 0))[2]


def _peer(peer: store.Peer) -> dict[str, Any]:
    return {
        "id": peer.id,
        "userId": peer.user_id,
        "role": peer.role,
        "name": peer.name,
        "enabled": peer.enabled,
        "link": peer.link,
        "since": peer.since_at,
        "trouble": peer.trouble,
    }
