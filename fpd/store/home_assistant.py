"""Who tells Home Assistant, and which instances are there at all."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from psycopg import AsyncConnection
from psycopg.rows import class_row

SHARED: Final = ""
"""The instance under which `fpd.store.tree` keeps what Home Assistant was told."""


@dataclass(frozen=True, slots=True)
class Lead:
    """That an instance is the teller: by which identity entities are known, and in which term."""

    identity: str
    term: int


async def lead(
    conn: AsyncConnection, *, instance: str, now: datetime, lease: timedelta
) -> Lead | None:
    """Make an instance the teller for `lease`, or return None: another one is.

    The first one ever gives all entities its name for good.
    """
    cursor = conn.cursor(row_factory=class_row(Lead))
    await cursor.execute(
        """
        insert into home_assistant as h (identity, holder, leased_until)
        values (%(me)s, %(me)s, %(until)s)
            on conflict (only_one) do update
           set term = h.term + (h.holder <> excluded.holder)::int, holder = excluded.holder,
               leased_until = excluded.leased_until
         where h.holder = excluded.holder or h.leased_until <= %(now)s
        returning identity, term
        """,
        {"me": instance, "now": now, "until": now + lease},
    )
    return await cursor.fetchone()


async def is_over(
    conn: AsyncConnection, *, instance: str, now: datetime, patience: timedelta
) -> bool:
    """Return whether nobody is going to tell Home Assistant any more, and end it for all.

    Who was the teller itself knows at once, others after `patience` without one.
    """
    cursor = await conn.execute(
        """
        delete from home_assistant
         where (holder = %(me)s or leased_until <= %(before)s)
           and exists (select from retained where instance = %(shared)s)
        """,
        {"me": instance, "before": now - patience, "shared": SHARED},
    )
    return cursor.rowcount > 0


async def seen(conn: AsyncConnection, *, instance: str, home: str, now: datetime) -> None:
    """Note that an instance is there."""
    await conn.execute(
        """
        insert into mqtt_instance as i (instance, home, seen_at)
        values (%(instance)s, %(home)s, %(now)s)
            on conflict (instance) do update set home = excluded.home, seen_at = excluded.seen_at
        """,
        {"instance": instance, "home": home, "now": now},
    )


async def adopt(conn: AsyncConnection, *, now: datetime) -> None:
    """Note those who left something when nobody noted yet who is there."""
    await conn.execute(
        """
        insert into mqtt_instance (instance, seen_at)
        select distinct instance, %(now)s::timestamptz from retained where instance <> %(shared)s
            on conflict do nothing
        """,
        {"now": now, "shared": SHARED},
    )


async def gone(
    conn: AsyncConnection,
    *,
    instance: str,
    home: str,
    now: datetime,
    renamed: timedelta,
    lost: timedelta,
) -> list[str]:
    """Forget instances that are there no more, and return them.

    Who had the same home under another name is gone when it was not seen for `renamed`, any other
    one when it was not seen for `lost`.
    """
    cursor = await conn.execute(
        """
        delete from mqtt_instance
         where instance <> %(me)s
           and seen_at <= case when home = %(home)s then %(now)s - %(renamed)s::interval
                               else %(now)s - %(lost)s::interval end
        returning instance
        """,
        {"me": instance, "home": home, "now": now, "renamed": renamed, "lost": lost},
    )
    return [row[0] for row in await cursor.fetchall()]
