"""Forecasts become what devices do: re-read the world, decide, want what differs.

Each pass takes the groups that are due, reads all that decides about them in a few queries,
computes without I/O and writes down: the envelope in force when it has changed, what each device
is wanted to do, and when to look again. Visits (`flows.devices`) do the talking, so nothing here
waits for a device, and a slow one delays nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from psycopg import AsyncConnection

from fpd.adapters.device import Release
from fpd.domain.control.ability import Weekly
from fpd.domain.control.phases import PhaseLimit, limits_of_sum, phase_limits
from fpd.domain.control.wishes import NO_WISHES
from fpd.domain.forecast import Envelope, Forecast, envelope_at, envelopes
from fpd.domain.supersede import spent
from fpd.flows import announcing, blocks, fuel_cells, metered, steering
from fpd.flows import device_rules as rules
from fpd.flows.context import Context
from fpd.flows.control_settings import Settings, is_watched, properties_of, settings_of
from fpd.flows.devices import Devices
from fpd.flows.holder import gone
from fpd.flows.patience import patience, usual
from fpd.flows.planned import Planned, Plans
from fpd.flows.steered import Steered
from fpd.flows.steering import Phases, Wanted
from fpd.store import control, devices, forecasts, leases, plans
from fpd.store.control import Asset, DueGroup, EnvelopeRow, Latest, Property
from fpd.store.devices import DeviceState, Wish

log = structlog.get_logger()

_LEASE = timedelta(seconds=30)
_BATCH = 100
_PLAN_SOON = timedelta(seconds=2)  # more forecasts may follow
_PLANS_APART = timedelta(seconds=5)  # a peer may send many
_QUIET_S = 3600.0  # where nothing is steered or measured, only what peers say changes anything
REVIVAL = timedelta(minutes=10)  # a clock that was set back makes what had ended go on


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """All that decides about some groups, as of one instant."""

    forecasts: Mapping[int, tuple[Forecast, ...]]
    in_force: Mapping[int, EnvelopeRow]
    assets: Mapping[int, Sequence[Asset]]
    states: Mapping[str, DeviceState]
    latest: Mapping[Property, Latest]
    plans: Mapping[int, Planned]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What becomes of one group. `envelope` None: the one in force stays, until `until_at`."""

    group_id: int
    envelope: EnvelopeRow | None
    until_at: datetime | None
    wanted: Sequence[Wanted]
    due_at: datetime


