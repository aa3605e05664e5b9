"""What providers have to hear of what cannot be kept, owed as it is written down."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby

import msgspec
import structlog
from psycopg import AsyncConnection

from fpd.domain.compliance import SAID, Cause, wanted_capacity
from fpd.domain.forecast import ForecastType, Terms
from fpd.flows import blocks
from fpd.oscp import messages
from fpd.oscp.headers import new_request_id
from fpd.oscp.messages import UpdateGroupCapacityForecast
from fpd.store import compliance as store
from fpd.store import events, outbox
from fpd.store.compliance import Cleared, Known, Noted
from fpd.store.outbox import Owed
from fpd.store.watch import Due

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Heard:
    """A forecast: our id, its sender's, and what it says."""

    id: int
    request_id: str
    said: UpdateGroupCapacityForecast

    @classmethod
    def of(cls, kept: Known) -> _Heard:
        said = messages.decode(kept.body, UpdateGroupCapacityForecast)
        return cls(kept.id, kept.request_id, said)


_AT_LEAST = timedelta(hours=24)
# What another capacity would mend; a fallback is not for now, and nobody can grant a quota.
_MENDED = (Cause.FLOOR, Cause.ENERGY, Cause.RAMP)
_ADJUSTABLE = (ForecastType.CONSUMPTION, ForecastType.GENERATION)


async def owe(
    conn: AsyncConnection,
    noted: Sequence[Noted],
    due: Sequence[Due],
    *,
    terms: Mapping[int, Terms],
    asking: Collection[int],
    now: datetime,
) -> list[str]:
    """Owe what was not said yet; return the reason of each block that is told.

    Blocks of one forecast with one reason go in one message. `asking`: the groups whose provider
    is asked for another capacity.
    """
    groups = {one.group_id: one for one in due}
    speaking = {
        one.forecast_id for one in noted if one.to_tell or (one.to_ask and one.group_id in asking)
    }
    kept = await store.known(conn, ids=speaking)
    known = await asyncio.to_thread(lambda: {one.id: _Heard.of(one) for one in kept})
    told: list[str] = []
    owed: list[Owed] = []
    for those in _together(noted):
        group, forecast = groups[those[0].group_id], known.get(those[0].forecast_id)
        telling = [one for one in those if one.to_tell and forecast is not None]
        if forecast is not None and telling:
            message = _error(group, forecast, telling, now)
            owed.append(message)
            told += [one.reason for one in telling]
            ids = [one.id for one in telling]
            await store.set_told(conn, ids=ids, request_id=message.request_id)
        if any(one.settled_now or one in telling for one in those):
            await _found(conn, group, those, owed[-1].request_id if telling else None, now)
    for forecast, wished in _wished(noted, known, asking):
        group = groups[wished[0].group_id]
        message = _wish(group, forecast, wished, terms[group.group_id], now)
        owed.append(message)
        await store.set_asked(conn, ids=[o.id for o in wished], request_id=message.request_id)
        data = {"by": "fpd", "forecastId": forecast.id, "blocks": len(wished)}
        await events.record(
            conn,
            kind="forecast.adjustment_wished",
            at=now,
            user_id=group.user_id,
            peer_id=message.peer_id,
            group_id=group.group_id,
            data=data,
        )
        log.info("forecast.adjustment_wished", group=group.group_id, **data)
    await outbox.owe(conn, owed, now=now)
    return told


def _together(noted: Sequence[Noted]) -> Iterator[list[Noted]]:
    """Yield what concerns one group, forecast and reason."""

    def key(one: Noted) -> tuple[int, int, str]:
        return one.group_id, one.forecast_id, one.reason

    for _, those in groupby(sorted(noted, key=lambda one: (key(one), one.block)), key=key):
        yield list(those)


def _error(group: Due, forecast: _Heard, telling: Sequence[Noted], now: datetime) -> Owed:
    said = forecast.said.forecasted_blocks
    worst_w, reason = max(one.by_w for one in telling), Cause(telling[0].reason)
    message = messages.GroupCapacityComplianceError(
        message=f"{SAID[reason]}: {telling[0].direction} up to {worst_w} W beyond ({reason})",
        forecasted_blocks=tuple(said[one.block] for one in telling),
    )
    return _owed(group, forecast, telling, "group_capacity_compliance_error", message, now)


