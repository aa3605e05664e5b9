"""Streams are looked at in few statements; each change is told once, whoever looks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from flows.measured_site import NOON, Hands, Site

from fpd.config import Expect, Health
from fpd.flows import stream_health
from fpd.flows.stream_health import Looks
from fpd.store import stream_health as store
from fpd.store.db import Database


@pytest.fixture
async def site(database_url: str) -> AsyncIterator[Site]:
    db = Database(database_url, clock=Hands())
    await db.open()
    site = Site(db, Hands())
    yield site
    await db.close()


def configured(site: Site, **health: Any) -> None:
    config = replace(site.context.config, health=Health(**health))
    site.context = replace(site.context, config=config)


async def states(site: Site) -> dict[str, tuple[str, float | None]]:
    rows = await site.fetch(
        "select s.source_id, h.state, h.cadence_s from stream_health as h"
        " join stream as s on s.id = h.stream_id"
    )
    return {source: (state, cadence) for source, state, cadence in rows}


async def test_a_stream_falls_silent_and_returns(site: Site) -> None:
    # One gap is long: the usual one is the median.
    times = [0, 10, 20, 30, 500, 510, 520, 530]
    await site.read("load/1", {s - 530: s for s in times}, name="watts")
    await site.read("load/2", {-20: 1, -10: 2}, name="watts")
    await stream_health.step(site.context)
    assert await states(site) == {"load/1": ("ok", 10), "load/2": ("unknown", None)}

    site.clock.move(seconds=60)
    await stream_health.step(site.context)
    assert (await states(site))["load/1"][0] == "ok"
    site.clock.move(seconds=5.5)
    await asyncio.gather(*(stream_health.step(site.context) for _ in range(3)))
    assert (await states(site))["load/1"][0] == "stale"
    site.clock.move(hours=3)
    await stream_health.step(site.context)
    assert await site.events() == ["stream.stale"]

    await site.read("load/1", {3 * 3600 + 60: 5}, name="watts")
    site.clock.move(seconds=30)
    await stream_health.step(site.context)
    assert await site.events() == ["stream.stale", "stream.recovered"]
    ((data,),) = await site.fetch("select data from event where kind = 'stream.stale'")
    assert data == {
        "nodeId": 7,
        "sourceId": "load/1",
        "latestAt": "2026-03-10T12:00:00+00:00",
        "cadenceS": 10,
        "was": "ok",
    }


async def test_a_stream_freezes_and_thaws(site: Site) -> None:
    configured(site, frozen_s=600)
    for minute in range(30):
        site.clock.at = NOON
        site.clock.move(minutes=minute)
        await site.read("stuck", {60 * minute: 7}, name="watts")
        await site.read("live", {60 * minute: minute}, name="watts")
        await site.read("off", {60 * minute: 0}, name="watts")
        await site.execute("update stream_health set due_at = %(now)s")
        await stream_health.step(site.context)
    assert {source: state for source, (state, _) in (await states(site)).items()} == {
        "stuck": "frozen",
        "live": "ok",
        "off": "ok",
    }
    site.clock.move(minutes=1)
    await site.read("stuck", {1800: 8}, name="watts")
    await site.execute("update stream_health set due_at = %(now)s")
    await stream_health.step(site.context)
    assert await site.events() == ["stream.frozen", "stream.recovered"]


async def test_nobody_is_judged_before_what_waited_was_taken_in(site: Site) -> None:
    await site.read("load/1", {-10 * n - 600: n for n in range(6)}, name="watts")
    passed = [0.0]
    looks = Looks(replace(site.context, steady=lambda: passed[0]))
    for passed[0] in (0.0, 59.0):
        assert not await looks.step()
        assert await states(site) == {}
    passed[0] = 60.0
    await looks.step()
    assert await states(site) == {"load/1": ("stale", 10)}


async def test_what_is_configured_is_not_learned(site: Site) -> None:
    configured(site, expect=(Expect(source_id="/slow/**", cadence_s=3600),))
    for source in ("slow/1", "quick"):
        await site.read(source, {-10 * n: n for n in range(6)}, name="watts")
    await stream_health.step(site.context)
    site.clock.move(minutes=10)
    await stream_health.step(site.context)
    assert await states(site) == {"slow/1": ("ok", 3600), "quick": ("stale", 10)}


async def test_streams_made_of_messages_are_not_looked_at(site: Site) -> None:
    await site.read("load/1", {0: 1}, name="watts")
    await site.execute("update stream set is_own = true")
    await stream_health.step(site.context)
    assert await states(site) == {}


async def test_who_looks_sees_the_ill_first_and_only_ones_own(site: Site) -> None:
    for source in ("a", "b", "c"):
        await site.read(source, {-10 * n: n for n in range(6)}, name="watts")
    await stream_health.step(site.context)
    await site.execute(
        "update stream_health set state = 'stale' from stream as s"
        " where s.id = stream_id and s.source_id = 'c'"
    )
    async with site.db.connection() as conn:
        shown = await store.shown(conn, user_id=1, now=site.clock.at, limit=2)
        assert [(one.source_id, one.state, one.i) for one in shown] == [
            ("c", "stale", {"watts": 0}),
            ("a", "ok", {"watts": 0}),
        ]
        assert await store.shown(conn, user_id=2, now=site.clock.at, limit=2) == ()
        assert await store.counts(conn) == {"ok": 2, "stale": 1}
        assert await store.counts(conn, user_id=2) == {}