class Control:
    """Looks at the groups that are due."""

    def __init__(self, context: Context, visits: Devices) -> None:
        self._context = context
        self._visits = visits
        self._configured = {device.name: device for device in context.config.devices}
        self._warned: dict[int, str | None] = {}
        self._began_at: datetime | None = None
        self._plans = Plans()

    async def step(self) -> bool:
        """Decide about at most a batch of groups; True if there may be more."""
        context = self._context
        now = context.clock()
        async with context.db.transaction() as conn:
            if self._began_at is None:
                await leases.take_back(conn, gone=gone, now=now)
            await control.enrol(conn, now=now)
            await self._let_go(conn, now)
            due = await control.claim(
                conn, holder=context.holder, now=now, lease=_LEASE, limit=_BATCH
            )
        self._began_at = self._began_at or now
        if not due:
            return False
        settings = {group.group_id: settings_of(group.control) for group in due}
        async with context.db.connection() as conn:
            snapshot = await self._look(conn, due, settings, now)
        # What came until now may be in it, and nothing is in force before its reason was heard.
        now = context.clock()
        decisions = []
        for group in due:
            decisions.append(self._decide(group, settings[group.group_id], snapshot, now))
            await asyncio.sleep(0)
        async with context.db.transaction() as conn:
            await _write(context, conn, decisions, snapshot, now)
        context.bells.publishing()
        soon_s = (min(decision.due_at for decision in decisions) - now).total_seconds()
        asyncio.get_running_loop().call_later(max(soon_s, 0.0), context.bells.control)
        await self._visits.step()
        return len(due) == _BATCH

    async def _let_go(self, conn: AsyncConnection, now: datetime) -> None:
        """Release the devices that no asset uses any more."""
        names = await devices.orphans(conn, names=list(self._configured))
        if names:
            plan = {"reason": "no asset uses it any more"}
            wishes = [Wish(name=name, wanted=rules.stored(Release()), plan=plan) for name in names]
            await devices.want(conn, wishes, now=now)

    async def _look(
        self,
        conn: AsyncConnection,
        due: Sequence[DueGroup],
        settings: Mapping[int, Settings],
        now: datetime,
    ) -> Snapshot:
        group_ids = [group.group_id for group in due]
        by_group: dict[int, list[Asset]] = {group_id: [] for group_id in group_ids}
        for asset in await control.assets(conn, group_ids=group_ids):
            by_group[asset.group_id].append(asset)
        wanted = [
            property_
            for group in due
            if is_watched(settings[group.group_id], by_group[group.group_id])
            for property_, _ in properties_of(
                settings[group.group_id], by_group[group.group_id], user_id=group.user_id
            )
        ]
        # Measurements before states: a state that is newer than a measurement still knows what
        # the device did then; a measurement newer than its state could not be explained.
        latest = await control.latest(conn, properties=wanted, now=now)
        return Snapshot(
            forecasts=await self._heard(conn, group_ids, now),
            in_force=await control.newest_envelopes(conn, group_ids=group_ids),
            assets=by_group,
            states=await devices.load(conn, names=list(self._configured)),
            latest=latest,
            plans=await self._plans.look(conn, group_ids=group_ids),
        )

    async def _heard(
        self, conn: AsyncConnection, group_ids: Sequence[int], now: datetime
    ) -> dict[int, tuple[Forecast, ...]]:
        """Return what may matter of the forecasts, and leave out for good what cannot any more."""
        heard: dict[int, tuple[Forecast, ...]] = {}
        closed: list[int] = []
        for group_id, kept in (await forecasts.load(conn, group_ids=group_ids)).items():
            messages = tuple(map(blocks.read, kept))
            gone = {message.id for message in spent(messages, at=now - REVIVAL)}
            heard[group_id] = tuple(message for message in messages if message.id not in gone)
            closed += gone
            await asyncio.sleep(0)  # a group may have much to read; others want their turn
        if closed:
            await forecasts.close(conn, ids=closed)
        return heard

    def _decide(
        self, group: DueGroup, settings: Settings, snapshot: Snapshot, now: datetime
    ) -> Decision:
        ask: dict[str, Any] = {
            "provider_online": group.provider_online,
            "optimizer_online": group.optimizer_online,
            "terms": settings.terms,
        }
        messages = snapshot.forecasts[group.group_id]
        envelope = envelope_at(messages, at=now, **ask)
        row = _changed(group, envelope, snapshot.in_force.get(group.group_id))
        assets = snapshot.assets[group.group_id]
        watched = is_watched(settings, assets)
        steered = self._steered(assets, snapshot.states)
        cells = [d for d in steered if isinstance(d.ability, Weekly)]
        phases = self._phases(group, settings, messages, steered, now)
        if not watched:
            wanted = []
        elif not group.enabled:
            wanted = steering.rest(steered, "the group is disabled")
        else:
            wanted = self._by_setpoints(group, settings, snapshot, steered, envelope, phases, now)
            if cells:
                since = now if row is not None else snapshot.in_force[group.group_id].from_at
                of = fuel_cells.window(since=since, now=now)
                from_at = max(of.start_at, since)  # what has ended within the first tick is over
                week = envelopes(messages, start_at=from_at, end_at=of.end_at, **ask)
                plan = snapshot.plans.get(group.group_id)
                wanted += fuel_cells.profiles(
                    cells,
                    week=week,
                    of=of,
                    now=now,
                    load=None if plan is None else plan.load_at(now),
                    count_on_load=self._context.config.control.cells_count_on_load,
                )
        return Decision(
            group_id=group.group_id,
            envelope=row,
            until_at=envelope.end_at,
            wanted=wanted,
            due_at=next_look(
                [envelope, *phases.limits.values()],
                now=now,
                interval_s=self._context.config.control.interval_s if watched else _QUIET_S,
            ),
        )

    def _steered(self, assets: Sequence[Asset], states: Mapping[str, DeviceState]) -> list[Steered]:
        """Return the group's controlled devices; one that is not configured here is none."""
        return [
            Steered(
                config=self._configured[asset.device],
                priority=asset.priority,
                state=states[asset.device],
                reading=rules.reading_of(states[asset.device]),
                alone=states[asset.device].attempts >= self._visits.tries(asset.device),
            )
            for asset in assets
            if asset.drives and asset.device is not None and asset.device in states
        ]

    def _by_setpoints(
        self,
        group: DueGroup,
        settings: Settings,
        snapshot: Snapshot,
        steered: Sequence[Steered],
        envelope: Envelope,
        phases: Phases,
        now: datetime,
    ) -> list[Wanted]:
        parts = properties_of(settings, snapshot.assets[group.group_id], user_id=group.user_id)
        measured = metered.measured(
            settings,
            snapshot.latest,
            parts,
            now=now,
            patience=patience(self._context.config, (property_ for property_, _ in parts)),
            began_at=self._began_at,
        )
        waiting = self._began_at is not None and now - self._began_at < usual(self._context.config)
        if measured.watts is None and waiting:
            # A meter may take a while to be heard after a start; what is wanted stays.
            return []
        self._say_once(group.group_id, measured.detail if measured.watts is None else None)
        plan = snapshot.plans.get(group.group_id)
        return steering.setpoints(
            [d for d in steered if not isinstance(d.ability, Weekly)],
            [d for d in steered if isinstance(d.ability, Weekly)],
            envelope=envelope,
            measured=measured,
            margin=settings.margin,
            now=now,
            phases=phases,
            planned=NO_WISHES if plan is None else plan.wishes(steered, now=now),
        )

    def _phases(
        self,
        group: DueGroup,
        settings: Settings,
        messages: Sequence[Forecast],
        steered: Sequence[Steered],
        now: datetime,
    ) -> Phases:
        """Return the limits of single phases, if a device is connected to some of them only."""
        if not any(getattr(device.ability, "phases", ()) for device in steered):
            return Phases()
        online, terms = group.provider_online, settings.terms
        limits = phase_limits(messages, at=now, provider_online=online, terms=terms)
        if not limits:
            return Phases()
        sum_w = limits_of_sum(messages, at=now, provider_online=online, terms=terms)
        return Phases(count=terms.phases, limits=limits, sum_w=sum_w)

    def _say_once(self, group_id: int, trouble: str | None) -> None:
        if self._warned.get(group_id) != trouble:
            self._warned[group_id] = trouble
            if trouble is not None:
                log.warning("control.measurement_missing", group=group_id, detail=trouble)
            else:
                log.info("control.measurement_back", group=group_id)


