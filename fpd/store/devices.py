"""Devices: what they are wanted to do, what they were seen to do, and who is speaking to them.

A visit to a device is a claim with a lease, so two daemons never drive one device; whoever lost
the lease may not write any more. Control decides in `wanted`, visits do the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import class_row
from psycopg.types.json import Jsonb


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceState:
    """One device. Commands and the reading are JSON here; `fpd.adapters.device` gives them form.

    `attempts`: how often in a row it did not follow; `failures`: how often it could not be
    reached. `command_due_at` None: nothing is to be sent.
    """

    name: str
    health: str
    detail: str | None
    reading: Mapping[str, Any] | None
    reading_at: datetime | None
    wanted: Mapping[str, Any] | None
    wanted_at: datetime | None
    plan: Mapping[str, Any] | None
    group_id: int | None
    envelope_id: int | None
    told: Mapping[str, Any] | None
    told_at: datetime | None
    confirmed: Mapping[str, Any] | None
    confirmed_at: datetime | None
    attempts: int
    failures: int
    memory: Mapping[str, Any] | None
    due_at: datetime
    command_due_at: datetime | None
    leased_until: datetime | None


async def enrol(
    conn: AsyncConnection, *, devices: Sequence[tuple[str, str]], now: datetime
) -> None:
    """Make rows for (name, type) of the configured devices, and have all of them read now.

    What stopped a device in an earlier run may have been mended in the configuration.
    """
    await conn.execute(
        """
        insert into device_state (name, type, health, due_at, modified_at)
        select d.name, d.type, 'unknown', %(now)s, %(now)s
          from unnest(%(names)s::text[], %(types)s::text[]) as d (name, type)
            on conflict (name) do update
           set type = excluded.type, failures = 0, attempts = 0, due_at = %(now)s,
               command_due_at = case when device_state.command_due_at is not null
                                     then %(now)s end
        """,
        {
            "names": [name for name, _ in devices],
            "types": [type_ for _, type_ in devices],
            "now": now,
        },
    )


async def claim(
    conn: AsyncConnection, *, leases: Mapping[str, datetime], holder: str, now: datetime
) -> list[DeviceState]:
    """Take those of the named devices that are due and nobody else's, each until its time."""
    cursor = conn.cursor(row_factory=class_row(DeviceState))
    await cursor.execute(
        """
        with due as (
            select d.name, l.until
              from device_state as d
              join unnest(%(names)s::text[], %(untils)s::timestamptz[]) as l (name, until)
                on l.name = d.name
             where (d.due_at <= %(now)s or d.command_due_at <= %(now)s)
               and (d.leased_until is null or d.leased_until <= %(now)s)
             order by d.name
               for update of d skip locked
        )
        update device_state as d
           set leased_until = due.until, leased_by = %(holder)s
          from due
         where d.name = due.name
        returning d.name, d.health, d.detail, d.reading, d.reading_at, d.wanted, d.wanted_at,
                  d.plan, d.group_id, d.envelope_id, d.told, d.told_at, d.confirmed,
                  d.confirmed_at, d.attempts, d.failures, d.memory, d.due_at, d.command_due_at,
                  d.leased_until
        """,
        {
            "names": list(leases),
            "untils": list(leases.values()),
            "holder": holder,
            "now": now,
        },
    )
    return await cursor.fetchall()


async def seize(
    conn: AsyncConnection, *, name: str, until: datetime, now: datetime
) -> DeviceState | None:
    """Take a device that nobody has, due or not; None if somebody has it."""
    cursor = conn.cursor(row_factory=class_row(DeviceState))
    await cursor.execute(
        """
        update device_state
           set leased_until = %(until)s
         where name = %(name)s and (leased_until is null or leased_until <= %(now)s)
        returning name, health, detail, reading, reading_at, wanted, wanted_at, plan, group_id,
                  envelope_id, told, told_at, confirmed, confirmed_at, attempts, failures, memory,
                  due_at, command_due_at, leased_until
        """,
        {"name": name, "until": until, "now": now},
    )
    return await cursor.fetchone()


