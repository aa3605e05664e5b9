"""MyEMS as a platform that is read: which polls its rows of the configuration make."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import msgspec

from fpd.adapters.device import Clock, Memory, Source, Wiring, recalled
from fpd.adapters.lenient import mapping
from fpd.adapters.myems_api import Myems
from fpd.adapters.myems_meter import MeterPoll
from fpd.adapters.myems_reports import Rows, hours
from fpd.adapters.myems_rows import Row, Unfit, Value, samples
from fpd.adapters.myems_server import ServerClock, server
from fpd.adapters.platform import Polled
from fpd.config_myems import MyemsPlatform, PlatformStream
from fpd.errors import Misconfigured

_HOUR = timedelta(hours=1)
_FIRST_LOOK = timedelta(hours=6)
_LONGEST_ASKED = timedelta(days=31)
_HOURLY_S = 900.0
_MISSES = 3  # polls in a row before a point counts as absent


class Platform:
    """One configured MyEMS."""

    kind = "myems"
    backoff_s = (5.0, 300.0)

    def __init__(self, config: MyemsPlatform, wiring: Wiring) -> None:
        self.name, self.most = config.name, config.max_requests
        client = server(config, wiring, most=config.max_requests)
        server_clock = ServerClock(client, config.utc_offset, wiring.clock)
        jobs: dict[str, list[PlatformStream]] = {}
        for row in config.stream:
            jobs.setdefault(row.job, []).append(row)
        jobs.pop("mqtt", None)
        self.polls: Mapping[str, Source] = {
            job: _poll(job, rows, config, client, server_clock, wiring.clock)
            for job, rows in jobs.items()
        }


def _poll(
    job: str,
    rows: Sequence[PlatformStream],
    config: MyemsPlatform,
    client: Myems,
    server_clock: ServerClock,
    clock: Clock,
) -> Source:
    if job == "points":
        return PointsPoll(client, rows, read_every_s=config.poll_s, clock=clock)
    what, _, which = job.partition("/")
    if what == "meter":
        return MeterPoll(
            client,
            int(which),
            rows,
            read_every_s=config.poll_s,
            backfill=timedelta(days=config.backfill_days),
            server_clock=server_clock,
            clock=clock,
        )
    kind = "meter" if what == "hourly" else what
    return HourlyPoll(client, kind, int(which), rows, server_clock=server_clock, clock=clock)


class _Absence(msgspec.Struct, kw_only=True):
    """How many polls in a row a point was not in, and since when."""

    misses: int
    since: datetime


class _Points(msgspec.Struct, kw_only=True, omit_defaults=True):
    absent: dict[str, _Absence] = {}


class PointsPoll:
    """Points that belong to no meter: latest values of the last 60 minutes, without their times.

    Interpretation: they are dated when they were read. MyEMS rewrites its latest values in two
    commits, so a point may be missed once without being gone.
    """

    def __init__(
        self, client: Myems, rows: Sequence[PlatformStream], *, read_every_s: float, clock: Clock
    ) -> None:
        self.read_every_s = read_every_s
        self._client = client
        self._clock = clock
        try:
            self._rows = [(row.point, Row(row, None)) for row in rows if row.point is not None]
        except Unfit as why:
            points = ", ".join(str(row.point) for row in rows)
            raise Misconfigured(f"one of the points {points} of a platform: {why}") from why

    async def read(self, memory: Memory) -> Polled:
        """Read all points at once. Raises DeviceFault."""
        kept = recalled(memory, _Points) or _Points()
        found = await self._client.point_values()
        now = self._clock()
        values: list[Value] = []
        refused = 0
        for point_id, row in self._rows:
            if point_id in found:
                value = row.read(found[point_id])
                refused += value is None
                values += [] if value is None else [value]
        absent = {
            str(point_id): self._absence(kept, str(point_id), now)
            for point_id, _ in self._rows
            if point_id not in found
        }
        gone = {name: one for name, one in absent.items() if one.misses >= _MISSES}
        told = [
            f"point {name} is absent since {one.since.isoformat(timespec='seconds')}"
            for name, one in gone.items()
        ]
        at = now - timedelta(microseconds=now.microsecond)
        return Polled(
            at=now,
            dispatchable=not told and self._client.notice is None,
            detail="; ".join(told) or self._client.notice,
            samples=samples({at: values}),
            memory=mapping(msgspec.to_builtins(_Points(absent=absent))),
            refused=refused,
        )

    def _absence(self, kept: _Points, name: str, now: datetime) -> _Absence:
        before = kept.absent.get(name)
        if before is None:
            return _Absence(misses=1, since=now)
        return _Absence(misses=before.misses + 1, since=before.since)


class _Hours(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`until`: the end of the newest hour that was not 0."""

    until: datetime | None = None


class HourlyPoll:
    """Energy of each hour of a meter, virtual or offline meter, dated at its start.

    Interpretation: MyEMS writes 0 for an hour that it has not computed or knows nothing of, so a
    0 is a gap. The current and the last hour are not asked for; those after the newest one that
    was not 0 are asked for again.
    """

    read_every_s = _HOURLY_S

    def __init__(
        self,
        client: Myems,
        kind: str,
        meter_id: int,
        rows: Sequence[PlatformStream],
        *,
        server_clock: ServerClock,
        clock: Clock,
    ) -> None:
        self._client = client
        self._kind, self._meter_id = kind, meter_id
        self._configured = rows
        self._server_clock = server_clock
        self._clock = clock

    async def read(self, memory: Memory) -> Polled:
        """Read the hours since the last one that was known. Raises DeviceFault."""
        kept = recalled(memory, _Hours) or _Hours()
        offset = await self._server_clock.offset()
        now = self._clock()
        # Hours are those of UTC, whatever the offset: with +05:30 they begin at half past there.
        end = now.replace(minute=0, second=0, microsecond=0) - _HOUR
        since = max(kept.until or end - _FIRST_LOOK, end - _LONGEST_ASKED)
        since = min(since, end - _HOUR)
        unit, found = hours(
            await self._client.hourly_energy(self._kind, self._meter_id, since, end, offset=offset),
            offset,
        )
        known = [(at, value) for at, value in found if since <= at < end and value != 0]
        rows, unfit = self._rows(unit)
        values = [(at, row.read(value)) for at, value in known for row in rows]
        merged: dict[datetime, list[Value]] = {}
        for at, value in values:
            if value is not None:
                merged.setdefault(at, []).append(value)
        newest = max((at for at, _ in known), default=None)
        kept.until = max(filter(None, (kept.until, newest and newest + _step(found))), default=None)
        return Polled(
            at=now,
            dispatchable=unfit is None and self._client.notice is None,
            detail=unfit or self._client.notice,
            samples=samples(merged),
            memory=mapping(msgspec.to_builtins(kept)),
            refused=sum(value is None for _, value in values),
        )

    def _rows(self, unit: str | None) -> tuple[list[Row], str | None]:
        try:
            return [Row(row, unit, kind="i") for row in self._configured], None
        except Unfit as why:
            return [], f"{self._kind} {self._meter_id}: {why}"


def _step(rows: Rows) -> timedelta:
    """Return what a row of an hourly report lasts: half an hour, if the server counts so."""
    return min((later[0] - row[0] for row, later in itertools.pairwise(rows)), default=_HOUR)
