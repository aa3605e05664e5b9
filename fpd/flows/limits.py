"""What is in force for groups that no device follows; control decides for the others.

Decided anew only when something that decides has changed, or the envelope has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from itertools import islice

from psycopg import AsyncConnection

from fpd.domain.forecast import Envelope, envelope_at
from fpd.flows import blocks
from fpd.flows.control_settings import settings_of
from fpd.store import tree
from fpd.store.forecasts import Kept
from fpd.store.tree import Uncontrolled

_FORECASTS = 100  # of a group; older ones are covered or have ended
_GROUPS = 100  # decided at a time


class Limits:
    """The envelopes in force, as last decided."""

    def __init__(self) -> None:
        self._decided: dict[int, tuple[Uncontrolled, Envelope]] = {}

    async def look(self, conn: AsyncConnection, *, now: datetime) -> dict[int, Envelope]:
        """Return the envelope of each group that is not under control."""
        groups = await tree.uncontrolled(conn, most=_FORECASTS)
        before, self._decided = self._decided, {}
        waiting = []
        for group in groups:
            known = before.get(group.group_id)
            if known is None or known[0] != group or _has_ended(known[1], now):
                waiting.append(group)
            else:
                self._decided[group.group_id] = known
        rest = iter(waiting)
        while some := list(islice(rest, _GROUPS)):
            said = await tree.said(conn, ids=[id for one in some for id in one.forecast_ids])
            envelopes = await asyncio.to_thread(_decide, some, said, now)
            self._decided |= {
                group.group_id: (group, envelope)
                for group, envelope in zip(some, envelopes, strict=True)
            }
        return {group_id: envelope for group_id, (_, envelope) in self._decided.items()}


def _has_ended(envelope: Envelope, now: datetime) -> bool:
    return now < envelope.start_at or (envelope.end_at is not None and envelope.end_at <= now)


def _decide(groups: Sequence[Uncontrolled], said: Sequence[Kept], now: datetime) -> list[Envelope]:
    of_group: dict[int, list[Kept]] = {group.group_id: [] for group in groups}
    for kept in said:
        of_group[kept.group_id].append(kept)
    return [
        envelope_at(
            [blocks.read(kept) for kept in of_group[group.group_id]],
            at=now,
            terms=settings_of(group.control).terms,
            provider_online=group.provider_online,
            optimizer_online=group.optimizer_online,
        )
        for group in groups
    ]
