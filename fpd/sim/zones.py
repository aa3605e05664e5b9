"""Time zones by name."""

from __future__ import annotations

from zoneinfo import ZoneInfo

from fpd.errors import Misconfigured


def zone(name: str) -> ZoneInfo:
    """Return the zone; Misconfigured when there is none of that name."""
    try:
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError) as error:
        raise Misconfigured(f"no time zone is called {name!r}") from error
