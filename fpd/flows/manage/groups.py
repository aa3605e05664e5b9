"""Capacity groups, their assets and settings: what changes of them entail."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fpd.domain.entities import MeasurementPeriod
from fpd.flows.manage import tables
from fpd.flows.manage.entity import Change, Entity
from fpd.flows.manage.refusals import Fault
from fpd.store import entities, forecasts
from fpd.store.entities import Connection, Row

_OPTIMIZER_PERIOD = "capacityOptimizerMeasurementPeriod"


def _check(given: Mapping[str, Any]) -> list[Fault]:
    """Interpretation: decision P8, without an optimizer nobody needs its period."""
    if given.get("capacityOptimizerId") is None or given.get(_OPTIMIZER_PERIOD) is not None:
        return []
    return [Fault(_OPTIMIZER_PERIOD, "is required")]


def _columns(change: Change) -> Mapping[str, Any]:
    values = dict(change.values or {})
    if values["optimizer_period_s"] is None:
        values["optimizer_period_s"] = MeasurementPeriod.FIFTEEN_MINUTE.seconds
    return values


def _group_steers(made: Row) -> bool:
    return made["control"] is not None


def _asset_steers(made: Row) -> bool:
    return made["control"] is not None or made["along"]


async def _group_changed(conn: Connection, change: Change, after: Row) -> None:
    await forecasts.want_control(conn, group_ids=[after["id"]], now=change.now)


async def _asset_changed(conn: Connection, change: Change, after: Row) -> None:
    """An asset that moves concerns both groups; in the order of their ids, so none waits long."""
    rows = (after,) if change.before is None else (after, change.before)
    for group_id in sorted({row["group_id"] for row in rows}):
        await forecasts.want_control(conn, group_ids=[group_id], now=change.now)


GROUP = Entity(
    noun="capacity group",
    path="capacity-groups",
    id_name="groupId",
    table=entities.GROUPS,
    fields=tables.GROUP,
    check=_check,
    columns=_columns,
    steers=_group_steers,
    follow=_group_changed,
)
ASSET = Entity(
    noun="asset",
    path="assets",
    id_name="assetId",
    table=entities.ASSETS,
    fields=tables.ASSET,
    steers=_asset_steers,
    follow=_asset_changed,
)
USER_SETTINGS = Entity(
    noun="settings",
    path="settings",
    id_name="userId",
    table=entities.USER_SETTINGS,
    fields=tables.USER_SETTINGS,
)
GROUP_SETTINGS = Entity(
    noun="settings",
    path="capacity-groups",
    id_name="groupId",
    table=entities.GROUP_SETTINGS,
    fields=tables.GROUP_SETTINGS,
)
