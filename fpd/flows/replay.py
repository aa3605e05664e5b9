"""Dead letters go again: the same bytes under the same id, so that nobody hears one twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import structlog
from psycopg import AsyncConnection

from fpd.domain.supersede import Cover
from fpd.errors import Conflict, Unknown
from fpd.flows import blocks
from fpd.flows.context import Context
from fpd.store import events, messages
from fpd.store.messages import Candidate, Wanted

log = structlog.get_logger()

MOST = 1000
"""So many messages are replayed at once."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """How many messages are owed again, and how many are not, by the reason."""

    replayed: int
    refused: Mapping[str, int]


async def one(context: Context, *, user_id: int | None, id: int) -> None:
    """Owe a dead letter again. `user_id` None: whoever's it is.

    Raises Unknown, Conflict when it is no dead letter or would do harm.
    """
    now = context.clock()
    async with context.db.transaction() as conn:
        found = await messages.candidates(conn, Wanted(user_id=user_id, id=id), now=now, limit=1)
        if not found:
            raise Unknown("there is no such message")
        (candidate,) = await _judged(conn, found, now)
        if candidate.obstacle is not None:
            raise Conflict(why_not(candidate))
        await _revive(conn, [candidate], now)
    context.bells.delivery()


async def many(context: Context, wanted: Wanted, *, limit: int = MOST) -> Replayed:
    """Owe again, of the newest `limit` dead letters that are meant, those that may be."""
    now = context.clock()
    async with context.db.transaction() as conn:
        found = await messages.candidates(conn, wanted, now=now, limit=limit)
        found = await _judged(conn, found, now)
        free = [candidate for candidate in found if candidate.obstacle is None]
        await _revive(conn, free, now)
    context.bells.delivery()
    kept_back = Counter(why_not(candidate) for candidate in found if candidate.obstacle)
    return Replayed(len(free), dict(kept_back))


async def _judged(
    conn: AsyncConnection, found: Sequence[Candidate], now: datetime
) -> list[Candidate]:
    """Note of which time a newer forecast speaks: whoever hears the older one last obeys it."""
    free = [candidate.id for candidate in found if candidate.obstacle is None]
    outdated = {
        rival.message_id
        for rival in await messages.rivals(conn, ids=free, now=now)
        if Cover(blocks.of(rival.newer_body)).meets(blocks.of(rival.body), after=now)
    }
    return [replace(one, obstacle="outdated") if one.id in outdated else one for one in found]


async def _revive(conn: AsyncConnection, free: Sequence[Candidate], now: datetime) -> None:
    await messages.revive(conn, ids=[candidate.id for candidate in free], now=now)
    for (user_id, peer_id), count in Counter((c.user_id, c.peer_id) for c in free).items():
        await events.record(
            conn,
            kind="message.replayed",
            at=now,
            user_id=user_id,
            peer_id=peer_id,
            data={"messages": count},
        )
        log.info("message.replayed", peer=peer_id, messages=count)


def why_not(candidate: Candidate) -> str:
    """Say what is in the way of a replay."""
    match candidate.obstacle:
        case "state" if candidate.state == "owed":
            return "it is still owed: it goes by itself"
        case "state":
            return f"it is {candidate.state}: only refused and expired messages are replayed"
        case "link":
            action = {"register": "register", "unregister": "unregister"}
            needed = action.get(candidate.operation, "handshake")
            return f"a {candidate.operation} belongs to its time: start the {needed} again instead"
        case "gone":
            return f"its peer is {candidate.link}: register first"
        case "silent":
            return "its peer has no base URL"
        case "ended":
            return "its last block has ended"
        case _:
            return "a newer forecast speaks of the same time"
