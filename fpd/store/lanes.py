"""Lanes: in whose hands the messages of one (peer, lane) are, and when they may go.

A lane that cannot be served now is put off, so that what waits for dead peers is not looked at
again and again while others wait behind it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from psycopg import AsyncConnection
from psycopg.rows import class_row, dict_row

from fpd.store.reach import Reach

Lane = tuple[int, str]
"""A peer's id and the lane's name."""

# A peer that is not online is looked at again after this long; its handshake wakes it sooner.
_PUT_OFF = timedelta(seconds=5)
_CROWDED = timedelta(milliseconds=50)


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken(Reach):
    """A lane in our hands until the lease ends, and how to reach its peer.

    `failures`: how often its first message was not taken, in a row; `silences`: how often the
    peer did not answer at all, in a row.
    """

    name: str
    role: str
    user_id: int
    leased_until: datetime
    failures: int
    silences: int

    @property
    def key(self) -> Lane:
        return (self.peer_id, self.name)


async def take(
    conn: AsyncConnection, *, now: datetime, lease: timedelta, limit: int, per_peer: int
) -> tuple[list[Taken], bool]:
    """Take due lanes, longest due first; at most `limit` are looked at, `per_peer` of one peer.

    Return them, and whether more may be due: behind many that are put off others may wait. A
    lane is due again when its lease ends; who owes more meanwhile has it due earlier.
    Lanes other than that of the link wait until the peer is online. Of a peer that does not
    answer only one is taken, when its time has come.
    """
    cursor = conn.cursor(row_factory=dict_row)
    await cursor.execute(
        """
        with due as (
            select peer_id, name, due_at
              from lane
             where due_at <= %(now)s and (leased_until is null or leased_until <= %(now)s)
             order by due_at
             limit %(limit)s
               for update skip locked
        ), judged as (
            select d.peer_id, d.name, u.failures as silences,
                   case when not p.enabled or p.base_url is null
                             or d.name <> 'link' and p.link <> 'online' then %(put_off)s
                        when u.due_at > %(now)s then u.due_at
                        when row_number() over (partition by d.peer_id order by d.due_at)
                             + (select count(*) from lane as busy
                                 where busy.peer_id = d.peer_id and busy.leased_until > %(now)s)
                             > case when u.peer_id is null then %(per_peer)s else 1 end
                        then %(crowded)s
                   end as later_at
              from due as d
              join peer as p on p.id = d.peer_id
              left join unreachable as u on u.peer_id = d.peer_id
        ), put as (
            update lane as l
               set due_at = coalesce(j.later_at, %(leased_until)s::timestamptz),
                   leased_until = case when j.later_at is null
                                       then %(leased_until)s::timestamptz end
              from judged as j
             where l.peer_id = j.peer_id and l.name = j.name
            returning l.peer_id, l.name, l.failures, l.leased_until, j.silences
        )
        select put.peer_id, put.name, put.leased_until, put.failures,
               coalesce(put.silences, 0) as silences,
               p.role, p.user_id, p.base_url, p.outbound_token_sealed, p.service_props,
               p.secrets_sealed
          from put
          join peer as p on p.id = put.peer_id
        """,
        {
            "now": now,
            "leased_until": now + lease,
            "limit": limit,
            "per_peer": per_peer,
            "put_off": now + _PUT_OFF,
            "crowded": now + _CROWDED,
        },
    )
    looked_at = await cursor.fetchall()
    taken = [Taken(**row) for row in looked_at if row["leased_until"] is not None]
    return taken, len(looked_at) == limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message that may go now. `attempts` counts this one too."""

    id: int
    peer_id: int
    lane: str
    operation: str
    request_id: str
    correlation_id: str | None
    body: bytes
    sealed: bool
    attempts: int


