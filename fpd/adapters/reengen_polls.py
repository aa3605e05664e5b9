"""One point of Reengen, read again and again: its raw rows, or aggregates of them.

Rows come late and are corrected, so a poll reads again what may have changed, from a while before
the newest row on; every hour from before the newest row of the measurement that is furthest
behind. What is read twice is kept once. A long range is read in slices, and what is left of it is
in the memory, so it goes on where it was after a restart (reference: devices §3.3, §7).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec
import structlog

from fpd.adapters.device import Clock, Memory, recalled
from fpd.adapters.http import TooLong
from fpd.adapters.lenient import mapping
from fpd.adapters.platform import Polled
from fpd.adapters.reengen_client import Client, Resolution, Series
from fpd.adapters.reengen_directory import Directory
from fpd.adapters.reengen_errors import Refused
from fpd.adapters.reengen_rows import Row, Taken, aggregated, taken
from fpd.config_reengen import ReengenPlatform, ReengenStream
from fpd.domain import reengen_units as units

log = structlog.get_logger()

_FIRST_SLICE: Final = timedelta(days=1)
_LEAST_SLICE: Final = timedelta(minutes=15)
_LONGEST_SLICE: Final = timedelta(days=32)
_DEEP: Final = timedelta(hours=1)
_SKEW: Final = timedelta(minutes=5)
_FURTHEST_ZONE: Final = timedelta(hours=15)
_SECOND: Final = timedelta(seconds=1)
_NEXT_SLICE_S: Final = 1.0
_STEPS: Final = {
    "fifteenmin": timedelta(minutes=15),
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
}


class Range(msgspec.Struct, kw_only=True):
    """What is being read: `since` up to `until`; it began at `began`."""

    began: datetime
    since: datetime
    until: datetime

    def percent(self, now: datetime) -> int:
        """Return how much of what can have been measured by `now` has been read."""
        whole = min(self.until, now) - self.began
        return min(100, int(100 * ((self.since - self.began) / whole))) if whole else 100


class _Memory(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`newest`: the newest row of each measurement. `deep_at`: when all were looked for last;
    `ahead_h`: how far ahead of us rows lay then, h.

    `slice_s`: how much is asked for at once, at most `most_s`: more was too much.
    """

    newest: dict[str, datetime] = {}
    deep_at: datetime | None = None
    ahead_h: float | None = None
    range: Range | None = None
    slice_s: float = _FIRST_SLICE.total_seconds()
    most_s: float = _LONGEST_SLICE.total_seconds()


