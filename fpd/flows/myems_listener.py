"""What MyEMS is shown of a capacity group: forecasts as schedules, an event, energy of the day.

Schedules recur every day at times of day without a date, so only what holds within a day is
shown, split at the server's midnight, and taken away when it is over. fpd owns the rows that it
wrote: what it is about to write is remembered first, so that a row is found again whenever the
process ends (reference: myems §5.4). All of it is for people to see; nothing obeys it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

import msgspec
import structlog

from fpd.adapters.device import Clock, Memory, recalled
from fpd.adapters.lenient import mapping
from fpd.adapters.myems_api import Myems
from fpd.adapters.myems_server import ServerClock
from fpd.adapters.myems_shapes import Schedule
from fpd.adapters.myems_time import seconds_of_day
from fpd.adapters.platform import Polled
from fpd.config_myems import PlatformListener
from fpd.domain.forecast import Envelope, Reason
from fpd.errors import Unknown
from fpd.flows import datum_out, datum_readings
from fpd.flows.context import Context
from fpd.flows.datum_out import Asked
from fpd.flows.explain import planned

log = structlog.get_logger()

_TIMED: Final = frozenset({Reason.FORECAST, Reason.GAP_FALLBACK, Reason.FALLBACK})
_HOURS: Final = 23  # a row further ahead would be read as one of today
_DAY: Final = timedelta(days=1)
_DAY_S: Final = 86_400
_SETTLED: Final = timedelta(minutes=30)  # after midnight, for late datum
_AT_ONCE_S: Final = 0.05


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """A plan row as it is meant: seconds of the server's day, kW."""

    start_s: int
    end_s: int
    peak_type: str
    power: Decimal

    def is_like(self, row: Schedule) -> bool:
        return (
            seconds_of_day(row.start_time_of_day) == self.start_s
            and seconds_of_day(row.end_time_of_day) == self.end_s
            and (row.peak_type, row.power) == (self.peak_type, self.power)
        )

    def written(self) -> dict[str, object]:
        return {
            "start_time_of_day": _time(self.start_s),
            "end_time_of_day": _time(self.end_s),
            "peak_type": self.peak_type,
            "power": self.power,
        }


class Row(msgspec.Struct, kw_only=True):
    """A row of ours; `id` None: about to be written, or written by a process that ended then."""

    shown: Shown
    id: int | None = None