async def firsts(
    conn: AsyncConnection, *, lanes: Sequence[Lane], now: datetime, most: int, bytes_: int
) -> list[Message]:
    """Return the first messages of lanes that are in our hands, in their order.

    At most `most` of each lane, and no more than `bytes_` unless it is one; none behind one
    that is held back. They count as tried: whatever happens now, they may have arrived.
    """
    cursor = conn.cursor(row_factory=class_row(Message))
    await cursor.execute(
        """
        with first as (
            select f.id
              from unnest(%(peer_ids)b::bigint[], %(names)b::text[]) as l (peer_id, name)
             cross join lateral (
                   select head.id, bool_and(head.due_at <= %(now)s) over waiting as due,
                          sum(head.size) over waiting as sum, head.size
                     from (select o.id, o.due_at,
                                  coalesce(octet_length(coalesce(o.body, c.body)), 0) as size
                             from outbox as o
                             left join forecast as c on o.body is null and c.id = o.forecast_id
                            where o.peer_id = l.peer_id and o.lane = l.name
                              and o.settled_at is null
                              and (o.expires_at is null or o.expires_at > %(now)s)
                            order by o.id
                            limit %(most)s) as head
                   window waiting as (order by head.id)) as f
             where f.due and (f.sum <= %(bytes)s or f.sum = f.size)
        ), tried as (
            update outbox as o set attempts = o.attempts + 1
              from first
             where o.id = first.id and o.settled_at is null
            returning o.id, o.peer_id, o.lane, o.operation, o.request_id, o.correlation_id,
                      o.body, o.forecast_id, o.sealed, o.attempts
        )
        select t.id, t.peer_id, t.lane, t.operation, t.request_id, t.correlation_id,
               coalesce(t.body, c.body, ''::bytea) as body, t.sealed, t.attempts
          from tried as t
          left join forecast as c on t.body is null and c.id = t.forecast_id
         order by t.id
        """,
        {
            "peer_ids": [peer_id for peer_id, _ in lanes],
            "names": [name for _, name in lanes],
            "now": now,
            "most": most,
            "bytes": bytes_,
        },
        binary=True,  # a body as it is, not written in twice as many digits
    )
    return await cursor.fetchall()


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """What came of one try. `outcome` None: it stays owed."""

    id: int
    outcome: str | None
    status: int | None
    error: str | None


async def settle(
    conn: AsyncConnection, settlements: Sequence[Settlement], *, now: datetime
) -> set[int]:
    """Note what came of several tries, in one statement. Bodies with secrets are not kept.

    Return the ids of those that were still owed; the others were settled in the meantime.
    """
    if not settlements:
        return set()
    cursor = await conn.execute(
        """
        update outbox as o
           set settled_at = case when s.outcome is null then null else %(now)s end,
               outcome = s.outcome, status = s.status, error = s.error,
               body = case when o.sealed and s.outcome is not null then ''::bytea else o.body end
          from unnest(%(ids)b::bigint[], %(outcomes)b::text[], %(statuses)b::integer[],
                      %(errors)b::text[])
               as s (id, outcome, status, error)
         where o.id = s.id and o.settled_at is null
        returning o.id
        """,
        {
            "now": now,
            "ids": [s.id for s in settlements],
            "outcomes": [s.outcome for s in settlements],
            "statuses": [s.status for s in settlements],
            "errors": [s.error for s in settlements],
        },
    )
    return {row[0] for row in await cursor.fetchall()}


async def finish(
    conn: AsyncConnection,
    delivered: Sequence[tuple[int, int | None]],
    lanes: Sequence[Taken],
    *,
    now: datetime,
) -> bool:
    """Note messages (id, status) that were delivered and give lanes back, in one statement.

    Return whether any of the lanes is due. What others owe meanwhile is not seen here, but has
    made its lane due, which stays so.
    """
    cursor = await conn.execute(
        _FINISH,
        {
            "now": now,
            "ids": [id for id, _ in delivered],
            "statuses": [status for _, status in delivered],
            "peer_ids": [lane.peer_id for lane in lanes],
            "names": [lane.name for lane in lanes],
            "leases": [lane.leased_until for lane in lanes],
        },
        prepare=True,
    )
    return any([due for (due,) in await cursor.fetchall()])


