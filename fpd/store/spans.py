"""What is measured at a time: times of groups, and pages of their assets.

A group may have any number of assets, and no statement may take long because of that, so whoever
asks about many assets asks page by page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from psycopg import AsyncConnection

_LAST_ID: Final = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A time of a group's assets for one audience; as a rule the period that is due.

    Of the assets those whose ids are in [first_id, last_id].
    """

    group_id: int
    audience: str
    start_at: datetime
    end_at: datetime
    first_id: int = 0
    last_id: int = _LAST_ID


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A span with so many enabled assets."""

    span: Span
    assets: int


async def pieces(conn: AsyncConnection, spans: Sequence[Span], *, most: int) -> list[list[Piece]]:
    """Cut each span into pieces of at most so many enabled assets, in order of ids.

    There are none of a span without enabled assets.
    """
    found: list[list[Piece]] = [[] for _ in spans]
    cursor = await conn.execute(
        """
        with counted as (
            select c.position, c.group_id, c.audience, min(a.id) as first_id, max(a.id) as last_id,
                   count(*) as assets
              from unnest(%(groups)s::bigint[], %(audiences)s::text[]) with ordinality
                   as c (group_id, audience, position)
              join asset as a on a.group_id = c.group_id and a.audience = c.audience
             where a.enabled
             group by c.position, c.group_id, c.audience
        )
        select position - 1, first_id, last_id, assets from counted where assets <= %(most)s
         union all
        select position - 1, min(id), max(id), count(*)
          from (select c.position, a.id,
                       (row_number() over (partition by c.position order by a.id) - 1) / %(most)s
                           as piece
                  from counted as c
                  join asset as a on a.group_id = c.group_id and a.audience = c.audience
                 where a.enabled and c.assets > %(most)s) as a
         group by position, piece
         order by 1, 2
        """,
        {
            "most": most,
            "groups": [span.group_id for span in spans],
            "audiences": [span.audience for span in spans],
        },
    )
    for position, first_id, last_id, assets in await cursor.fetchall():
        span = replace(spans[position], first_id=first_id, last_id=last_id)
        found[position].append(Piece(span=span, assets=assets))
    return found


def pages(cut: Sequence[Piece], *, most: int) -> list[list[Span]]:
    """Return pieces put together, as many as have at most so many assets among them."""
    found: list[list[Span]] = []
    assets = most
    for piece in cut:
        if assets + piece.assets > most:
            found.append([])
            assets = 0
        found[-1].append(piece.span)
        assets += piece.assets
    return found


def parameters(spans: Sequence[Span]) -> dict[str, object]:
    """Return what `ASSETS` asks for."""
    return {
        "groups": [span.group_id for span in spans],
        "audiences": [span.audience for span in spans],
        "starts": [span.start_at for span in spans],
        "ends": [span.end_at for span in spans],
        "firsts": [span.first_id for span in spans],
        "lasts": [span.last_id for span in spans],
    }


# The enabled assets of spans, with the times that are theirs.
ASSETS: Final = """
    select a.*, c.start_at, c.end_at
      from unnest(%(groups)s::bigint[], %(audiences)s::text[], %(starts)s::timestamptz[],
                  %(ends)s::timestamptz[], %(firsts)s::bigint[], %(lasts)s::bigint[])
           as c (group_id, audience, start_at, end_at, first_id, last_id)
      join asset as a on a.group_id = c.group_id and a.audience = c.audience
                     and a.id between c.first_id and c.last_id
     where a.enabled
"""