async def let_go(conn: AsyncConnection, state: DeviceState) -> None:
    """Give back what was taken, unless the lease has ended and somebody else has it."""
    await conn.execute(
        "update device_state set leased_until = null where name = %s and leased_until = %s",
        (state.name, state.leased_until),
    )


async def look_now(conn: AsyncConnection, *, names: Sequence[str], now: datetime) -> None:
    """Have devices read now, and told what they are wanted to do if that waits."""
    await conn.execute(
        """
        update device_state
           set due_at = %(now)s, failures = 0, attempts = 0,
               command_due_at = case when command_due_at is not null then %(now)s end
         where name = any(%(names)s)
        """,
        {"names": list(names), "now": now},
    )


async def load(conn: AsyncConnection, *, names: Sequence[str]) -> dict[str, DeviceState]:
    """Return the devices by name; unknown names are left out."""
    cursor = conn.cursor(row_factory=class_row(DeviceState))
    await cursor.execute(
        """
        select name, health, detail, reading, reading_at, wanted, wanted_at, plan, group_id,
               envelope_id, told, told_at, confirmed, confirmed_at, attempts, failures, memory,
               due_at, command_due_at, leased_until
          from device_state
         where name = any(%s)
        """,
        (list(names),),
    )
    return {row.name: row for row in await cursor.fetchall()}


async def save(
    conn: AsyncConnection, state: DeviceState, *, seen: DeviceState, release: bool, now: datetime
) -> bool:
    """Write what a visit found out; tell whether the lease was still ours.

    `seen` is the row as claimed. If control has changed its mind since, the new command is due
    now, or when a device is read next that is out of reach; else `state.command_due_at` counts.
    """
    cursor = await conn.execute(
        """
        update device_state
           set health = %(health)s, detail = %(detail)s, reading = %(reading)s,
               reading_at = %(reading_at)s, told = %(told)s, told_at = %(told_at)s,
               confirmed = %(confirmed)s, confirmed_at = %(confirmed_at)s,
               attempts = %(attempts)s, failures = %(failures)s, memory = %(memory)s,
               due_at = %(due_at)s,
               command_due_at = case
                   when wanted is not distinct from %(seen)s then %(command_due_at)s
                   when %(failures)s = 0 then %(now)s
                   else coalesce(%(command_due_at)s, %(due_at)s) end,
               leased_until = case when %(release)s then null else leased_until end,
               modified_at = %(now)s
         where name = %(name)s and leased_until = %(lease)s
        """,
        {
            "name": state.name,
            "health": state.health,
            "detail": state.detail,
            "reading": _json(state.reading),
            "reading_at": state.reading_at,
            "told": _json(state.told),
            "told_at": state.told_at,
            "confirmed": _json(state.confirmed),
            "confirmed_at": state.confirmed_at,
            "attempts": state.attempts,
            "failures": state.failures,
            "memory": _json(state.memory),
            "due_at": state.due_at,
            "command_due_at": state.command_due_at,
            "seen": _json(seen.wanted),
            "release": release,
            "lease": seen.leased_until,
            "now": now,
        },
    )
    return cursor.rowcount == 1


async def begin_command(
    conn: AsyncConnection,
    *,
    name: str,
    wanted: Mapping[str, Any],
    group_id: int | None,
    envelope_id: int | None,
    now: datetime,
) -> None:
    """Write down that a command is about to be sent; those of the device still open are over."""
    await conn.execute(
        """
        with superseded as (
            update device_command
               set settled_at = %(now)s, outcome = 'superseded'
             where device = %(name)s and settled_at is null
        )
        insert into device_command (device, group_id, envelope_id, wanted, sent_at)
        select %(name)s, (select id from capacity_group where id = %(group_id)s),
               (select id from envelope where id = %(envelope_id)s), %(wanted)s, %(now)s
        """,
        {
            "name": name,
            "wanted": _json(wanted),
            "group_id": group_id,
            "envelope_id": envelope_id,
            "now": now,
        },
    )


