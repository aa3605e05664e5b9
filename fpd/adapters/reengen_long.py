"""Raw rows of a range of any length, in slices that the platform's answers allow."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from typing import Final

from fpd.adapters.http import TooLong
from fpd.adapters.reengen_client import Client
from fpd.adapters.reengen_parse import Raw

_FIRST: Final = timedelta(days=1)
_LONGEST: Final = timedelta(days=32)
_LEAST: Final = timedelta(minutes=15)


async def slices(
    client: Client,
    *,
    points: Sequence[str],
    definitions: Sequence[str],
    variants: Sequence[str],
    start_at: datetime,
    end_at: datetime,
    types: Sequence[str] = ("actual",),
) -> AsyncIterator[tuple[datetime, tuple[Raw, ...]]]:
    """Yield up to when it has been read, and the rows since. Raises as the client does."""
    span, longest = _FIRST, _LONGEST
    while start_at < end_at:
        until = min(start_at + span, end_at)
        try:
            rows = await client.raw(
                points=points,
                definitions=definitions,
                variants=variants,
                types=types,
                start_at=start_at,
                end_at=until,
            )
        except TooLong:
            if until - start_at <= _LEAST:
                raise
            span = longest = max((until - start_at) / 2, _LEAST)
            continue
        yield until, rows
        start_at, span = until, min(2 * span, longest)
