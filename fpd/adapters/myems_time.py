"""MyEMS's time: local to one fixed offset without daylight saving, written without it.

Source: reference myems §0.7. The server is configured with `utc_offset` ("+08:00" by default);
it stores UTC, adds the offset on the way out and takes it off on the way in.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from fpd.errors import Malformed

_OFFSET = re.compile(r"([+-])(\d{2}):(\d{2})", re.ASCII)
_FORM = "%Y-%m-%dT%H:%M:%S"
_LENGTH = len("2026-11-20T22:11:01")
_DAY_S = 86_400

WINDOW = timedelta(minutes=60)
_SLACK = timedelta(minutes=2)  # offsets differ by quarter hours, clocks by less than this


def offset_of(text: str) -> timedelta:
    """Read an offset such as "+05:30". Raises Malformed.

    >>> offset_of("+05:30"), offset_of("-03:00") == -timedelta(hours=3)
    (datetime.timedelta(seconds=19800), True)
    """
    found = _OFFSET.fullmatch(text)
    if found is None or int(found[2]) > 14 or int(found[3]) > 59:
        raise Malformed(f"{text!r} is no offset such as +08:00")
    ahead = timedelta(hours=int(found[2]), minutes=int(found[3]))
    return ahead if found[1] == "+" else -ahead


def shown(offset: timedelta) -> str:
    """Write an offset as MyEMS does.

    >>> shown(-timedelta(hours=3, minutes=30))
    '-03:30'
    """
    minutes = round(offset.total_seconds() / 60)
    return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"


def local(instant: datetime, offset: timedelta) -> str:
    """Write an instant as the server's local time, to the second."""
    return (instant.astimezone(UTC) + offset).strftime(_FORM)


def instant(text: object, offset: timedelta) -> datetime | None:
    """Read the server's local time; None for what is none."""
    if not isinstance(text, str) or len(text) != _LENGTH:
        return None
    return _read(text, offset)


@lru_cache(maxsize=8192)  # all points of a cycle have one time, and each hour comes many times
def _read(text: str, offset: timedelta) -> datetime | None:
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC) - offset
    except (ValueError, OverflowError):
        return None


def strange(stamps: list[datetime], *, now: datetime) -> str | None:
    """Say what is wrong with the stamps of the last hour if the offset is not what we think.

    The server gives its last 60 minutes, so ours must be those too (reference: myems §5.1).
    """
    if not stamps:
        return None
    if max(stamps) > now + _SLACK:
        return _wrong(f"data lie {_about(max(stamps) - now)} in the future")
    if min(stamps) < now - WINDOW - _SLACK:
        return _wrong(f"the last hour begins {_about(now - WINDOW - min(stamps))} too early")
    return None


def _wrong(why: str) -> str:
    return f"{why}: utc_offset is not the server's, or a clock is wrong"


def _about(gap: timedelta) -> str:
    minutes = gap.total_seconds() / 60
    return f"{minutes / 60:.1f} h" if minutes >= 90 else f"{minutes:.0f} min"


def seconds_of_day(text: object) -> int | None:
    """Return the second of the day that a list names, 86,400 for its end; None for nonsense.

    >>> seconds_of_day("7:00:00"), seconds_of_day("1 day, 0:00:00"), seconds_of_day("24:00:00")
    (25200, 86400, 86400)
    """
    words = str(text)
    if words in ("1 day, 0:00:00", "24:00:00"):
        return _DAY_S
    try:
        hours, minutes, seconds = map(int, words.split(":"))
    except ValueError:
        return None
    return hours * 3600 + minutes * 60 + seconds
