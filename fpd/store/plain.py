"""Forecasts that need no second look: judged and kept, with all they cause, in one statement.

The statement takes what is plain and leaves the rest alone; whoever asked has the rest judged
with care (`store.intake`). So nothing here says why something is not taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from psycopg import AsyncConnection
from psycopg.rows import class_row

from fpd.domain.forecast import ForecastType

# When a peer was last heard is told to the second: a row need not be written more often.
HEARD_AGAIN: Final = timedelta(seconds=1)

OPERATION: Final = "POST update_group_capacity_forecast"


class Said(NamedTuple):
    """A forecast as its peer said it; `sha256` is that of operation and body.

    `forward_id` is for the message that passes it on, if there will be one; `token` the hash of
    the sender's token when that is to be judged yet.
    """

    peer_id: int
    identifier: str
    request_id: str
    type: ForecastType
    body: bytes
    sha256: bytes
    ends_at: datetime
    forward_id: str
    token: bytes | None


@dataclass(frozen=True, slots=True)
class Kept:
    """The forecast at `position` is kept. `owed`: to the group's optimizer; `waits`: so is an
    earlier one. `watched`: something of the group is steered or measured.
    """

    position: int
    group_id: int
    owed: bool
    waits: bool
    watched: bool


# Locks peers, then groups, then messages, then lanes, each in the order of their ids, as everybody
# does. `addressed` counts the senders only so that these are locked first.
_STATEMENT: Final = """
    with said as materialized (
        select * from unnest(%(peer_ids)b::bigint[], %(identifiers)b::text[],
                             %(request_ids)b::text[], %(types)b::text[], %(bodies)b::bytea[],
                             %(sha256s)b::bytea[], %(ends)b::timestamptz[],
                             %(forward_ids)b::text[], %(tokens)b::bytea[])
            with ordinality as s (peer_id, identifier, request_id, type, body, sha256, ends_at,
                                  forward_id, token, position)
    ), sender as materialized (
        select id, role, last_heard_at from peer
         where id = any(%(peer_ids)b::bigint[]) and enabled and link = 'online'
         order by id for no key update
    ), heard as (
        update peer set last_heard_at = %(now)b
          from sender
         where peer.id = sender.id
           and (sender.last_heard_at is null or sender.last_heard_at < %(before)b)
    ), addressed as materialized (
        select id, user_id, identifier, provider_id, optimizer_id
          from capacity_group
         where (select count(*) from sender) > 0
           and id in (select g.id
                        from said as s
                        join capacity_group as g
                          on g.identifier = s.identifier
                         and s.peer_id in (g.provider_id, g.optimizer_id))
           and enabled
         order by id for key share
    ), plain as materialized (
        select s.*, g.id as group_id,
               case when s.peer_id = g.provider_id and co.enabled and co.base_url is not null
                    then co.id end as listener_id
          from said as s
          join sender as p on p.id = s.peer_id
          join addressed as g
            on g.identifier = s.identifier and s.peer_id in (g.provider_id, g.optimizer_id)
          join peer as cp on cp.id = g.provider_id
          left join peer as co on co.id = g.optimizer_id
         where (p.role <> 'CapacityOptimizer' or s.type = 'OPTIMUM')
           and (s.token is null
                or exists (select from peer_token as t
                            where t.sha256 = s.token and t.peer_id = s.peer_id
                              and (t.valid_until is null or t.valid_until > %(now)b)))
           and cp.service_props ->> 'forward-request-id' is null
           and co.service_props ->> 'forward-request-id' is null
           and not exists (select from publish_settings as ps
                            where ps.node_id is not null
                              and (ps.group_id = g.id
                                   or ps.group_id is null and ps.user_id = g.user_id))
    ), noted as (
        insert into message_in (peer_id, request_id, operation, body_sha256, received_at)
        select peer_id, request_id, %(operation)b, sha256, %(now)b from plain
            on conflict do nothing
        returning peer_id, request_id
    ), kept as (
        insert into forecast (group_id, peer_id, request_id, type, body, ends_at, received_at)
        select group_id, peer_id, request_id, type, body, ends_at, %(now)b
          from plain join noted using (peer_id, request_id)
         order by group_id, position
        returning id, group_id, peer_id, request_id
    ), owed as (
        insert into outbox (peer_id, lane, operation, request_id, group_id, forecast_id,
                            created_at, due_at, expires_at, sender_id, sender_request_id)
        select p.listener_id, 'group:' || k.group_id, 'update_group_capacity_forecast',
               p.forward_id, k.group_id, k.id, %(now)b, %(now)b, p.ends_at, k.peer_id,
               k.request_id
          from kept as k join plain as p using (peer_id, request_id)
         where p.listener_id is not null
         order by k.id
            on conflict (peer_id, request_id, revision) do nothing
        returning peer_id, lane
    ), laid as (
        insert into lane (peer_id, name, due_at)
        select distinct peer_id, lane, %(now)b::timestamptz from owed order by peer_id, lane
            on conflict (peer_id, name) do update
           set due_at = case when lane.failures > 0 and lane.due_at < 'infinity' then lane.due_at
                             else least(lane.due_at, excluded.due_at) end
    ), due as (
        select group_id from control_due
         where group_id in (select group_id from kept) and due_at > %(now)b
         order by group_id for update
    ), wanted as (
        update control_due as c set due_at = %(now)b from due where c.group_id = due.group_id
    )
    select (p.position - 1)::integer as position, k.group_id, p.listener_id is not null as owed,
           exists (select from outbox as o
                    where o.peer_id = p.listener_id and o.lane = 'group:' || k.group_id
                      and o.settled_at is null
                      and (o.attempts = 0
                           or not exists (select from lane as l
                                           where l.peer_id = o.peer_id and l.name = o.lane
                                             and l.leased_until > %(now)b))) as waits,
           exists (select from compliance_due as c where c.group_id = k.group_id) as watched
      from kept as k join plain as p using (peer_id, request_id)
"""


# psycopg reads longer statements anew each time.
_KEEP: Final = " ".join(_STATEMENT.split())


async def keep(conn: AsyncConnection, said: Sequence[Said], *, now: datetime) -> list[Kept]:
    """Keep what is plain, and say which that was; no two of `said` may share peer and id.

    Not plain is what has come before, what a peer or its link does not allow, and what causes
    more than a forward under a new id and a look at the group's control.
    """
    cursor = conn.cursor(row_factory=class_row(Kept))
    await cursor.execute(
        _KEEP,
        {
            "now": now,
            "before": now - HEARD_AGAIN,
            "operation": OPERATION,
            "peer_ids": [one.peer_id for one in said],
            "identifiers": [one.identifier for one in said],
            "request_ids": [one.request_id for one in said],
            "types": [one.type.value for one in said],
            "bodies": [one.body for one in said],
            "sha256s": [one.sha256 for one in said],
            "ends": [one.ends_at for one in said],
            "forward_ids": [one.forward_id for one in said],
            "tokens": [one.token for one in said],
        },
        prepare=True,
    )
    return await cursor.fetchall()
