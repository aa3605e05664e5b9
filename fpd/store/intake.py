"""Many forecasts at once: the same rows as one by one, in a handful of statements.

Everybody locks peers, then groups, each in the order of their ids, so that two daemons that
take in forecasts of the same peers wait for each other and never for themselves. What can be asked
together travels together.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg import AsyncConnection
from psycopg.rows import class_row, dict_row

from fpd.domain.forecast import ForecastType
from fpd.store import forecasts, publications
from fpd.store.forecasts import Addressee
from fpd.store.peers import COLUMNS, Peer
from fpd.store.plain import HEARD_AGAIN
from fpd.store.publications import Outlet

Key = tuple[int, str]
"""A peer's id and its X-Request-ID."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """All that decides about some forecasts. The peers are locked until the transaction ends.

    `noted` holds what came before and the hash of what it said; `ids` are new ones, rising;
    `tokens` tells whose each one is that is valid.
    """

    tokens: dict[bytes, int]
    peers: dict[int, Peer]
    noted: dict[Key, bytes]
    groups: dict[forecasts.Key, Addressee]
    outlets: list[Outlet]
    ids: list[int]


async def look(
    conn: AsyncConnection,
    *,
    keys: Sequence[Key],
    groups: Collection[forecasts.Key],
    tokens: Collection[bytes],
    now: datetime,
) -> Looked:
    """Note that these peers spoke, and return what decides about what they said."""
    peer_ids = sorted({peer_id for peer_id, _ in keys})
    async with conn.pipeline():
        heard = conn.cursor(row_factory=class_row(Peer))
        await heard.execute(
            f"""
            with locked as (
                select * from peer where id = any(%(ids)b::bigint[]) order by id for no key update
            ), heard as (
                update peer set last_heard_at = %(now)s
                  from locked
                 where peer.id = locked.id
                   and (locked.last_heard_at is null or locked.last_heard_at < %(before)s)
            )
            select {COLUMNS} from locked as peer
            """,
            {"ids": peer_ids, "now": now, "before": now - HEARD_AGAIN},
        )
        owners = await conn.execute(
            """
            select sha256, peer_id from peer_token
             where sha256 = any(%b::bytea[]) and (valid_until is null or valid_until > %b)
            """,
            (list(tokens), now),
        )
        noted = await conn.execute(
            """
            select k.peer_id, k.request_id, m.body_sha256,
                   nextval(pg_get_serial_sequence('forecast', 'id'))
              from unnest(%b::bigint[], %b::text[]) as k (peer_id, request_id)
              left join message_in as m using (peer_id, request_id)
            """,
            ([peer_id for peer_id, _ in keys], [request_id for _, request_id in keys]),
        )
        addressed = conn.cursor(row_factory=dict_row)
        await addressed.execute(forecasts.FIND_GROUPS, forecasts.find_groups_of(groups, now=now))
        outlets = conn.cursor(row_factory=class_row(Outlet))
        await outlets.execute(
            publications.OUTLETS,
            publications.outlets_of(peer_ids, {identifier for _, identifier in groups}),
        )
        peers = {peer.id: peer for peer in await heard.fetchall()}
        said = await noted.fetchall()
        return Looked(
            tokens={bytes(row[0]): row[1] for row in await owners.fetchall()},
            peers=peers,
            noted={(row[0], row[1]): bytes(row[2]) for row in said if row[2] is not None},
            groups=forecasts.found_groups(await addressed.fetchall()),
            outlets=await outlets.fetchall(),
            ids=sorted(row[3] for row in said),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class New:
    """A forecast to keep, `id` one of those given; `sha256` is that of operation and body.

    `noted_as` is the request id under which it counts once.
    """

    id: int
    group_id: int
    peer_id: int
    operation: str
    request_id: str
    noted_as: str
    correlation_id: str | None
    type: ForecastType
    body: bytes
    sha256: bytes
    ends_at: datetime


async def keep(conn: AsyncConnection, new: Sequence[New], *, now: datetime) -> None:
    """Keep forecasts and their request ids.

    Bodies travel as binary arrays: as text each would cost more than all the rest.
    """
    await conn.execute(
        """
        insert into message_in (peer_id, request_id, operation, body_sha256, received_at)
        select k.*, %(now)b
          from unnest(%(peer_ids)b::bigint[], %(ids)b::text[], %(operations)b::text[],
                      %(sha256s)b::bytea[]) as k
        """,
        {
            "now": now,
            "peer_ids": [one.peer_id for one in new],
            "ids": [one.noted_as for one in new],
            "operations": [one.operation for one in new],
            "sha256s": [one.sha256 for one in new],
        },
    )
    # Each row locks its group: everybody takes them in the order of their ids.
    rows = sorted(new, key=lambda one: one.group_id)
    await conn.execute(
        """
        insert into forecast (id, group_id, peer_id, request_id, correlation_id, type, body,
                              ends_at, received_at)
        overriding system value
        select f.*, %(now)b
          from unnest(%(ids)b::bigint[], %(group_ids)b::bigint[], %(peer_ids)b::bigint[],
                      %(request_ids)b::text[], %(correlation_ids)b::text[], %(types)b::text[],
                      %(bodies)b::bytea[], %(ends)b::timestamptz[]) as f
        """,
        {
            "now": now,
            "ids": [one.id for one in rows],
            "group_ids": [one.group_id for one in rows],
            "peer_ids": [one.peer_id for one in rows],
            "request_ids": [one.request_id for one in rows],
            "correlation_ids": [one.correlation_id for one in rows],
            "types": [str(one.type) for one in rows],
            "bodies": [one.body for one in rows],
            "ends": [one.ends_at for one in rows],
        },
    )
