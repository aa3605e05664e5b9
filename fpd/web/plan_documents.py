"""What is answered about a group's plan, as it is written and as `/openapi.json` describes it.

Powers are W: of the group into it positive, of devices delivered positive (a battery's charge is
negative). A list has a value for each period from `from` on; null is no limit, no wish.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from msgspec import Meta, Struct, field

from fpd.flows.planned import Planned, Told
from fpd.web.status import rfc3339

Instant = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]


class PlannedDevice(Struct, rename="camel", kw_only=True):
    """What a device is to do; of a battery the charge (%) and the energy kept for later (Wh) at
    the end of each period. Null lists: it was left out, `detail` says why.
    """

    name: str
    type: str
    power_w: list[int] | None
    soc: list[float] | None
    reserve_wh: list[int] | None
    detail: str | None


class PlannedBreak(Struct, rename="camel", kw_only=True):
    """A limit that will not be kept during [from, until), by `byW` at worst."""

    from_: Instant = field(name="from")
    until: Instant
    which: str
    by_w: int
    reason: str


class PlanShown(Struct, rename="camel", kw_only=True):
    """Who carries what over the next week. `source`: highs, or arithmetic and why."""

    group_id: int
    made: Instant | None
    from_: Instant | None = field(name="from")
    until: Instant | None
    period_s: int
    source: str
    solve_s: float
    load_source: str
    load_w: list[int]
    least_load_w: list[int]
    most_load_w: list[int]
    import_limit_w: list[int | None]
    export_limit_w: list[int | None]
    optimum_w: list[int | None]
    net_w: list[int]
    devices: list[PlannedDevice]
    breaks: list[PlannedBreak]


def shown(plan: Planned, *, most: int | None = None) -> PlanShown:
    """Return a plan as it is answered; with `most`, only so many of its periods."""
    row, periods = plan.row, plan.row.periods
    count = len(periods["load_w"][:most])
    names = ("load_w", "least_load_w", "most_load_w", "import_limit_w", "export_limit_w")
    return PlanShown(
        group_id=row.group_id,
        made=rfc3339(row.made_at),
        from_=rfc3339(row.from_at),
        until=rfc3339(row.from_at + timedelta(seconds=count * periods["period_s"])),
        period_s=periods["period_s"],
        source=row.source,
        solve_s=round(row.solve_s, 3),
        load_source=periods["load_source"],
        **{name: periods[name][:most] for name in (*names, "optimum_w", "net_w")},
        devices=[_device(told, most) for told in plan.devices.values()],
        breaks=[
            PlannedBreak(
                from_=one["from"],
                until=one["to"],
                which=one["which"],
                by_w=one["by_w"],
                reason=one["reason"],
            )
            for one in row.breaks
        ],
    )


def _device(told: Told, most: int | None) -> PlannedDevice:
    return PlannedDevice(
        name=told.name,
        type=told.type,
        power_w=None if told.power_w is None else list(told.power_w[:most]),
        soc=None if told.soc is None else list(told.soc[:most]),
        reserve_wh=None if told.reserve_wh is None else list(told.reserve_wh[:most]),
        detail=told.detail,
    )