# `held` counts the messages only so that these are locked first.
_FINISH: Final = """
    with settled as (
        update outbox as o
           set settled_at = %(now)b, outcome = 'delivered', status = s.status, error = null
          from unnest(%(ids)b::bigint[], %(statuses)b::integer[]) as s (id, status)
         where o.id = s.id and o.settled_at is null
        returning o.id
    ), held as (
        select lane.peer_id, lane.name, l.leased_until
          from lane
          join unnest(%(peer_ids)b::bigint[], %(names)b::text[], %(leases)b::timestamptz[])
               as l (peer_id, name, leased_until) using (peer_id, name)
         where (select count(*) from settled) >= 0 and lane.leased_until <= l.leased_until
         order by lane.peer_id, lane.name
           for update of lane
    )
    update lane
       set leased_until = null, failures = 0,
           due_at = least(
               case when lane.due_at = lane.leased_until then 'infinity' else lane.due_at end,
               coalesce(
                   (select o.due_at
                      from outbox as o
                     where o.peer_id = lane.peer_id and o.lane = lane.name
                       and o.settled_at is null and o.id <> all(%(ids)b::bigint[])
                       and (o.expires_at is null or o.expires_at > %(now)b)
                     order by o.id
                     limit 1),
                   'infinity'))
      from held
     where lane.peer_id = held.peer_id and lane.name = held.name
    returning lane.due_at <= %(now)b
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Return:
    """A lane to give back, with its new `failures`; not before `later_at`."""

    lane: Taken
    failures: int
    later_at: datetime | None = None


async def give_back(conn: AsyncConnection, returns: Sequence[Return], *, now: datetime) -> bool:
    """Give lanes back: due when their first message is, at `later_at` if that is after it.

    Return whether any of them is due. `conn` must be in a transaction: what others owe meanwhile
    is waited for, and seen. A lane that was lent to somebody else since our lease ended stays
    there.
    """
    if not returns:
        return False
    of_these = {
        "peer_ids": [one.lane.peer_id for one in returns],
        "names": [one.lane.name for one in returns],
    }
    await conn.execute(
        """
        select from lane
          join unnest(%(peer_ids)b::bigint[], %(names)b::text[]) as l (peer_id, name)
               using (peer_id, name)
         order by peer_id, name
           for update of lane
        """,
        of_these,
    )
    cursor = await conn.execute(
        """
        update lane
           set leased_until = null, failures = l.failures,
               due_at = coalesce(
                   (select greatest(o.due_at, l.later_at)
                      from outbox as o
                     where o.peer_id = lane.peer_id and o.lane = lane.name
                       and o.settled_at is null
                       and (o.expires_at is null or o.expires_at > %(now)b)
                     order by o.id
                     limit 1),
                   'infinity')
          from unnest(%(peer_ids)b::bigint[], %(names)b::text[], %(failures)b::integer[],
                      %(leases)b::timestamptz[], %(later)b::timestamptz[])
               as l (peer_id, name, failures, leased_until, later_at)
         where lane.peer_id = l.peer_id and lane.name = l.name
           and lane.leased_until <= l.leased_until
        returning lane.due_at <= %(now)b
        """,
        {
            **of_these,
            "now": now,
            "failures": [one.failures for one in returns],
            "leases": [one.lane.leased_until for one in returns],
            "later": [one.later_at for one in returns],
        },
    )
    return any([due for (due,) in await cursor.fetchall()])


async def note_silence(
    conn: AsyncConnection, *, answered: Sequence[int], silent: Mapping[int, tuple[int, datetime]]
) -> None:
    """Note which peers answered, and of the silent ones how often in a row and until when."""
    if answered:
        await conn.execute(
            "delete from unreachable where peer_id = any(%b::bigint[])", (list(answered),)
        )
    if silent:
        peer_ids = sorted(silent)
        await conn.execute(
            """
            insert into unreachable (peer_id, failures, due_at)
            select s.peer_id, s.failures, s.due_at
              from unnest(%b::bigint[], %b::integer[], %b::timestamptz[])
                   as s (peer_id, failures, due_at)
              join peer as p on p.id = s.peer_id
             order by s.peer_id
                on conflict (peer_id) do update
               set failures = greatest(excluded.failures, unreachable.failures),
                   due_at = excluded.due_at
            """,
            (
                peer_ids,
                [silent[peer_id][0] for peer_id in peer_ids],
                [silent[peer_id][1] for peer_id in peer_ids],
            ),
        )


async def wake(conn: AsyncConnection, *, peer_id: int, now: datetime) -> None:
    """Have everything that waits for a peer go now: it has just shown that it is there."""
    await conn.execute(
        """
        with reachable as (
            delete from unreachable where peer_id = %(peer_id)s
        )
        update lane set due_at = %(now)s, failures = 0
         where peer_id = %(peer_id)s and due_at > %(now)s and due_at < 'infinity'
        """,
        {"peer_id": peer_id, "now": now},
    )
