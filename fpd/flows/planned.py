"""The plan in force of each group: written down, remembered, and what control makes of it.

A plan gives wishes only, and only to batteries for which nothing else is wanted; limits in force
are kept by control whatever a plan says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil
from typing import Any, Final

from psycopg import AsyncConnection

from fpd.domain.compliance import Cause
from fpd.domain.control.ability import Storage
from fpd.domain.control.caps import TICKS_PER_WEEK, tick_of, tick_start
from fpd.domain.control.expected import Expected
from fpd.domain.control.plan import Break, Plan, Problem
from fpd.domain.control.wishes import NO_WISHES, Wishes
from fpd.flows.context import Context
from fpd.flows.explain import own
from fpd.flows.steered import Steered
from fpd.store import plans
from fpd.store.explain import Group
from fpd.store.plans import PlanRow

_OLD: Final = timedelta(minutes=30)
_OLD_LOAD: Final = timedelta(days=1)
_LEAST_W: Final = 50  # no battery follows less
_NEAR: Final = 0.02  # of its capacity
_DAY: Final = 96


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a plan says of one device. Without `power_w` it was left out; `detail` says why.

    Of a battery also: `soc` (%) and `reserve_wh` at each period's end.
    """

    name: str
    type: str
    power_w: tuple[int, ...] | None = None
    soc: tuple[float, ...] | None = None
    reserve_wh: tuple[int, ...] | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A plan as control reads it."""

    row: PlanRow
    load: Expected
    devices: Mapping[str, Told]

    def load_at(self, now: datetime) -> Expected | None:
        """Return the load expected, unless that is too long ago."""
        return self.load if now - self.row.made_at <= _OLD_LOAD else None

    def wishes(self, devices: Iterable[Steered], *, now: datetime) -> Wishes:
        """Return what is wished of batteries now.

        A battery that holds hardly more than what is planned with later is kept from giving it.
        """
        position = tick_of(now) - tick_of(self.row.from_at)
        if not timedelta(0) <= now - self.row.made_at <= _OLD:
            return NO_WISHES
        found, reserves = {}, {}
        for device in devices:
            told, ability = self.devices.get(device.name), device.ability
            if told is None or told.power_w is None or told.reserve_wh is None:
                continue
            if not isinstance(ability, Storage) or not 0 <= position < len(told.power_w):
                continue
            power_w = told.power_w[position]
            soc = None if device.reading is None else device.reading.soc
            capacity_wh = float(ability.battery.capacity_wh)
            least_wh = float(ability.battery.soc_min) * capacity_wh / 100
            reserve_wh = told.reserve_wh[position]
            if reserve_wh > least_wh:
                reserves[device.name] = reserve_wh
            spare_wh = (soc or 0) * capacity_wh / 100 - reserve_wh
            if abs(power_w) >= _LEAST_W:
                found[device.name] = power_w
            elif reserve_wh > least_wh and spare_wh < _NEAR * capacity_wh:
                found[device.name] = 0
        return Wishes(power_w=found, reserve_wh=reserves, beyond_w=self._beyond_w(position))

    def _beyond_w(self, position: int) -> int:
        """Return what batteries discharge together in a period beyond what its limit asks for."""
        periods = self.row.periods
        given_w = sum(
            told.power_w[position]
            for told in self.devices.values()
            if told.type == "battery" and told.power_w and position < len(told.power_w)
        )
        limit_w: int | None = periods["import_limit_w"][position]
        if limit_w is None:
            return max(given_w, 0)
        net_w: float = periods["net_w"][position]
        spare: float = periods.get("spare", 0.0)
        asked_w = max(ceil(net_w + given_w - limit_w * (1 - spare)), 0)
        return max(given_w - asked_w, 0)


class Plans:
    """The newest plans, read once each."""

    def __init__(self) -> None:
        self._known: dict[int, Planned] = {}

    async def look(
        self, conn: AsyncConnection, *, group_ids: Sequence[int] | None = None
    ) -> dict[int, Planned]:
        """Return the newest plan of each of the groups, None: of all, that has one."""
        newest = await plans.newest_ids(conn, group_ids=group_ids)
        missing = [id for group, id in newest.items() if not self._knows(group, id)]
        for row in await plans.load(conn, ids=missing) if missing else ():
            self._known[row.group_id] = planned(row)
        return {group: self._known[group] for group in newest if group in self._known}

    def _knows(self, group_id: int, id: int) -> bool:
        known = self._known.get(group_id)
        return known is not None and known.row.id >= id


def written(
    group_id: int,
    problem: Problem,
    plan: Plan,
    *,
    now: datetime,
    from_at: datetime,
    solve_s: float,
    load: Expected,
    left_out: Sequence[Told],
    capacities_wh: Mapping[str, float],
) -> PlanRow:
    """Write a plan down."""
    told: list[dict[str, Any]] = [
        {
            "name": store.name,
            "type": "battery",
            "power_w": plan.store_w[i],
            "soc": [round(100 * wh / capacities_wh[store.name], 1) for wh in plan.energy_wh[i]],
            "reserve_wh": [round(wh) for wh in plan.reserve_wh[i]],
        }
        for i, store in enumerate(problem.stores)
    ]
    told += [
        {"name": cell.name, "type": "bluegen", "power_w": plan.generator_w[i]}
        for i, cell in enumerate(problem.generators)
    ]
    told += [{"name": one.name, "type": one.type, "detail": one.detail} for one in left_out]
    quarters = [tick % TICKS_PER_WEEK for tick in range(tick_of(from_at), tick_of(from_at) + 672)]
    return PlanRow(
        group_id=group_id,
        made_at=now,
        from_at=from_at,
        source=plan.source,
        solve_s=solve_s,
        periods={
            "period_s": problem.period_s,
            "spare": problem.spare,
            "load_source": load.source,
            "load_known": load.is_known,
            "load_w": [load.usual_w[q] for q in quarters],
            "least_load_w": [load.least_w[q] for q in quarters],
            "most_load_w": [load.most_w[q] for q in quarters],
            "import_limit_w": problem.import_w,
            "export_limit_w": problem.export_w,
            "optimum_w": problem.optimum_w,
            "net_w": [round(net) for net in plan.net_w],
            "devices": told,
        },
        breaks=[_break(one, from_at, left_out) for one in plan.breaks],
    )


def _break(found: Break, from_at: datetime, left_out: Sequence[Told]) -> dict[str, Any]:
    """Interpretation: power that is missing is that of a battery that was left out, if one was."""
    first = tick_of(from_at)
    power = Cause.DEVICE if left_out else Cause.FLOOR
    return {
        "from": tick_start(first + found.first).isoformat(),
        "to": tick_start(first + found.last + 1).isoformat(),
        "which": found.which,
        "by_w": found.by_w,
        "reason": found.reason,
        "cause": (Cause.ENERGY if found.is_energy else power).value,
    }


async def breaks(
    conn: AsyncConnection, group_ids: Sequence[int], now: datetime
) -> Mapping[int, Sequence[Mapping[str, Any]]]:
    """Return what the plans of groups break, if they are of late and the load is known."""
    return await plans.breaks(conn, group_ids=group_ids, since=now - _OLD)


def planned(row: PlanRow) -> Planned:
    """Read a plan."""
    periods = row.periods
    return Planned(
        row=row,
        load=Expected(
            least_w=_by_quarter(periods["least_load_w"], row.from_at),
            usual_w=_by_quarter(periods["load_w"], row.from_at),
            most_w=_by_quarter(periods["most_load_w"], row.from_at),
            source=periods["load_source"],
        ),
        devices={
            one["name"]: Told(
                name=one["name"],
                type=one["type"],
                detail=one.get("detail"),
                **{
                    name: tuple(one[name])
                    for name in ("power_w", "soc", "reserve_wh")
                    if one.get(name) is not None
                },
            )
            for one in periods["devices"]
        },
    )


def _by_quarter(values: Sequence[int], from_at: datetime) -> tuple[int, ...]:
    shift = tick_of(from_at) % TICKS_PER_WEEK
    return tuple(values[(quarter - shift) % TICKS_PER_WEEK] for quarter in range(TICKS_PER_WEEK))


def compact(plan: Planned) -> dict[str, Any]:
    """Return the next day of a plan, for those who only want to see it."""
    row, periods = plan.row, plan.row.periods
    names = {
        "loadW": "load_w",
        "importLimitW": "import_limit_w",
        "exportLimitW": "export_limit_w",
        "netW": "net_w",
    }
    return {
        "groupId": row.group_id,
        "made": row.made_at,
        "from": row.from_at,
        "periodS": periods["period_s"],
        "source": row.source,
        "loadSource": periods["load_source"],
        **{name: periods[key][:_DAY] for name, key in names.items()},
        "devices": [
            {
                "name": told.name,
                "powerW": None if told.power_w is None else told.power_w[:_DAY],
                "soc": None if told.soc is None else told.soc[:_DAY],
            }
            for told in plan.devices.values()
        ],
        "breaks": [
            {
                "from": one["from"],
                "until": one["to"],
                "which": one["which"],
                "byW": one["by_w"],
                "reason": one["reason"],
            }
            for one in row.breaks[:_DAY]
        ],
    }


async def read(context: Context, *, user_id: int | None, group_id: int) -> Planned | None:
    """Return the newest plan of a group, None: there is none yet. Raises Unknown."""
    return (await of_group(context, user_id=user_id, group_id=group_id))[1]


async def of_group(
    context: Context, *, user_id: int | None, group_id: int
) -> tuple[Group, Planned | None]:
    """Return a group and its newest plan. Raises Unknown."""
    async with context.db.transaction() as conn:
        group = await own(conn, user_id=user_id, group_id=group_id)
        return group, (await Plans().look(conn, group_ids=[group_id])).get(group_id)