async def settle_command(
    conn: AsyncConnection, *, name: str, outcome: str, detail: str | None, now: datetime
) -> None:
    """Write down what came of the device's open command."""
    await conn.execute(
        """
        update device_command
           set settled_at = %(now)s, outcome = %(outcome)s, detail = %(detail)s
         where device = %(name)s and settled_at is null
        """,
        {"name": name, "outcome": outcome, "detail": detail, "now": now},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What control wants of a device from now on, why (`plan`), and for whom.

    `left_alone`: the device does not follow or answer: it is not told before its time comes.
    """

    name: str
    wanted: Mapping[str, Any]
    plan: Mapping[str, Any]
    group_id: int | None = None
    envelope_id: int | None = None
    left_alone: bool = False


async def want(conn: AsyncConnection, wishes: Sequence[Wish], *, now: datetime) -> None:
    """Set what is wanted. A changed command is due now, and so is one that was neither told nor
    seen and that nobody is about to tell.

    A device that cannot be reached, or is left alone, keeps the time at which it is tried again.
    """
    await conn.execute(
        """
        update device_state as d
           set wanted = w.wanted, wanted_at = %(now)s, plan = w.plan, group_id = w.group_id,
               envelope_id = w.envelope_id,
               command_due_at = case
                   when d.wanted is not distinct from w.wanted
                    and (w.wanted in (d.told, d.confirmed) or d.leased_until > %(now)s
                         or d.command_due_at is not null)
                   then d.command_due_at
                   when d.failures > 0 or w.left_alone
                   then coalesce(d.command_due_at, %(now)s)
                   else %(now)s end
          from jsonb_to_recordset(%(wishes)s)
               as w (name text, wanted jsonb, plan jsonb, group_id bigint, envelope_id bigint,
                     left_alone boolean)
         where d.name = w.name
        """,
        {
            "now": now,
            "wishes": Jsonb(
                [
                    {
                        "name": wish.name,
                        "wanted": dict(wish.wanted),
                        "plan": dict(wish.plan),
                        "group_id": wish.group_id,
                        "envelope_id": wish.envelope_id,
                        "left_alone": wish.left_alone,
                    }
                    for wish in wishes
                ]
            ),
        },
    )


async def send_home(
    conn: AsyncConnection,
    *,
    names: Sequence[str],
    wanted: Mapping[str, Any],
    why: str,
    every: bool,
    now: datetime,
) -> list[str]:
    """Want the devices at rest, due at once; return which.

    Unless `every`, only those that something else was wanted of, or that may not have heard it:
    one that refused or did not follow may still do what it was told before.
    """
    cursor = await conn.execute(
        """
        update device_state
           set wanted = %(wanted)s, wanted_at = %(now)s, command_due_at = %(now)s, attempts = 0,
               plan = jsonb_build_object('reason', %(why)s::text)
         where name = any(%(names)s)
           and (%(every)s or wanted ->> 'kind' <> 'release'
                or wanted is not null
                   and coalesce(told, confirmed) ->> 'kind' is distinct from 'release'
                or (failures > 0 and told is not null))
        returning name
        """,
        {"names": list(names), "wanted": _json(wanted), "why": why, "every": every, "now": now},
    )
    return sorted(row[0] for row in await cursor.fetchall())


async def orphans(conn: AsyncConnection, *, names: Sequence[str]) -> list[str]:
    """Return those devices that control wants something of though no asset uses them any more."""
    cursor = await conn.execute(
        """
        select d.name
          from device_state as d
         where d.name = any(%s) and d.wanted is not null and d.wanted ->> 'kind' <> 'release'
           and not exists (select from asset as a
                            where a.enabled and a.control ->> 'device' = d.name)
        """,
        (list(names),),
    )
    return [row[0] for row in await cursor.fetchall()]


def _json(value: Mapping[str, Any] | None) -> Jsonb | None:
    return None if value is None else Jsonb(dict(value))


async def forget_commands(conn: AsyncConnection, *, before: datetime) -> int:
    """Drop old audit rows; return how many."""
    cursor = await conn.execute("delete from device_command where sent_at < %s", (before,))
    return cursor.rowcount