class _Poll(ABC):
    """What both kinds of polls do: which range is due, slice by slice."""

    def __init__(
        self,
        client: Client,
        config: ReengenPlatform,
        point: str,
        rows: Sequence[ReengenStream],
        *,
        directory: Directory,
        clock: Clock,
    ) -> None:
        self.read_every_s = config.poll_s
        self._client = client
        self._config = config
        self._point = point
        self._rows = [Row(row) for row in rows]
        self._keys = tuple({row.key: None for row in self._rows})
        self._resolution: Resolution = rows[0].resolution
        self._directory = directory
        self._clock = clock

    @abstractmethod
    async def _asked(self, start_at: datetime, end_at: datetime) -> Taken:
        """Read the rows of a range."""

    async def read(self, memory: Memory) -> Polled:
        """Read what may be new, or a slice of it. Raises DeviceFault."""
        kept = recalled(memory, _Memory) or _Memory()
        now = self._clock()
        await self._directory.check(self._point, again_s=self.read_every_s)
        asked = kept.range or self._due(kept, now)
        end_at = min(asked.since + timedelta(seconds=kept.slice_s), asked.until)
        try:
            found = await self._asked(asked.since, end_at)
        except TooLong:
            return self._narrower(kept, asked, end_at)
        except Refused:
            # Perhaps the point has gone since the hierarchy was looked at.
            await self._directory.check(self._point, again_s=self.read_every_s, anew=True)
            raise
        self._remember(kept, asked, end_at, found)
        told = [f"{self._point} {key}: {why}" for key, why in found.unfit.items()]
        if kept.ahead_h is not None:
            told.append(f"{self._point}: rows lie {kept.ahead_h} h ahead of us: is tz right?")
        return self._polled(kept, trouble="; ".join(told) or None, found=found)

    def _due(self, kept: _Memory, now: datetime) -> Range:
        """Return the range that is to be read now."""
        until = _whole(now) + _SECOND
        earliest = until - timedelta(days=self._config.backfill_days)
        known = [kept.newest[key] for key in self._keys if key in kept.newest]
        if kept.deep_at is not None and now - kept.deep_at < _DEEP:
            since = max(known, default=now)
        else:
            kept.deep_at, kept.most_s = now, _LONGEST_SLICE.total_seconds()
            since = min(known) if len(known) == len(self._keys) else earliest
            # Rows that lie in the future tell that the zone is wrong.
            kept.ahead_h, until = None, until + _FURTHEST_ZONE
        since -= timedelta(seconds=self._config.overlap_s)
        since = _whole(max(since, earliest))
        return Range(began=since, since=since, until=max(until, since + _SECOND))

    def _narrower(self, kept: _Memory, asked: Range, end_at: datetime) -> Polled:
        """Ask for less at once: the answer was too large. Raises TooLong if that cannot be."""
        span = end_at - asked.since
        if span <= _LEAST_SLICE:
            raise TooLong(f"{self._point}: a quarter of an hour is more than can be taken")
        kept.slice_s = kept.most_s = max(span / 2, _LEAST_SLICE).total_seconds()
        kept.range = asked
        return self._polled(kept)

    def _remember(self, kept: _Memory, asked: Range, end_at: datetime, found: Taken) -> None:
        for key, at in found.newest.items():
            kept.newest[key] = max(at, kept.newest.get(key, at))
        if found.ahead is not None:
            kept.ahead_h = round((found.ahead - self._clock()).total_seconds() / 3600, 1)
        for key, at, before, after in found.resets:
            log.warning(
                "reengen.register_fell",
                point=self._point,
                measurement=key,
                at=at.isoformat(),
                before=str(before),
                after=str(after),
            )
        if end_at < asked.until:
            kept.slice_s = min(kept.slice_s * 2, kept.most_s)
            asked.since = end_at
            kept.range = asked
            log.info(
                "reengen.reading",
                point=self._point,
                percent=asked.percent(self._clock()),
                read_until=end_at.isoformat(timespec="seconds"),
            )
        else:
            kept.range = None

    def _polled(
        self, kept: _Memory, *, trouble: str | None = None, found: Taken | None = None
    ) -> Polled:
        return Polled(
            at=self._clock(),
            dispatchable=trouble is None,
            detail=trouble or self._progress(kept.range),
            samples=found.samples() if found is not None else (),
            memory=mapping(msgspec.to_builtins(kept)),
            refused=found.refused if found is not None else 0,
            again_s=_NEXT_SLICE_S if kept.range is not None else None,
        )

    def _progress(self, left: Range | None) -> str | None:
        percent = 100 if left is None else left.percent(self._clock())
        if left is None or percent == 100:
            return None
        return f"{self._point}: {percent} % read of what was measured since {left.began:%F}"


class RawPoll(_Poll):
    """Raw rows of one point: registers as the meter shows them, values of anything else."""

    async def _asked(self, start_at: datetime, end_at: datetime) -> Taken:
        found = await self._client.raw(
            points=[self._point],
            definitions=list({row.config.definition: None for row in self._rows}),
            variants=list({row.config.variant: None for row in self._rows}),
            start_at=start_at,
            end_at=end_at,
        )
        return taken(self._rows, found, self._client.tz, until=self._clock() + _SKEW)


class AggregatePoll(_Poll):
    """Aggregates of one point in one resolution, each dated at the start of its bucket.

    Interpretation: they are no registers, a sum included. A bucket counts once it is over.
    """

    async def _asked(self, start_at: datetime, end_at: datetime) -> Taken:
        over_at = min(self._clock() + _SECOND, end_at) - _STEPS[self._resolution]
        found = await self._client.measurements(
            [_series(row) for row in self._rows],
            points=[self._point],
            start_at=self._bucket(start_at),
            end_at=end_at,
            resolution=self._resolution,
        )
        return aggregated(self._rows, found, tz=self._client.tz, until=over_at)

    def _bucket(self, at: datetime) -> datetime:
        """Return where the bucket begins that `at` lies in: half of one has another value."""
        local = at.astimezone(self._client.tz)
        minute = local.minute // 15 * 15 if self._resolution == "fifteenmin" else 0
        hour = 0 if self._resolution == "day" else local.hour
        return local.replace(hour=hour, minute=minute, second=0, microsecond=0).astimezone(UTC)


def _series(row: Row) -> Series:
    wanted = row.config
    return Series(
        definition=wanted.definition,
        variant=wanted.variant,
        function=wanted.function or "avg",
        unit=wanted.unit or units.USUAL.get(wanted.definition, ""),
        decimals=3,
    )


def _whole(at: datetime) -> datetime:
    return at.replace(microsecond=0)
