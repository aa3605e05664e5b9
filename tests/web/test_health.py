"""`/healthz`, `/readyz` and `/metrics`, as systemd, a load balancer and Prometheus see them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from support.waiting import wait_for
from web.lookout import Lookout, a_site, lookout

from fpd.embedded.broker import EmbeddedBroker
from fpd.flows.loop import Loop
from fpd.metrics import Metrics
from fpd.web.health import stuck


@pytest.fixture
async def look(database_url: str) -> AsyncIterator[Lookout]:
    async with lookout(database_url) as look:
        yield look


async def idle() -> bool:
    return False


def loop_named(name: str, *, every_s: float, progress_at: float) -> Loop:
    loop = Loop(name, idle, every_s=every_s, metrics=Metrics())
    loop.progress_at = progress_at
    return loop


@pytest.mark.parametrize(
    ("every_s", "silent_s", "found"),
    [
        (1.0, 29.9, []),
        (1.0, 30.1, ["delivery"]),
        (60.0, 599.0, []),
        (60.0, 601.0, ["delivery"]),
    ],
)
def test_a_loop_is_stuck_after_half_a_minute_or_ten_rounds(
    every_s: float, silent_s: float, found: Sequence[str]
) -> None:
    loop = loop_named("delivery", every_s=every_s, progress_at=1000.0)
    assert stuck([loop], now_s=1000.0 + silent_s) == found


def test_a_loop_that_was_never_rung_is_not_stuck() -> None:
    upkeep = loop_named("upkeep", every_s=3600.0, progress_at=0.0)
    assert stuck([upkeep], now_s=1_000_000.0) == []


async def test_healthz_names_the_loop_that_hangs(look: Lookout) -> None:
    now_s = asyncio.get_running_loop().time()
    look.loops.append(loop_named("heartbeats", every_s=1.0, progress_at=now_s))
    assert await look.get_json("/healthz") == (200, {"healthy": True, "reason": None})
    look.loops.append(loop_named("delivery", every_s=1.0, progress_at=now_s - 31))
    assert await look.get_json("/healthz") == (
        503,
        {"healthy": False, "reason": "no progress: delivery"},
    )


async def test_healthz_is_about_the_process_and_not_about_the_database(look: Lookout) -> None:
    await look.context.db.close()
    assert (await look.get("/healthz"))[0] == 200


async def test_ready_with_database_migrations_and_broker(
    database_url: str, broker: EmbeddedBroker
) -> None:
    async with lookout(database_url, broker=broker.address) as look:
        await wait_for(lambda: look.context.mqtt.connected)
        everything = {"database": True, "migrations": True, "broker": True}
        assert await look.get_json("/readyz") == (200, {**everything, "reason": None})
        await look.sql("delete from migration")
        status, said = await look.get_json("/readyz")
        assert (status, said["database"], said["migrations"]) == (503, True, False)
        assert "0000" in said["reason"]
        await look.context.db.close()
        status, said = await look.get_json("/readyz")
        assert (status, said["database"], said["migrations"]) == (503, False, False)
        assert "database" in said["reason"]


async def test_not_ready_while_the_broker_is_away(look: Lookout) -> None:
    status, said = await look.get_json("/readyz")
    assert status == 503
    assert said == {
        "database": True,
        "migrations": True,
        "broker": False,
        "reason": "the broker is away",
    }


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_anybody_may_ask_how_the_process_is(look: Lookout, path: str) -> None:
    assert (await look.get(path, Test_Remote="192.0.2.7"))[0] in (200, 503)


async def samples(look: Lookout) -> dict[str, float]:
    """Return the samples of /metrics as Prometheus reads them, by `name{label=value}`."""
    status, text = await look.get("/metrics")
    assert status == 200
    return {
        sample.name + "".join(f"{{{k}={v}}}" for k, v in sample.labels.items()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_metrics_agree_with_the_database(look: Lookout) -> None:
    await a_site(look)
    found = await samples(look)
    by_link = await look.sql("select link, count(*) from peer group by link")
    assert by_link
    for link, peers in by_link:
        assert found[f"fpd_peer_links{{link={link}}}"] == peers
    assert found["fpd_peer_links{link=failed}"] == 0
    assert found["fpd_outbox_pending"] == 3
    assert found["fpd_up{part=database}"] == 1
    assert found["fpd_up{part=broker}"] == 0
    await look.sql("update peer set link = 'failed' where link = 'offline'")
    await look.sql("delete from outbox")
    found = await samples(look)
    assert found["fpd_peer_links{link=offline}"] == 0
    assert found["fpd_peer_links{link=failed}"] == 1
    assert found["fpd_outbox_pending"] == 0


async def test_without_the_database_what_it_knows_has_no_value(look: Lookout) -> None:
    await a_site(look)
    await samples(look)
    await look.context.db.close()
    found = await samples(look)
    assert found["fpd_up{part=database}"] == 0
    assert math.isnan(found["fpd_outbox_pending"])
    assert math.isnan(found["fpd_peer_links{link=online}"])
    assert found["fpd_http_requests_total{route=/metrics}{status=200}"] >= 1


async def test_metrics_are_in_the_format_that_prometheus_asks_for(look: Lookout) -> None:
    async with look.client.get("/metrics") as answer:
        assert answer.content_type == "text/plain"
        assert answer.charset == "utf-8"
    assert isinstance(look.context.metrics.registry, CollectorRegistry)
