"""Every quarter of an hour and after a new forecast: who is to carry what over the next week.

Groups to be planned are due rows, so any number of daemons share them. Everything is read first;
what takes long is calculated in a thread, without a transaction; plan and next due time are written
together. Fuel cells are in the plan as their profiles say (`flows.fuel_cells`): those follow from
the limits by arithmetic and must not change each quarter of an hour. Batteries are planned around
them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from fpd import planner
from fpd.adapters.device import Health, Profile
from fpd.config import Control as ControlConfig
from fpd.domain.control.ability import Storage, Weekly
from fpd.domain.control.caps import (
    TICKS_PER_WEEK,
    NetLoad,
    Window,
    tick_limits,
    tick_of,
    tick_start,
)
from fpd.domain.control.expected import Expected
from fpd.domain.control.plan import Generator, Problem, Store
from fpd.domain.control.setpoint import Battery
from fpd.domain.forecast import Envelope, envelopes
from fpd.domain.supersede import spent
from fpd.flows import blocks, expected, fuel_cells, planned
from fpd.flows import device_rules as rules
from fpd.flows.context import Context
from fpd.flows.control_settings import Settings, settings_of
from fpd.flows.planned import Told
from fpd.flows.steered import Steered
from fpd.store import control, devices, forecasts, plans
from fpd.store.control import DueGroup
from fpd.store.forecasts import Kept
from fpd.store.plans import PlanRow

log = structlog.get_logger()

_LEASE = timedelta(seconds=120)
_BATCH = 4
_AFTER_THE_EDGE_S = 1
_UNFIT = (Health.DEGRADED, Health.STOPPED)  # also when others seem to control it
_LEFT_OUT = timedelta(minutes=2)
_SPREAD_S = 20  # groups are not all planned in one second


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """All that decides about the plan of a group, as of `now`."""

    group: DueGroup
    settings: Settings
    heard: Sequence[Kept]
    steered: Sequence[Steered]
    load: Expected
    now: datetime


async def step(context: Context) -> bool:
    """Plan the groups that are due, a few at a time; True if there may be more."""
    now = context.clock()
    async with context.db.transaction() as conn:
        await plans.enrol(conn, now=now)
        due = await plans.claim(conn, now=now, lease=_LEASE, limit=_BATCH)
    for group in due:
        made = await _made(context, group) if group.enabled else None
        async with context.db.transaction() as conn:
            if made is not None:
                await plans.keep(conn, made)
            due_at = _next(group, made, context.clock())
            await plans.settle(conn, group_id=group.group_id, due_at=due_at)
    return len(due) == _BATCH


def _next(group: DueGroup, made: PlanRow | None, now: datetime) -> datetime:
    """Return the next quarter of an hour, a little spread; earlier if a device was left out."""
    if made is not None and any("power_w" not in told for told in made.periods["devices"]):
        return now + _LEFT_OUT
    late_s = _AFTER_THE_EDGE_S + group.group_id % _SPREAD_S
    return tick_start(tick_of(now) + 1) + timedelta(seconds=late_s)


async def _made(context: Context, group: DueGroup) -> PlanRow:
    seen = await _look(context, group)
    made = await asyncio.to_thread(_compute, seen, context.config.control)
    log.info(
        "plan.made",
        group=group.group_id,
        source=made.source,
        solve_s=round(made.solve_s, 3),
        breaks=len(made.breaks),
    )
    return made


async def _look(context: Context, group: DueGroup) -> _Seen:
    now, settings = context.clock(), settings_of(group.control)
    configured = {device.name: device for device in context.config.devices}
    async with context.db.connection() as conn:
        assets = await control.assets(conn, group_ids=[group.group_id])
        states = await devices.load(conn, names=list(configured))
        heard = await forecasts.load(conn, group_ids=[group.group_id])
    steered = [
        Steered(
            config=configured[asset.device],
            priority=asset.priority,
            state=states[asset.device],
            reading=rules.reading_of(states[asset.device]),
            alone=False,
        )
        for asset in assets
        if asset.drives and asset.device is not None and asset.device in states
    ]
    load = await expected.look(
        context, group, settings, assets, [one.config for one in steered], now=now
    )
    return _Seen(
        group=group,
        settings=settings,
        heard=heard.get(group.group_id, ()),
        steered=steered,
        load=load,
        now=now,
    )


def _compute(seen: _Seen, config: ControlConfig) -> PlanRow:
    """Return the plan. Takes up to seconds: a thread's work."""
    of, settings = Window(tick_of(seen.now)), seen.settings
    messages = [blocks.read(kept) for kept in seen.heard]
    gone = {message.id for message in spent(messages, at=seen.now)}
    week = envelopes(
        [message for message in messages if message.id not in gone],
        start_at=of.start_at,
        end_at=of.end_at,
        terms=settings.terms,
        provider_online=seen.group.provider_online,
        optimizer_online=seen.group.optimizer_online,
    )
    # What generators may deliver without any load is the limits themselves.
    bare = tick_limits(week, window=of, net_load=NetLoad())
    stores, left_out = _stores(seen, config)
    quarters = [tick % TICKS_PER_WEEK for tick in range(of.first, of.first + of.ticks)]
    problem = Problem(
        period_s=900,
        load_w=tuple(float(seen.load.usual_w[q]) for q in quarters),
        import_w=tuple(None if w is None else -w for w in bare.least_w),
        export_w=bare.most_w,
        optimum_w=tuple(None if w is None else -w for w in bare.wanted_w),
        stores=tuple(stores),
        generators=tuple(_cells(seen, config, week, of)),
        spare=float(settings.margin),
    )
    made = planner.plan(problem, time_limit_s=config.plan_time_limit_s)
    return planned.written(
        seen.group.group_id,
        problem,
        made.plan,
        now=seen.now,
        from_at=of.start_at,
        solve_s=made.solve_s,
        load=seen.load,
        left_out=left_out,
        capacities_wh={
            one.name: float(one.ability.battery.capacity_wh)
            for one in seen.steered
            if isinstance(one.ability, Storage)
        },
    )