class _Memory(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`rows` are those of the owner `of`; `event` was told by the command `event_of`."""

    rows: list[Row] = []
    of: str | None = None
    event: int | None = None
    event_of: int | None = None
    day: str | None = None


def is_shown(memory: Memory) -> bool:
    """Tell whether a listener has left anything there that is to be taken away."""
    kept = recalled(memory, _Memory)
    return kept is not None and bool(kept.rows or kept.event)


async def withdraw(server: Myems, kept: _Memory) -> None:
    """Take away what is shown, wherever that is."""
    if kept.rows and kept.of is not None:
        family, _, owner = kept.of.partition("/")
        there = {row.id: row for row in await server.schedules(family, int(owner))}
        for row in kept.rows:
            found = _found(row, there, kept.rows)
            if found is not None:
                await server.drop_schedule(family, int(owner), found)
        log.info("myems.schedules_withdrawn", of=kept.of, rows=len(kept.rows))
    kept.rows = []
    if kept.event and kept.event_of is not None:
        await server.send(kept.event_of, Decimal(0))
    kept.event = None


class Withdrawal:
    """Takes away what a listener has shown that is not configured any more."""

    read_every_s = 3600.0

    def __init__(self, server: Myems, clock: Clock) -> None:
        self._server = server
        self._clock = clock

    async def read(self, memory: Memory) -> Polled:
        """Take it away. Raises DeviceFault."""
        kept = recalled(memory, _Memory) or _Memory()
        await withdraw(self._server, kept)
        return Polled(
            at=self._clock(), dispatchable=True, memory=mapping(msgspec.to_builtins(kept))
        )


class Listener:
    """Shows one group to one server; a Source whose polls bring nothing."""

    def __init__(
        self,
        context: Context,
        config: PlatformListener,
        server: Myems,
        server_clock: ServerClock,
        *,
        read_every_s: float,
    ) -> None:
        self.read_every_s = read_every_s
        self._context = context
        self._config = config
        self._server = server
        self._server_clock = server_clock

    async def read(self, memory: Memory) -> Polled:
        """Bring what MyEMS shows up to date. Raises DeviceFault, Unavailable."""
        kept = recalled(memory, _Memory) or _Memory()
        now = self._context.clock()
        offset = await self._server_clock.offset()
        envelopes, trouble = await self._envelopes()
        again_s = None
        await self._move(kept)
        if self._config.schedules_of is not None:
            before = [row.shown for row in kept.rows]
            wanted = shown(envelopes, self._config.peak_type, before, now=now, offset=offset)
            again_s = await self._show(kept, wanted)
        await self._tell_event(kept, envelopes)
        if self._config.offline_meter is not None:
            await self._tell_day(kept, now, offset)
        return Polled(
            at=now,
            dispatchable=trouble is None,
            detail=trouble,
            memory=mapping(msgspec.to_builtins(kept)),
            again_s=again_s if again_s is not None else self._edge_s(envelopes, now),
        )

    async def _move(self, kept: _Memory) -> None:
        """Take away what was shown elsewhere, before the configuration was changed."""
        here = self._config.schedules_of, self._config.event_command_id
        before = kept.of, kept.event_of
        if before not in (here, (None, None)):
            await withdraw(self._server, kept)
        kept.of, kept.event_of = here

    def _edge_s(self, envelopes: Sequence[Envelope], now: datetime) -> float | None:
        """Return how soon something changes, if that is before the next poll."""
        end_at = envelopes[0].end_at if envelopes else None
        left_s = self.read_every_s if end_at is None else (end_at - now).total_seconds()
        return max(left_s, _AT_ONCE_S) if left_s < self.read_every_s else None

    async def _envelopes(self) -> tuple[Sequence[Envelope], str | None]:
        try:
            found = await planned(
                self._context, user_id=None, group_id=self._config.group_id, hours=_HOURS
            )
        except Unknown as error:
            return (), f"listener of group {self._config.group_id}: {error}"
        return found.envelopes, None

    async def _show(self, kept: _Memory, wanted: Sequence[Shown]) -> float | None:
        """Bring the rows up to date; first remember what is to be written, then write it."""
        new = [one for one in wanted if all(row.shown != one for row in kept.rows)]
        if new:
            kept.rows += [Row(shown=one) for one in new]
            return _AT_ONCE_S
        if not kept.rows:
            return None
        assert self._config.schedules_of is not None
        family, _, owner = self._config.schedules_of.partition("/")
        there = {row.id: row for row in await self._server.schedules(family, int(owner))}
        still: list[Row] = []
        for row in kept.rows:
            row.id = _found(row, there, kept.rows)
            if row.shown in wanted:
                if row.id is None:
                    row.id = await self._server.add_schedule(
                        family, int(owner), row.shown.written()
                    )
                still.append(row)
            elif row.id is not None:
                await self._server.drop_schedule(family, int(owner), row.id)
        kept.rows = still
        return None

    async def _tell_event(self, kept: _Memory, envelopes: Sequence[Envelope]) -> None:
        command_id = self._config.event_command_id
        if command_id is None:
            return
        active = int(bool(envelopes) and envelopes[0].reason in _TIMED)
        if active != kept.event:
            await self._server.send(command_id, Decimal(active))
            kept.event = active
            log.info("myems.event_told", group=self._config.group_id, active=active)

    async def _tell_day(self, kept: _Memory, now: datetime, offset: timedelta) -> None:
        """Tell the energy of the last whole day of the server, once.

        Interpretation: offline meters of electricity count kWh.
        """
        midnight = (now + offset - _SETTLED).replace(hour=0, minute=0, second=0, microsecond=0)
        day = f"{midnight - _DAY:%Y-%m-%d}"
        if kept.day == day:
            return
        total = await self._gained(midnight - _DAY - offset, midnight - offset)
        if total is not None:
            assert self._config.offline_meter is not None
            kwh = (total / 1000).quantize(Decimal("0.001"))
            await self._server.put_day(self._config.offline_meter, day, kwh)
            log.info("myems.day_told", meter=self._config.offline_meter, day=day, kwh=str(kwh))
        kept.day = day

    async def _gained(self, start_at: datetime, end_at: datetime) -> Decimal | None:
        config = self._config
        assert config.node_id is not None and config.source_id is not None
        asked = Asked(
            user_id=config.user_id,
            start_at=start_at,
            end_at=end_at,
            node_ids=(config.node_id,),
            sources=(config.source_id,),
            properties=(config.property_name,),
            registers=(config.property_name,),
        )
        wanted = await datum_out.streams(self._context, asked)
        found = await datum_readings.read(
            self._context, asked, wanted, "CalculatedAtDifference", tolerance=None
        )
        return next((one.values.get(config.property_name) for one in found), None)


def shown(
    envelopes: Sequence[Envelope],
    peak_type: str,
    before: Sequence[Shown],
    *,
    now: datetime,
    offset: timedelta,
) -> list[Shown]:
    """Return the rows that show what forecasts give, oldest first, split at midnight.

    Interpretation: the power is what is wanted, else the import limit, else the export limit
    (negative), in kW. The running block keeps the beginning that it was shown with (`before`).
    """
    rows: list[Shown] = []
    for envelope in envelopes:
        watts = next(
            (w for w in (envelope.optimum_w, envelope.max_w, envelope.min_w) if w is not None), None
        )
        if envelope.reason not in _TIMED or envelope.end_at is None or watts is None:
            continue
        start_at = max(envelope.start_at, now).replace(second=0, microsecond=0)
        power = Decimal(watts) / 1000
        for start_s, end_s in _days(start_at + offset, envelope.end_at + offset):
            rows.append(Shown(start_s=start_s, end_s=end_s, peak_type=peak_type, power=power))
    if rows and rows[0] not in before:
        first = rows[0]
        begun = [
            one
            for one in before
            if one.start_s < first.start_s
            and msgspec.structs.replace(one, start_s=first.start_s) == first
        ]
        rows[:1] = begun[:1] or [first]
    return rows


def _days(start: datetime, end: datetime) -> Iterator[tuple[int, int]]:
    """Yield (start, end) in seconds of the day, for each day that is touched."""
    while start < end:
        midnight = start.replace(hour=0, minute=0, second=0, microsecond=0)
        until = min(end, midnight + _DAY)
        yield _seconds(start - midnight), _seconds(until - midnight)
        start = until


def _seconds(span: timedelta) -> int:
    return min(int(span.total_seconds()), _DAY_S)


def _time(seconds: int) -> str:
    """Write a time of day; the end of the day is 24:00:00."""
    return f"{seconds // 3600:02}:{seconds % 3600 // 60:02}:{seconds % 60:02}"


def _found(row: Row, there: dict[int, Schedule], ours: Sequence[Row]) -> int | None:
    """Return the id of a row of ours that is still as we wrote it, None if it has to be written.

    One that an operator has edited is not ours any more. One without id may have been written by
    a process that ended then: an equal row that nobody else of ours has is it.
    """
    if row.id is not None:
        return row.id if row.id in there and row.shown.is_like(there[row.id]) else None
    known = {other.id for other in ours}
    return next((i for i, one in there.items() if i not in known and row.shown.is_like(one)), None)