def next_look(
    held: Iterable[Envelope | PhaseLimit], *, now: datetime, interval_s: float
) -> datetime:
    """Return when to look again: after the interval, or exactly when something changes."""
    ends = [one.end_at for one in held if one.end_at is not None]
    return min([now + timedelta(seconds=interval_s), *ends])


def _changed(
    group: DueGroup, envelope: Envelope, in_force: EnvelopeRow | None
) -> EnvelopeRow | None:
    """Return the row to append, None if what is in force says the same."""
    row = EnvelopeRow(
        group_id=group.group_id,
        from_at=envelope.start_at,
        min_w=envelope.min_w,
        max_w=envelope.max_w,
        optimum_w=envelope.optimum_w,
        reason=envelope.reason,
        forecast_ids=list(envelope.forecast_ids),
        phases=[{**asdict(one), "phase": str(one.phase)} for one in envelope.phases],
    )
    return None if in_force is not None and in_force.says_the_same(row) else row


def _reason(snapshot: Snapshot, group_id: int) -> str | None:
    """Return why what is in force is. A plan knows the edges of blocks, not who falls silent."""
    held = snapshot.in_force.get(group_id)
    return None if held is None else held.reason


async def _write(
    context: Context,
    conn: AsyncConnection,
    decisions: Sequence[Decision],
    snapshot: Snapshot,
    now: datetime,
) -> None:
    rows = [decision.envelope for decision in decisions if decision.envelope is not None]
    ids = {group_id: row.id for group_id, row in snapshot.in_force.items()}
    if rows:
        ids |= await control.append_envelopes(conn, rows)
        await announcing.owe_envelopes(context, conn, rows, now=now)
        for row in rows:
            log.info(
                "envelope.changed",
                group=row.group_id,
                min_w=row.min_w,
                max_w=row.max_w,
                optimum_w=row.optimum_w,
                reason=row.reason,
            )
    wishes = [
        Wish(
            name=wanted.device.name,
            wanted=rules.stored(wanted.command),
            plan=wanted.plan,
            group_id=decision.group_id,
            envelope_id=ids.get(decision.group_id),
            left_alone=wanted.device.alone or wanted.device.waits,
        )
        for decision in decisions
        for wanted in decision.wanted
    ]
    if wishes:
        await devices.want(conn, wishes, now=now)
    await plans.heard(
        conn,
        newest={
            decision.group_id: max((m.id for m in snapshot.forecasts[decision.group_id]), default=0)
            for decision in decisions
        },
        anew=[row.group_id for row in rows if row.reason != _reason(snapshot, row.group_id)],
        due_at=now + _PLAN_SOON,
        apart=_PLANS_APART,
    )
    await control.settle(
        conn,
        due={decision.group_id: decision.due_at for decision in decisions},
        until={decision.group_id: decision.until_at for decision in decisions},
    )
