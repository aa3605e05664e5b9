"""The truth towards providers: what of their forecasts cannot be kept, as soon as it is known.

Every 10 s each group under control is looked at: what its devices leave undone now, where the
profiles of its fuel cells go in the week to come, and what was measured. The blocks that this
breaks are written down, and what their provider has to hear is owed in the same transaction:
GroupCapacityComplianceError, correlated with the forecast (OSCP 2.0: it SHALL be), the very
blocks, once per forecast, block and reason (decision P15); and, where the group's `control` has
`requestAdjustment`, AdjustGroupCapacityForecast with the capacity that would do, once per
forecast and block.

Interpretation: what follows from forecasts and devices alone is told at once; what depends on
measurements, or on a device that is away, only after 30 s, because it may be a flicker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import structlog
from psycopg import AsyncConnection

from fpd.adapters.device import recalled
from fpd.domain import breach, compliance
from fpd.domain.breach import Breach, Limits, Measured
from fpd.domain.compliance import Cause, Flow, Foreseen, Trouble
from fpd.domain.control.ability import Weekly
from fpd.domain.control.caps import Window, tick_of
from fpd.domain.forecast import Forecast, Reason, envelopes
from fpd.flows import blocks, foresight, owed_truth, planned
from fpd.flows.context import Context
from fpd.flows.control_settings import Settings, properties_of, settings_of
from fpd.flows.foresight import Held
from fpd.flows.patience import patience, usual
from fpd.store import compliance as store
from fpd.store import control, devices, events, forecasts, watch
from fpd.store.compliance import Note
from fpd.store.control import Asset, Latest, Property
from fpd.store.watch import Due, InForce, Judged

log = structlog.get_logger()

EVERY = timedelta(seconds=10)
PATIENCE = breach.PATIENCE
_LEASE = timedelta(seconds=30)
_BATCH = 100
# What was measured before this is not judged any more, however late it is heard of.
_LATEST = timedelta(minutes=15)
_MOST_NOTES = 2000  # of a group; those that end first are told first
_OFFLINE = frozenset({Reason.FALLBACK, Reason.LAST_KNOWN})


Breaks = Callable[[AsyncConnection, Sequence[int], datetime], Awaitable[Mapping[int, Any]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _World:
    """What is known of some groups, as of one instant."""

    in_force: Mapping[int, Sequence[InForce]]
    assets: Mapping[int, Sequence[Asset]]
    held: Mapping[int, Sequence[Held]]
    latest: Mapping[Property, Latest]
    readings: Mapping[int, Sequence[tuple[datetime, Decimal]]]
    foreseen: Mapping[int, Sequence[Foreseen]]


@dataclass(slots=True, kw_only=True)
class _Found:
    """What one look at a group shows. `unsure`: what its load is, nobody knows.

    `broken`: flows that were measured, each with the forecasts that were in force then.
    """

    due: Due
    settings: Settings
    judged: Judged
    unsure: bool
    now: list[Flow] = field(default_factory=list)
    foreseen: Sequence[Foreseen] | None = None
    broken: list[tuple[Flow, InForce]] = field(default_factory=list)
    violations: list[Breach] = field(default_factory=list)
    held: Sequence[Held] = ()

    @property
    def wants_forecasts(self) -> bool:
        cells = any(isinstance(device.ability, Weekly) for device in self.held)
        return bool(self.now or self.broken or self.foreseen or cells)


class Compliance:
    """Looks at the groups whose promises are watched.

    `breaks`: returns by group what its plan foresees, as it is stored; a group without is left out.
    """

    def __init__(self, context: Context, *, breaks: Breaks = planned.breaks) -> None:
        self._context = context
        self._breaks = breaks
        self._configured = {device.name: device for device in context.config.devices}

    async def step(self) -> bool:
        """Look at no more than a batch of groups; True if there may be more."""
        context = self._context
        now = context.clock()
        async with context.db.transaction() as conn:
            await watch.enrol(conn, now=now)
            due = await watch.claim(conn, now=now, lease=_LEASE, limit=_BATCH)
        if not due:
            return False
        async with context.db.connection() as conn:
            found = await self._look(conn, due, now)
            said = await forecasts.load(
                conn, group_ids=[one.due.group_id for one in found if one.wants_forecasts]
            )
        notes: list[Note] = []
        terms = {one.due.group_id: one.settings.terms for one in found}
        for one in found:
            kept = said.get(one.due.group_id, [])
            notes += await asyncio.to_thread(_notes, one, kept, now)
        async with context.db.transaction() as conn:
            noted = await store.note(conn, notes, now=now, patience=PATIENCE)
            asking = {one.due.group_id for one in found if one.settings.request_adjustment}
            told = await owed_truth.owe(conn, noted, due, terms=terms, asking=asking, now=now)
            await _breached(conn, found, now)
            unsure = {one.due.group_id: one.unsure for one in found}
            await owed_truth.clear(conn, due, unsure=unsure, now=now, patience=PATIENCE)
            await watch.settle(conn, [one.judged for one in found], due_at=now + EVERY)
        self._count(found, told)
        return len(due) == _BATCH

    def _count(self, found: Sequence[_Found], told: Sequence[str]) -> None:
        for reason in told:
            self._context.metrics.compliance_errors.labels(reason).inc()
        for one in found:
            for violation in one.violations:
                labels = (str(one.due.group_id), str(violation.direction))
                self._context.metrics.limit_breaches.labels(*labels).inc()
        if told:
            self._context.bells.delivery()

    async def _look(self, conn: AsyncConnection, due: Sequence[Due], now: datetime) -> list[_Found]:
        group_ids = [one.group_id for one in due]
        settings = {one.group_id: settings_of(one.control) for one in due}
        by_group: dict[int, list[Asset]] = {group_id: [] for group_id in group_ids}
        for asset in await control.assets(conn, group_ids=group_ids):
            by_group[asset.group_id].append(asset)
        parts = {
            one.group_id: properties_of(
                settings[one.group_id], by_group[one.group_id], user_id=one.user_id
            )
            for one in due
        }
        latest = await control.latest(
            conn, properties=[p for found in parts.values() for p, _ in found], now=now
        )
        states = await devices.load(conn, names=list(self._configured))
        metered = {
            one.group_id: (parts[one.group_id][0][0], _judged_until(one, now))
            for one in due
            if settings[one.group_id].meter is not None and not settings[one.group_id].flexible
        }
        world = _World(
            in_force=await watch.in_force(conn, group_ids=group_ids, since=now - _LATEST),
            assets=by_group,
            held={
                group_id: [
                    Held.of(self._configured[asset.device], states[asset.device])
                    for asset in assets
                    if asset.drives and asset.device in states
                ]
                for group_id, assets in by_group.items()
            },
            latest=latest,
            readings=await watch.readings(conn, metered, now=now),
            foreseen={
                group_id: foresight.foreseen(stored)
                for group_id, stored in (await self._breaks(conn, group_ids, now)).items()
            },
        )
        return [self._found(one, settings[one.group_id], world, now) for one in due]

    def _found(self, due: Due, settings: Settings, world: _World, now: datetime) -> _Found:
        in_force = world.in_force[due.group_id]
        held = world.held[due.group_id]
        measured = self._measured(due, settings, world, now)
        readings = _readings(due, settings, world, measured, now)
        before = None if due.breach is None else recalled(due.breach, Breach)
        if before is not None and now - before.last_at > _LATEST:
            before = None
        limits = [
            Limits(id=e.id, from_at=e.from_at, min_w=e.min_w, max_w=e.max_w) for e in in_force
        ]
        going_on, violations = breach.judge(before, readings, limits)
        judged = Judged(
            group_id=due.group_id,
            judged_until=max([_judged_until(due, now), *(one.at for one in readings)]),
            breach=None if going_on is None else msgspec.to_builtins(going_on),
        )
        found = _Found(
            due=due,
            settings=settings,
            judged=judged,
            unsure=measured is None,
            violations=violations,
            held=held,
            foreseen=world.foreseen.get(due.group_id),
        )
        if not due.enabled or not in_force:
            return found
        by_id = {envelope.id: envelope for envelope in in_force}
        seen = [*violations, *([going_on] if going_on and going_on.is_violation else [])]
        found.broken = [
            (_flow_of(one), by_id[one.envelope_id]) for one in seen if one.envelope_id in by_id
        ]
        found.now = foresight.present(
            held,
            foresight.Now(
                at=now,
                min_w=in_force[-1].min_w,
                max_w=in_force[-1].max_w,
                margin=settings.margin,
                net_w=None if measured is None else measured.watts,
                plans_since=now - usual(self._context.config),
            ),
        )
        return found

    def _measured(
        self, due: Due, settings: Settings, world: _World, now: datetime
    ) -> Measured | None:
        """Return what the group takes with all its devices; None: not known.

        Without a meter it is what the uncontrolled assets take less what the devices deliver;
        with the scope Flexible only the latter counts.
        """
        parts = properties_of(settings, world.assets[due.group_id], user_id=due.user_id)
        heard = [(world.latest.get(property_), factor) for property_, factor in parts]
        patient = patience(self._context.config, (property_ for property_, _ in parts))
        if settings.meter is not None and not settings.flexible:
            ((one, factor),) = heard
            if one is None or now - one.at > patient:
                return None
            return Measured(one.at, one.value * factor)
        outputs = [device.output_w(now) for device in world.held[due.group_id]]
        known = [] if settings.flexible else [(one, f) for one, f in heard if one is not None]
        if any(watts is None for watts in outputs) or not (outputs or known):
            return None
        if any(now - one.at > patient for one, _ in known):
            return None
        load_w = sum((one.value * factor for one, factor in known), Decimal(0))
        read_at = [d.reading.at for d in world.held[due.group_id] if d.reading is not None]
        at = max([one.at for one, _ in known] + read_at)
        return Measured(min(at, now), load_w - sum(w for w in outputs if w is not None))


def _judged_until(due: Due, now: datetime) -> datetime:
    """Return until when readings were judged; a clock that was set back begins anew."""
    earliest = now - _LATEST
    return earliest if due.judged_until is None else max(min(due.judged_until, now), earliest)


def _readings(
    due: Due, settings: Settings, world: _World, measured: Measured | None, now: datetime
) -> list[Measured]:
    """Return what was measured since the last look: of a sum only its newest value is known."""
    if due.group_id in world.readings and settings.meter is not None:
        factor = settings.meter.factor
        return [Measured(at, value * factor) for at, value in world.readings[due.group_id]]
    if measured is None or measured.at <= _judged_until(due, now):
        return []
    return [measured]


def _flow_of(violation: Breach) -> Flow:
    return Flow(
        start_at=violation.last_at,
        end_at=violation.last_at + datetime.resolution,
        direction=violation.direction,
        power_w=violation.power_w,
        cause=Cause.MEASURED,
    )


def _notes(found: _Found, kept: Sequence[Any], now: datetime) -> list[Note]:
    """Return what cannot be kept of a group's forecasts; many blocks take their time."""
    if not found.wants_forecasts or not found.due.enabled:
        return []
    messages = tuple(map(blocks.read, kept))
    terms, online = found.settings.terms, found.due.provider_online
    flows = [*found.now, *_week(found, messages, now)]
    known = list(compliance.troubles(messages, flows, provider_online=online, terms=terms))
    for flow, then in found.broken:
        was_online = Reason(then.reason) not in _OFFLINE
        known += [
            trouble
            for trouble in compliance.troubles(
                messages, [flow], provider_online=was_online, terms=terms
            )
            if trouble.forecast_id in (compliance.NO_FORECAST, *then.forecast_ids)
        ]
    nearest = sorted(known, key=lambda trouble: trouble.end_at)[:_MOST_NOTES]
    return list({_key(t): _note(found.due.group_id, t) for t in nearest}.values())


