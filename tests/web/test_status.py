"""`/api/v1/status`: says what the database says, to those who may know."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from support.waiting import wait_for
from web.lookout import Lookout, a_site, add_datum, add_device, ago, battery, lookout

from fpd import __version__
from fpd.embedded.broker import EmbeddedBroker
from fpd.flows import stream_health
from fpd.web.status import PATIENCE_S

PATH = "/api/v1/status"


@pytest.fixture
async def look(database_url: str) -> AsyncIterator[Lookout]:
    devices = (battery("cellar"), battery("foreign", user_id=2))
    async with lookout(database_url, devices=devices) as look:
        await a_site(look)
        yield look


async def test_status_says_what_is_in_the_database(look: Lookout) -> None:
    status, said = await look.get_json(PATH)
    assert status == 200
    assert said["version"] == __version__
    assert said["at"] == "2026-03-12T12:00:00.000Z"
    assert said["database"] == {"ok": True}
    assert said["broker"] == {"ok": False}
    assert said["peers"][0] == {
        "id": 1,
        "role": "CapacityProvider",
        "name": "Lines Co.",
        "enabled": True,
        "link": "online",
        "linkChangedAt": "2026-03-12T09:00:00.000Z",
        "trouble": None,
        "lastHeardAt": "2026-03-12T11:59:46.000Z",
        "offlineModeAt": "2026-03-12T12:02:46.000Z",
        "heartbeatSentAt": "2026-03-12T11:59:52.000Z",
        "owed": 0,
        "dead": 0,
    }
    assert [(peer["name"], peer["link"], peer["owed"]) for peer in said["peers"]] == [
        ("Lines Co.", "online", 0),
        ("Stadtwerke", "offline", 3),
        ("Elsewhere", "provisioned", 0),
        ("Optimal", "online", 0),
    ]
    assert said["groups"][0] == {
        "id": 1,
        "identifier": "depot",
        "name": "Depot",
        "enabled": True,
        "capacityScope": "Net",
        "envelope": {
            "minW": -2000,
            "maxW": 5000,
            "optimumW": 1500,
            "reason": "forecast",
            "since": "2026-03-12T11:23:00.000Z",
            "until": None,
        },
        "measuredW": 3150.25,
        "measuredAt": "2026-03-12T11:59:56.000Z",
        "measuredFrom": "meter",
        "measuredParts": {"read": 1, "of": 1},
    }
    assert said["groups"][1]["envelope"] is None
    assert said["groups"][1]["measuredFrom"] is None
    assert said["devices"] == [
        {
            "name": "cellar",
            "type": "battery",
            "health": "ok",
            "detail": None,
            "reading": {"output_w": 480, "soc": 62},
            "readingAt": "2026-03-12T11:59:54.000Z",
            "wanted": {"kind": "setpoint", "power_w": 500},
            "wantedAt": "2026-03-12T11:59:53.000Z",
            "why": "meter",
            "told": {"kind": "setpoint", "power_w": 500},
            "toldAt": "2026-03-12T11:59:40.000Z",
            "confirmed": {"kind": "setpoint", "power_w": 500},
            "confirmedAt": "2026-03-12T11:59:54.000Z",
            "attempts": 0,
        }
    ]
    assert said["outbox"] == {"pending": 3, "oldestAt": "2026-03-12T11:54:00.000Z"}
    assert said["publications"] == {"pending": 1}


async def test_every_instant_is_utc_with_milliseconds(look: Lookout) -> None:
    status, text = await look.get(PATH)
    assert status == 200
    instants = re.findall(r'"(\d{4}-\d\d-\d\dT[^"]*)"', text)
    assert len(instants) > 10
    assert [i for i in instants if not re.fullmatch(r"[-\dT:]{19}\.\d{3}Z", i)] == []


async def test_a_user_sees_what_belongs_to_it_and_nothing_else(look: Lookout) -> None:
    await add_device(look, "foreign", health="ok", power_w=0)
    await look.sql("insert into publication (topic, payload, created_at) select 'user/12/x', '', at"
                   " from (values (timestamptz '2026-03-12Z')) as v (at)")  # fmt: skip
    _, mine = await look.get_json(PATH, Authorization=await look.bearer(1))
    _, theirs = await look.get_json(PATH, Authorization=await look.bearer(2))
    assert names(mine) == [["Lines Co.", "Stadtwerke", "Optimal"], ["Depot"], ["cellar"]]
    assert names(theirs) == [["Elsewhere"], ["Foreign"], ["foreign"]]
    assert (mine["outbox"]["pending"], mine["publications"]["pending"]) == (3, 1)
    assert theirs["outbox"] == {"pending": 0, "oldestAt": None}
    assert theirs["publications"] == {"pending": 0}


def names(said: dict[str, Any]) -> list[list[str]]:
    return [[row["name"] for row in said[kind]] for kind in ("peers", "groups", "devices")]


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"Test_Remote": "192.0.2.7"}, id="another machine"),
        pytest.param({"Test_Remote": "2001:db8::7"}, id="another machine, IPv6"),
        pytest.param({"X_Forwarded_For": "192.0.2.7"}, id="a proxy"),
        pytest.param({"Forwarded": "for=192.0.2.7"}, id="a proxy of the standard"),
        pytest.param({"X_Real_IP": "192.0.2.7"}, id="a proxy of another kind"),
        pytest.param({"Host": "attacker.example.com"}, id="a page that rebound its name to us"),
        pytest.param({"Authorization": "Bearer wrong"}, id="a wrong token"),
        pytest.param({"Authorization": "Basic dTpw"}, id="no token at all"),
    ],
)
@pytest.mark.parametrize("path", [PATH, "/", "/dashboard/live", "/metrics"])
async def test_others_need_a_token(look: Lookout, path: str, headers: dict[str, str]) -> None:
    status, text = await look.get(path, **headers)
    assert status == 401
    assert "Lines Co." not in text
    assert "fpd_peer_links" not in text


@pytest.mark.parametrize("headers", [{"Test_Remote": "::1"}, {"Test_Remote": "::ffff:127.0.0.1"}])
async def test_this_machine_needs_none(look: Lookout, headers: dict[str, str]) -> None:
    assert (await look.get(PATH, **headers))[0] == 200


async def test_a_token_opens_the_door_behind_a_proxy(look: Lookout) -> None:
    status, said = await look.get_json(
        PATH, X_Forwarded_For="192.0.2.7", Authorization=await look.bearer(2)
    )
    assert status == 200
    assert [peer["name"] for peer in said["peers"]] == ["Elsewhere"]


async def test_without_the_database_status_says_so(look: Lookout) -> None:
    await look.context.db.close()
    status, said = await look.get_json(PATH)
    assert status == 200
    assert said["database"] == {"ok": False}
    assert said["outbox"] == {"pending": None, "oldestAt": None}
    assert (said["peers"], said["groups"], said["devices"]) == ([], [], [])


async def test_a_database_that_is_silent_is_not_waited_for(
    look: Lookout, database_url: str
) -> None:
    loop = asyncio.get_running_loop()
    async with await psycopg.AsyncConnection.connect(database_url) as other:
        await other.execute("lock table peer, migration")
        started_s = loop.time()
        answers = await asyncio.gather(
            *(look.get_json(path) for path in (PATH, "/readyz")),
            *(look.get(path) for path in ("/metrics", "/")),
        )
        assert loop.time() - started_s < PATIENCE_S + 1
        await other.rollback()
    (_, status), (code, ready), (_, metrics), (_, page) = answers
    assert status["database"] == {"ok": False}
    assert (code, ready["database"]) == (503, False)
    assert 'fpd_up{part="database"} 0.0' in metrics
    assert "while the database is away" in page


async def test_status_says_whether_the_broker_is_there(
    database_url: str, broker: EmbeddedBroker
) -> None:
    async with lookout(database_url, broker=broker.address) as look:

        async def ok() -> bool:
            _, said = await look.get_json(PATH)
            return said["broker"] == {"ok": True}

        await wait_for(ok)
        await broker.stop()
        await wait_for(lambda: not look.context.mqtt.connected)
        assert not await ok()
        await broker.start()
        await wait_for(ok, timeout=15)


async def test_streams_are_told_with_their_health(look: Lookout) -> None:
    for n in range(6):
        await add_datum(look, source_id="load/1", at=ago(hours=2, seconds=10 * n), watts=n)
    await stream_health.step(look.context)
    _, said = await look.get_json(PATH)
    assert said["streamHealth"] == {"stale": 1, "unknown": 1}
    assert said["streams"][0] == {
        "nodeId": 5,
        "sourceId": "load/1",
        "health": "stale",
        "since": "2026-03-12T12:00:00.000Z",
        "cadenceS": 10.0,
        "latestAt": "2026-03-12T10:00:00.000Z",
        "latest": {"watts": 0},
    }
    _, page = await look.get("/")
    assert "1 stale: 5 load/1 (its next datum is overdue)" in page
    assert "<h2>Streams</h2>" in page and "watts 3" in page
    _, metrics = await look.get("/metrics")
    assert 'fpd_streams{health="stale"} 1.0' in metrics
    assert 'fpd_streams{health="frozen"} 0.0' in metrics
    _, foreign = await look.get_json(PATH, Authorization=await look.bearer(2))
    assert (foreign["streams"], foreign["streamHealth"]) == ([], {})
