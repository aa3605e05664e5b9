"""A tenant's local time, as Reengen writes it: to the second, without its zone.

Source: seed 003; reference: devices §3.3, §7. Ranges are inclusive there and half-open here.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import groupby
from typing import Protocol, TypeVar
from zoneinfo import ZoneInfo

from fpd.errors import Misconfigured

_FORM = "%Y-%m-%dT%H:%M:%S"
_SECOND = timedelta(seconds=1)
_HOUR = timedelta(hours=1)


class _Register(Protocol):
    """Something with a local time and, where it is of a meter, the register's reading."""

    @property
    def date(self) -> str: ...

    @property
    def order(self) -> Decimal | None: ...


R = TypeVar("R", bound=_Register)


def zone(name: str) -> ZoneInfo:
    """Return the zone of that name. Raises Misconfigured."""
    try:
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError):
        raise Misconfigured(f"tz: no time zone is called {name!r}") from None


def written(instant: datetime, tz: ZoneInfo) -> str:
    """Write an instant as the tenant's local time.

    >>> written(datetime(2020, 1, 19, 21, tzinfo=UTC), ZoneInfo("Europe/Istanbul"))
    '2020-01-20T00:00:00'
    """
    return instant.astimezone(tz).strftime(_FORM)


def asked(start_at: datetime, end_at: datetime, tz: ZoneInfo) -> tuple[str, str]:
    """Write the half-open range as the inclusive one that contains just its seconds.

    Where the clock is set back an hour has the same name twice, so a range that begins or ends
    there is asked an hour wider: what is read twice is kept once.

    >>> start_at = datetime(2020, 1, 19, 21, tzinfo=UTC)
    >>> asked(start_at, start_at + timedelta(days=4), ZoneInfo("Europe/Istanbul"))
    ('2020-01-20T00:00:00', '2020-01-23T23:59:59')
    """
    first, last = start_at, end_at - _SECOND
    if _is_ambiguous(first.astimezone(tz)):
        first -= _HOUR
    if _is_ambiguous(last.astimezone(tz)):
        last += _HOUR
    return written(first, tz), written(max(first, last), tz)


def read(text: object, tz: ZoneInfo, *, fold: int = 0) -> datetime | None:
    """Read a local time as an instant in UTC; None for what is none.

    Of an hour that there is twice it is the first one, unless `fold` is 1.
    """
    if not isinstance(text, str):
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    if found.tzinfo is None:
        found = found.replace(tzinfo=tz, fold=fold)
    try:
        return found.astimezone(UTC)
    except OverflowError:
        return None


def in_time(rows: Sequence[R], tz: ZoneInfo) -> list[tuple[datetime, R]]:
    """Return one meter's rows with their instants, oldest first, each once.

    Of the hour that there is twice the register tells the second from the first: it only grows,
    so where it goes on but the clock went back it is the second. The same reading at the same
    local time is the same row. Rows without an instant are left out.
    """
    found: dict[datetime, R] = {}
    twice: dict[str, list[R]] = {}
    for row in rows:
        at = read(row.date, tz)
        if at is None:
            continue
        if _is_ambiguous(at.astimezone(tz)) and row.order is not None:
            twice.setdefault(at.astimezone(tz).date().isoformat(), []).append(row)
        else:
            found[at] = row
    for day in twice.values():
        found |= _told_apart(day, tz)
    return sorted(found.items(), key=lambda pair: pair[0])


def _told_apart(rows: Sequence[R], tz: ZoneInfo) -> dict[datetime, R]:
    once = {(row.order, row.date): row for row in rows if row.order is not None}
    found: dict[datetime, R] = {}
    fold, last = 0, ""
    for register, alike in groupby(sorted(once), key=lambda key: key[0]):
        dates, before = [date for _, date in alike], last
        # A register that stands still: first what goes on, then what has gone back.
        for date in sorted(dates, key=lambda date: (date <= before, date)):
            fold = 1 if last and date <= last else fold
            last = date
            at = read(date, tz, fold=fold)
            if at is not None:
                found[at] = once[register, date]
    return found


def _is_ambiguous(local: datetime) -> bool:
    first, second = (local.replace(fold=fold).astimezone(UTC) for fold in (0, 1))
    return first < second