def _wished(
    noted: Sequence[Noted], known: Mapping[int, _Heard], asking: Collection[int]
) -> Iterator[tuple[_Heard, list[Noted]]]:
    """Yield what is to be asked for: each block of a forecast once, for its worst reason."""
    worst: dict[tuple[int, int], Noted] = {}
    for one in noted:
        forecast = known.get(one.forecast_id)
        if not one.to_ask or one.group_id not in asking or one.reason not in _MENDED:
            continue
        if forecast is None or forecast.said.type not in _ADJUSTABLE:
            continue
        key = one.forecast_id, one.block
        worst[key] = max(one, worst.get(key, one), key=lambda other: other.power_w)
    for forecast_id, those in groupby(
        (worst[key] for key in sorted(worst)), key=lambda one: one.forecast_id
    ):
        yield known[forecast_id], list(those)


def _wish(
    group: Due, forecast: _Heard, wished: Sequence[Noted], terms: Terms, now: datetime
) -> Owed:
    """Return the wish for a capacity that would do; the time is that of the blocks."""
    said = forecast.said
    meant = blocks.of_wire(said.forecasted_blocks)
    message = messages.AdjustGroupCapacityForecast(
        group_id=group.identifier,
        type=said.type,
        forecasted_blocks=tuple(
            msgspec.structs.replace(
                said.forecasted_blocks[one.block],
                capacity=float(wanted_capacity(meant[one.block], one.power_w, terms)),
            )
            for one in wished
        ),
    )
    return _owed(group, forecast, wished, "adjust_group_capacity_forecast", message, now)


def _owed(
    group: Due,
    forecast: _Heard,
    those: Sequence[Noted],
    operation: str,
    message: msgspec.Struct,
    now: datetime,
) -> Owed:
    peer_id = those[0].peer_id
    assert peer_id is not None
    said = forecast.said.forecasted_blocks
    return Owed(
        peer_id=peer_id,
        lane=f"group:{group.group_id}",
        operation=operation,
        body=messages.encode(message),
        request_id=new_request_id(),
        correlation_id=forecast.request_id,
        group_id=group.group_id,
        due_at=now,
        expires_at=max([now + _AT_LEAST, *(said[one.block].end_time for one in those)]),
    )


async def _found(
    conn: AsyncConnection,
    group: Due,
    those: Sequence[Noted],
    told_as: str | None,
    now: datetime,
) -> None:
    """Let an operator know, whether the provider can be told or not."""
    worst = max(those, key=lambda one: one.by_w)
    data = {
        "forecastId": worst.forecast_id or None,
        "reason": worst.reason,
        "direction": worst.direction,
        "blocks": len(those),
        "byW": worst.by_w,
        "toldAs": told_as,
    }
    await events.record(
        conn,
        kind="forecast.found_impossible",
        at=now,
        user_id=group.user_id,
        peer_id=worst.peer_id,
        group_id=group.group_id,
        data=data,
    )
    log.warning("forecast.found_impossible", group=group.group_id, **data)


async def clear(
    conn: AsyncConnection,
    due: Sequence[Due],
    *,
    unsure: Mapping[int, bool],
    now: datetime,
    patience: timedelta,
) -> None:
    """Let go what can be kept again or is over; wishes that nobody has sent yet go with it."""
    users = {one.group_id: one.user_id for one in due}
    cleared = await store.clear(conn, unsure=unsure, now=now, patience=patience)
    withdrawn = [one.asked_as for one in cleared if one.asked_as is not None]
    if withdrawn:
        await store.withdraw(conn, request_ids=withdrawn, now=now)
    for one in _settled(cleared):
        data = {
            "forecastId": one.forecast_id or None,
            "block": one.block,
            "reason": one.reason,
            "over": one.end_at <= now,
        }
        await events.record(
            conn,
            kind="forecast.found_possible",
            at=now,
            user_id=users[one.group_id],
            peer_id=one.peer_id,
            group_id=one.group_id,
            data=data,
        )
        log.info("forecast.found_possible", group=one.group_id, **data)


def _settled(cleared: Iterable[Cleared]) -> Iterator[Cleared]:
    return (one for one in cleared if one.settled)
