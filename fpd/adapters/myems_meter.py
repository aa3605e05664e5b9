"""One meter of MyEMS: its last hour every poll, and what was missed in slices of an hour.

`meterrealtime` covers gaps below 60 minutes; only longer ones are asked of `metertrend`, which
is expensive for the server (reference: myems §3c). What is left of a gap is in the memory, so it
goes on where it was after a restart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal

import msgspec
import structlog

from fpd.adapters.device import Clock, DeviceFault, Memory, Stopped, Unreachable, recalled
from fpd.adapters.lenient import mapping
from fpd.adapters.myems_api import Myems
from fpd.adapters.myems_errors import Missing
from fpd.adapters.myems_reports import Column, Layout, layout, realtime, trend, unit_of
from fpd.adapters.myems_rows import Row, Unfit, Value, samples
from fpd.adapters.myems_server import ServerClock
from fpd.adapters.myems_shapes import MeterPoint
from fpd.adapters.myems_time import WINDOW, strange
from fpd.adapters.platform import Polled, StreamSample
from fpd.config_myems import PlatformStream

log = structlog.get_logger()

_SLICE = timedelta(hours=1)
_OVERLAP = timedelta(minutes=1)  # rows may be written a little after their time
_NEXT_SLICE_S = 2.0
_GOOD_FOR = timedelta(hours=1)
Values = dict[datetime, list[Value]]


class Gap(msgspec.Struct, kw_only=True):
    """What is missing: after `since`, up to `until`; it began at `began`."""

    began: datetime
    since: datetime
    until: datetime

    @property
    def progress(self) -> str:
        """How much of it is filled, for people."""
        whole = (self.until - self.began) or _SLICE
        percent = int(100 * ((self.since - self.began) / whole))
        return f"{percent} % of a gap of {whole / _SLICE:.1f} h filled"


class _Memory(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`last`: the newest row taken, by column (its point's id). `read_at`: when it was read."""

    last: dict[str, datetime] = {}
    read_at: datetime | None = None
    gap: Gap | None = None


class View:
    """A meter's columns and which points they are, learned anew when they change."""

    def __init__(self, server: Myems, meter_id: int) -> None:
        self._server = server
        self._meter_id = meter_id
        self._names: tuple[str, ...] | None = None
        self._looked_at: datetime | None = None
        self.points: Sequence[MeterPoint] = ()
        self.types: Mapping[int, str] | None = None
        self.layout = Layout(None, ())

    async def look(self, names: tuple[str, ...], wanted: Sequence[int], *, now: datetime) -> bool:
        """Tell which points the columns are; `names` as `Realtime.names`. True if that is new.

        Names can be ambiguous; then the points' types decide, which takes an administrator. A
        point may be replaced by one that is called like it, so what is known is good for an hour.
        """
        known = self._looked_at is not None and now - self._looked_at < _GOOD_FOR
        if names == self._names and known:
            return False
        self.points = await self._server.meter_points(self._meter_id)
        self.types = None
        self._learn(names)
        sure = {self.layout.energy, *self.layout.columns}
        if not set(wanted) <= sure and self._server.has_account:
            try:
                self.types = {point.id: point.object_type for point in await self._server.points()}
            except Unreachable:
                raise
            except DeviceFault as fault:
                log.warning("myems.types_unknown", meter=self._meter_id, reason=str(fault))
            self._learn(names)
        self._names, self._looked_at = names, now
        return True

    def _learn(self, names: tuple[str, ...]) -> None:
        self.layout = layout(self.points, names[1:], energy=names[0] or None, types=self.types)

    def of_trend(self, columns: Sequence[Column]) -> tuple[int | None, ...]:
        """Return which points the columns of a trend are."""
        names = [column.name for column in columns]
        if len(names) == len(self.points) and all(
            unit_of(name, point) is not None for name, point in zip(names, self.points, strict=True)
        ):
            return tuple(point.id for point in self.points)
        return layout(self.points, names, energy=None, types=self.types).columns