def _stores(seen: _Seen, config: ControlConfig) -> tuple[list[Store], list[Told]]:
    """Return the batteries that can be planned with, and those that cannot."""
    stores, left_out = [], []
    for one in seen.steered:
        ability, reading = one.ability, one.reading
        if not isinstance(ability, Storage):
            continue
        why_not = _why_not(one, seen.now)
        if why_not is None and reading is not None and reading.soc is not None:
            stores.append(_store(one, ability.battery, reading.soc, config))
        else:
            left_out.append(Told(name=one.name, type="battery", detail=why_not))
    return stores, left_out


def _why_not(one: Steered, now: datetime) -> str | None:
    """Say why a battery cannot be planned with, None: it can."""
    if one.reading is None or one.reading.soc is None or not one.fresh(now):
        return one.state.detail or "not read lately"
    if not one.reading.dispatchable or one.state.health in _UNFIT:
        return one.reading.detail or one.state.detail or "it cannot be dispatched"
    return None


def _store(one: Steered, battery: Battery, soc: float, config: ControlConfig) -> Store:
    """Interpretation: if not said otherwise, the end of a plan should find what is there now."""
    per_cent = float(battery.capacity_wh) / 100
    end_soc = soc if config.plan_end_soc is None else config.plan_end_soc
    least_wh, most_wh = float(battery.soc_min) * per_cent, float(battery.soc_max) * per_cent
    return Store(
        name=one.name,
        energy_wh=soc * per_cent,
        least_wh=least_wh,
        most_wh=most_wh,
        max_charge_w=battery.max_charge_w,
        max_discharge_w=battery.max_discharge_w,
        eff_charge=float(battery.eff_charge),
        eff_discharge=float(battery.eff_discharge),
        end_wh=min(max(end_soc * per_cent, least_wh), most_wh),
        priority=one.priority,
    )


def _cells(
    seen: _Seen, config: ControlConfig, week: tuple[Envelope, ...], of: Window
) -> list[Generator]:
    """Return the fuel cells with what they will deliver.

    Interpretation: one that no profile of ours rules goes on as it does now.
    """
    cells = [one for one in seen.steered if isinstance(one.ability, Weekly)]
    wanted = {
        found.device.name: found.command
        for found in fuel_cells.profiles(
            cells, week=week, of=of, load=seen.load, count_on_load=config.cells_count_on_load
        )
    }
    found = []
    for cell in cells:
        command, reading = wanted.get(cell.name), cell.reading
        if isinstance(command, Profile) and reading is not None and reading.dispatchable:
            assert isinstance(cell.ability, Weekly)
            anchor, powers = cell.ability.week, fuel_cells.curve(command)
            ticks = range(of.first, of.first + of.ticks)
            curve = [max(powers[index] for index in anchor.indices(tick)) for tick in ticks]
        else:
            now_w = 0 if reading is None or reading.output_w is None else round(reading.output_w)
            curve = [now_w] * of.ticks
        found.append(Generator.fixed(cell.name, curve))
    return found