def _week(found: _Found, messages: Sequence[Forecast], now: datetime) -> list[Flow]:
    """Return what a plan foresees for the week to come, else where the fuel cells go.

    A plan knows of no device that does not follow it; of those the cells tell themselves.
    """
    window = Window(tick_of(now))
    week = envelopes(
        messages,
        start_at=now,
        end_at=window.end_at,
        provider_online=found.due.provider_online,
        terms=found.settings.terms,
    )
    coming = foresight.coming(found.held, week=week, window=window)
    if found.foreseen is not None:
        coming = [flow for flow in coming if flow.cause in (Cause.DEVICE, Cause.QUOTA)]
        coming += compliance.flows_of(found.foreseen, week, window)
    return [flow for flow in coming if flow.end_at > now]


def _key(trouble: Trouble) -> tuple[int, int, Cause]:
    return trouble.forecast_id, trouble.place, trouble.cause


def _note(group_id: int, trouble: Trouble) -> Note:
    return Note(
        group_id=group_id,
        forecast_id=trouble.forecast_id,
        peer_id=trouble.peer_id,
        block=trouble.place,
        reason=trouble.cause,
        direction=trouble.direction,
        start_at=trouble.start_at,
        end_at=trouble.end_at,
        power_w=trouble.power_w,
        by_w=trouble.by_w,
        firm=trouble.firm,
    )


async def _breached(conn: AsyncConnection, found: Sequence[_Found], now: datetime) -> None:
    for one in found:
        for violation in one.violations:
            told = {
                "direction": str(violation.direction),
                "powerW": violation.power_w,
                "byW": violation.by_w,
                "envelopeId": violation.envelope_id,
            }
            await events.record(
                conn,
                kind="limit.breached",
                at=now,
                user_id=one.due.user_id,
                group_id=one.due.group_id,
                data=told,
            )
            log.warning("limit.breached", group=one.due.group_id, **told)