class MeterPoll:
    """Reads one meter for the rows of the configuration that name it."""

    def __init__(
        self,
        server: Myems,
        meter_id: int,
        rows: Sequence[PlatformStream],
        *,
        read_every_s: float,
        backfill: timedelta,
        server_clock: ServerClock,
        clock: Clock,
    ) -> None:
        self.read_every_s = read_every_s
        self._server = server
        self._meter_id = meter_id
        self._configured = rows
        self._backfill = backfill
        self._server_clock = server_clock
        self._clock = clock
        self._view = View(server, meter_id)
        self._rows: dict[int, list[Row]] = {}
        self._unfit: list[str] = []
        self._refused = 0

    async def read(self, memory: Memory) -> Polled:
        """Read the last hour, and a slice of a gap if there is one. Raises DeviceFault."""
        kept = recalled(memory, _Memory) or _Memory()
        offset = await self._server_clock.offset()
        said = realtime(await self._server.meter_realtime(self._meter_id), offset)
        now = self._clock()
        wrong = strange(said.stamps, now=now)
        if wrong is not None:
            raise Stopped(f"meter {self._meter_id}: {wrong}", retry_s=self.read_every_s)
        if await self._view.look(said.names, self._wanted, now=now):
            self._fit([said.energy.name if said.energy else "", *said.names[1:]])
        self._refused = 0
        self._notice_gap(kept, now)
        which = self._view.layout
        columns = list(zip(which.columns, said.columns, strict=True))
        if said.energy is not None:
            columns.append((which.energy, said.energy))
        values = self._new(columns, kept.last)
        for point_id, column in columns:
            if point_id is not None and column.rows:
                kept.last[str(point_id)] = column.rows[-1][0]
        earlier, troubles, again_s = await self._fill(kept, offset)
        troubles = [*self._unfit, *troubles]
        progress = None if kept.gap is None else f"meter {self._meter_id}: {kept.gap.progress}"
        return Polled(
            at=now,
            dispatchable=not troubles and self._server.notice is None,
            detail="; ".join(troubles) or self._server.notice or progress,
            samples=(*earlier, *samples(values)),
            memory=mapping(msgspec.to_builtins(kept)),
            again_s=again_s,
            refused=self._refused,
        )

    async def _fill(
        self, kept: _Memory, offset: timedelta
    ) -> tuple[tuple[StreamSample, ...], list[str], float | None]:
        """Fetch a slice of a gap, if there is one; that it fails costs nothing but the slice."""
        if kept.gap is None:
            return (), [], None
        try:
            found = await self._slice(kept, offset)
        except DeviceFault as fault:
            return (), [f"meter {self._meter_id}: {kept.gap.progress}: {fault}"], None
        return found, [], None if kept.gap is None else _NEXT_SLICE_S

    @property
    def _wanted(self) -> list[int]:
        return [row.point for row in self._configured if row.point is not None]

    def _fit(self, names: Sequence[str]) -> None:
        """Find the points and units that the configuration means."""
        self._rows, self._unfit = {}, []
        which = self._view.layout
        by_point = dict(zip((which.energy, *which.columns), names, strict=True))
        named = {point.id: point for point in self._view.points}
        for row in self._configured:
            point_id = which.energy if row.point is None else row.point
            try:
                self._rows.setdefault(point_id or 0, []).append(
                    self._row(row, point_id, by_point, named)
                )
            except Unfit as why:
                what = "register" if row.point is None else f"point {row.point}"
                self._unfit.append(f"meter {self._meter_id}, {what}: {why}")
        for trouble in self._unfit:
            log.warning("myems.row_unusable", reason=trouble)

    def _row(
        self,
        row: PlatformStream,
        point_id: int | None,
        by_point: Mapping[int | None, str],
        named: Mapping[int, MeterPoint],
    ) -> Row:
        if point_id is None:
            raise Unfit("it has none, or several points are called like it")
        if point_id not in named:
            raise Unfit("the meter does not have it (any more)")
        if point_id not in by_point:
            raise Unfit("it holds texts, or several points are called like it")
        return Row(row, unit_of(by_point[point_id], named[point_id]))

    def _new(
        self, columns: Sequence[tuple[int | None, Column]], last: Mapping[str, datetime]
    ) -> Values:
        """Return the values of instants at which any column has something new.

        All that is known of such an instant: the others may have been taken by themselves, and a
        datum that is written again is replaced.
        """
        fresh = {
            at
            for point_id, column in columns
            if point_id in self._rows
            for at, _ in column.rows
            if str(point_id) not in last or at > last[str(point_id)]
        }
        return self._values(columns, fresh)

    def _values(
        self, columns: Sequence[tuple[int | None, Column]], wanted: set[datetime]
    ) -> Values:
        values: Values = {}
        for point_id, column in columns:
            for row in self._rows.get(point_id or 0, ()):
                for at, number in column.rows:
                    if at in wanted:
                        self._keep(values, at, row, number)
        return values

    def _keep(self, values: Values, at: datetime, row: Row, number: Decimal) -> None:
        value = row.read(number)
        if value is None:
            self._refused += 1
        else:
            values.setdefault(at, []).append(value)

    def _notice_gap(self, kept: _Memory, now: datetime) -> None:
        """Note what was missed since the last reading, whether there was anything or not."""
        before, kept.read_at = kept.read_at, now
        if before is None or now - before <= WINDOW or not self._backfill:
            return
        since = max(before - _OVERLAP, now - self._backfill)
        if kept.gap is not None:
            kept.gap.until = max(kept.gap.until, now - WINDOW)
        elif since < now - WINDOW:
            kept.gap = Gap(began=since, since=since, until=now - WINDOW)
            log.info(
                "platform.backfill_begins",
                meter=self._meter_id,
                since=since.isoformat(),
                until=kept.gap.until.isoformat(),
            )

    async def _slice(self, kept: _Memory, offset: timedelta) -> tuple[StreamSample, ...]:
        """Fetch the next hour of a gap, and note what is left of it.

        The server begins at the full hour; what lies before was taken already.
        """
        gap = kept.gap
        assert gap is not None
        until = min(gap.since + _SLICE, gap.until)
        quick = all(row.point is None for row in self._configured)
        columns = trend(
            await self._server.meter_trend(
                self._meter_id, gap.since, until, offset=offset, quick=quick
            ),
            offset,
        )
        which = (self._view.layout.energy,) if quick else self._view.of_trend(columns)
        if columns and len(which) != len(columns):
            raise Missing(f"meter {self._meter_id}: its trend has other columns than its last hour")
        pairs = list(zip(which, columns, strict=False))
        wanted = {at for _, c in pairs for at, _ in c.rows if gap.since < at <= until}
        gap.since = until
        log.info(
            "platform.backfill",
            meter=self._meter_id,
            until=until.isoformat(),
            progress=gap.progress,
            rows=len(wanted),
        )
        if gap.since >= gap.until:
            kept.gap = None
        return samples(self._values(pairs, wanted))
