"""Messages in segments through the real daemon: both readings, any order, any accident, once."""

from __future__ import annotations

import asyncio
import json
import shutil
from dataclasses import dataclass
from typing import Any

import pytest
from psycopg import AsyncConnection
from support.daemon import Daemon, MakeDaemon, make_site
from support.messages import forecast
from support.peer import RecordingPeer
from support.waiting import wait_for

DOOR = "update_group_capacity_forecast"
FIRST, PREVIOUS = "first", "previous"


@dataclass(frozen=True)
class Sender:
    """A peer with an open link to the daemon at `url`."""

    peer: RecordingPeer
    url: str
    token: str

    async def says(
        self, body: Any, request_id: str, place: tuple[Any, Any] | None = None,
        after: str | None = None, *, door: str = DOOR, url: str = "", method: str = "POST",
    ) -> tuple[int, str]:  # fmt: skip
        """Say one segment; return the status and the message."""
        headers = {} if after is None else {"X_Correlation_ID": after}
        for name, value in zip(("X_Segment_Index", "X_Segment_Count"), place or (), strict=False):
            if value is not None:
                headers[name] = str(value)
        status, said, answer = await self.peer.says(
            url or self.url, door, body, token=self.token, request_id=request_id, method=method,
            **headers,
        )  # fmt: skip
        assert answer["X-Correlation-ID"] == request_id
        return status, said["message"] if said else ""

    async def sends(self, bodies: list[Any], name: str, reading: str = FIRST, **more: Any) -> None:
        """Say a whole message, one segment after the other."""
        for one in segments(bodies, name, reading):
            assert await self.says(*one, **more) == (204, "")


def segments(bodies: list[Any], name: str, reading: str = FIRST) -> list[tuple[Any, ...]]:
    """What to `say`: bodies, ids, places, and what they are correlated with."""
    count = len(bodies)
    return [
        (body, f"{name}-{n}", (n, count), None if n == 1
         else f"{name}-1" if reading == FIRST else f"{name}-{n - 1}")
        for n, body in enumerate(bodies, start=1)
    ]  # fmt: skip


def blocks(*capacities: Any) -> dict[str, Any]:
    """One hour for each capacity, one after the other."""
    hours = [forecast(c, in_hours=n)["forecasted_blocks"][0] for n, c in enumerate(capacities)]
    return forecast(forecasted_blocks=hours)


def apart(whole: dict[str, Any]) -> list[dict[str, Any]]:
    """One message for each block."""
    return [{**whole, "forecasted_blocks": [block]} for block in whole["forecasted_blocks"]]


def cut(whole: dict[str, Any], count: int) -> list[bytes]:
    text = json.dumps(whole).encode()
    size = -(-len(text) // count)
    return [text[n * size : (n + 1) * size] for n in range(count)]


async def provider(daemon: Daemon, peer: RecordingPeer, first_token: str) -> Sender:
    token = await peer.registers(daemon.url, first_token)
    await peer.shakes_hands(daemon.url, token)
    return Sender(peer, daemon.url, token)


async def optimizer(daemon: Daemon, peer: RecordingPeer, first_token: str) -> Sender:
    token = await peer.registers(daemon.url, first_token)
    await peer.acknowledges(daemon.url, token)
    return Sender(peer, daemon.url, token)


async def test_both_readings_and_both_contents_reach_the_optimizer_as_one_message(
    daemon: Daemon,
) -> None:
    site = await make_site(daemon)
    async with RecordingPeer("cp") as cp, RecordingPeer("co") as co:
        there = await optimizer(daemon, co, site.optimizer_token)
        here = await provider(daemon, cp, site.provider_token)
        number = 0
        for reading in (FIRST, PREVIOUS):
            for content in (apart, lambda whole: cut(whole, 5)):
                for order in (1, -1):
                    number += 1
                    whole = blocks(number, number + 0.5, number + 0.25)
                    for one in segments(content(whole), f"m{number}", reading)[::order]:
                        assert await here.says(*one) == (204, "")
                    forwarded = await co.hears(DOOR, number)
                    assert forwarded.body == whole

        # What the optimizer cannot keep is told to the provider under the first segment's id.
        error = {"message": "no way", "forecasted_blocks": whole["forecasted_blocks"]}
        ids = [f"e-{n}" for n in (1, 2, 3)]
        after = [forwarded.headers["x-request-id"], ids[0], ids[1]]
        for n, piece in enumerate(cut(error, 3)):
            said = await there.says(
                piece, ids[n], (n + 1, 3), after[n], door="group_capacity_compliance_error"
            )
            assert said == (204, "")
        told = await cp.hears("group_capacity_compliance_error")
        assert (told.body, told.headers["x-correlation-id"]) == (error, f"m{number}-1")

        behaviour = {
            "required_behaviour": {"heartbeat_interval": 60, "measurement_configuration": []}
        }
        await here.sends(cut(behaviour, 2), "h", door="handshake")
        acknowledge = await cp.hears("handshake_acknowledge", 2)
        assert acknowledge.headers["x-correlation-id"] == "h-1"
        assert len(co.of(DOOR)) == number


async def test_all_at_once_and_twice_at_two_daemons_is_one_message(
    make_daemon: MakeDaemon, database_url: str
) -> None:
    one, two = make_daemon(database_url), make_daemon(database_url)
    await one.start()
    await one.log_in()
    (two.config.parent / "data").mkdir()
    shutil.copy(one.config.parent / "data/fpd.key", two.config.parent / "data/fpd.key")
    await two.start()
    site = await make_site(one)
    async with RecordingPeer("cp") as cp, RecordingPeer("co") as co:
        await optimizer(one, co, site.optimizer_token)
        here = await provider(one, cp, site.provider_token)
        for number, reading in ((1, FIRST), (2, PREVIOUS)):
            whole = blocks(*range(number, number + 8))
            bodies = apart(whole) if number == 1 else cut(whole, 8)
            said = segments(bodies, f"m{number}", reading)
            urls = (one.url, two.url)
            twice = [here.says(*segment, url=url) for segment in said for url in urls]
            assert await asyncio.gather(*twice) == [(204, "")] * 16
            assert (await co.hears(DOOR, number)).body == whole
            for segment in said:
                assert await here.says(*segment, url=two.url) == (204, "")
        await here.says(blocks(99), "last")
        assert (await co.hears(DOOR, 3)).body["forecasted_blocks"][0]["capacity"] == 99
        assert len(co.of(DOOR)) == 3


async def test_a_killed_daemon_has_lost_nothing_and_repeats_nothing(
    daemon: Daemon, database_url: str
) -> None:
    """Killed between segments, then between keeping the last one and what it causes."""
    site = await make_site(daemon)
    async with (
        RecordingPeer("cp") as cp,
        RecordingPeer("co") as co,
        await AsyncConnection.connect(database_url, autocommit=True) as db,
    ):
        await optimizer(daemon, co, site.optimizer_token)
        here = await provider(daemon, cp, site.provider_token)
        whole = blocks(1, 2, 3)
        *begun, last = segments(apart(whole), "m", PREVIOUS)
        for segment in begun:
            assert await here.says(*segment) == (204, "")
        await daemon.kill()
        await daemon.start()

        async with db.transaction():
            await db.execute("lock table forecast in exclusive mode")
            asked = asyncio.create_task(here.says(*last))

            async def stored() -> bool:
                cursor = await db.execute("select count(*) from segment where body is not null")
                return await cursor.fetchone() == (3,)

            await wait_for(stored)
            await daemon.kill()
            with pytest.raises(Exception):  # noqa: B017 whatever the client calls it
                await asked
        assert await (await db.execute("select * from forecast")).fetchall() == []
        await daemon.start()
        for segment in (last, last, *begun):
            assert await here.says(*segment) == (204, "")
        assert (await co.hears(DOOR)).body == whole
        await here.says(blocks(99), "last")
        await co.hears(DOOR, 2)
        assert len(co.of(DOOR)) == 2


async def test_what_does_not_fit_is_refused(daemon: Daemon) -> None:
    site = await make_site(daemon)
    async with RecordingPeer("cp") as cp, RecordingPeer("co") as co:
        await optimizer(daemon, co, site.optimizer_token)
        token = await cp.registers(daemon.url, site.provider_token)
        here = Sender(cp, daemon.url, token)
        a, b, c = apart(blocks(1, 2, 3))
        assert (await here.says(a, "early", (1, 2)))[0] == 403
        await cp.shakes_hands(daemon.url, token)

        for place in (
            (0, 3), (4, 3), (-1, 3), (1, 65), (1, 0), ("one", 3), (1, "3.0"), (1, ""),
            (1, None), (None, 3), (1, -3),
        ):  # fmt: skip
            status, said = await here.says(a, "odd", place)
            assert status == 400 and "X-Segment-" in said
        for method in ("POST", "PUT", "DELETE"):
            refusal = await here.says({}, "r-1", (1, 2), door="register", method=method)
            assert refusal == (400, f"{method} register cannot come in segments")

        assert await here.says(a, "s1", (1, 3)) == (204, "")
        assert await here.says(b, "s2", (2, 3), "s1") == (204, "")
        wrong: list[tuple[Any, ...]] = [
            (c, "s3", (3, 4), "s1"),
            (c, "s3", (3, 3)),
            (b, "s3", (2, 3), "s1"),
            (b, "s1", (1, 3)),
            (a, "s1", (1, 3), "asked"),
            (a, "s1", (3, 3), "s2"),
        ]
        for one in wrong:
            assert (await here.says(*one))[0] == 400, one
        refusal = await here.says(c, "s3", (3, 3), "s1", door="adjust_group_capacity_forecast")
        assert refusal == (400, f"the other segments of this message are POST {DOOR}")
        assert await here.says(a, "s1", (1, 3)) == (204, "")
        assert await here.says(c, "s3", (3, 3), "s2") == (204, "")
        assert (await co.hears(DOOR)).body["forecasted_blocks"] == [
            one["forecasted_blocks"][0] for one in (a, b, c)
        ]
        for one in ((c, "s4", (3, 3), "s2"), (b, "s3", (3, 3), "s2")):
            assert (await here.says(*one))[0] == 400, one
        assert len(co.of(DOOR)) == 1


async def test_the_last_segment_is_answered_with_what_the_message_deserves(daemon: Daemon) -> None:
    site = await make_site(daemon)
    async with RecordingPeer("cp") as cp, RecordingPeer("co") as co:
        await optimizer(daemon, co, site.optimizer_token)
        here = await provider(daemon, cp, site.provider_token)
        whole = blocks(1, 2)
        first, second = apart(whole)
        refusal = await _last(here, [first, {**second, "group_id": "x"}], "m")
        assert refusal == (400, "segment 2: group_id: not as in segment 1")
        await here.sends([first, second], "m")  # the very same ids, with what was meant
        assert (await co.hears(DOOR)).body == whole

        refusal = await _last(here, cut({**whole, "group_id": "x"}, 2), "g")
        assert refusal == (404, "group_id: no group 'x' of yours")
        status, said = await _last(here, [b'{"group_id', b'":}'], "j")
        assert status == 400 and "not JSON" in said
        overlapping = [first, {**second, "forecasted_blocks": first["forecasted_blocks"]}]
        status, said = await _last(here, overlapping, "o")
        assert status == 400 and "forecasted_blocks[1]: overlaps" in said

        big = [b" " * 3_000_000] * 3
        assert (await _last(here, big, "b"))[0] == 413
        opened = [(await here.says(first, f"n{n}", (1, 2)))[0] for n in range(16)]
        assert opened == [204] * 15 + [429]
        assert await here.says(second, "n0-2", (2, 2), "n0") == (204, "")
        assert (await co.hears(DOOR, 2)).body == whole
        assert (await here.says(blocks(7), "whole", (1, 1))) == (204, "")
        assert (await co.hears(DOOR, 3)).body["forecasted_blocks"][0]["capacity"] == 7


async def _last(sender: Sender, bodies: list[Any], name: str) -> tuple[int, str]:
    *begun, last = segments(bodies, name)
    for segment in begun:
        assert await sender.says(*segment) == (204, "")
    return await sender.says(*last)


async def test_a_dialect_is_understood_once_the_message_is_whole(daemon: Daemon) -> None:
    site = await make_site(daemon)

    async def switch(name: str) -> None:
        (peer,) = await daemon.manage("GET", "capacity-providers")
        body = {"name": peer["name"], "enabled": True, "serviceProps": {name: True},
                "baseUrl": peer.get("baseUrl")}  # fmt: skip
        await daemon.manage("PUT", f"capacity-providers/{peer['configId']}", body)

    await switch("lenient-capacity")
    async with RecordingPeer("cp") as cp, RecordingPeer("co") as co:
        await optimizer(daemon, co, site.optimizer_token)
        here = await provider(daemon, cp, site.provider_token)
        for number, content in enumerate((apart, lambda whole: cut(whole, 40)), start=1):
            await here.sends(content(blocks("1.5", "2.5")), f"m{number}")
            heard = (await co.hears(DOOR, number)).body["forecasted_blocks"]
            assert [block["capacity"] for block in heard] == [1.5, 2.5]
        await switch("lenient-no-request-id")
        assert (await here.says(blocks(1), "n1", (1, 2)))[0] == 400
        assert (await here.says(blocks(1), "n2", (1, 1)))[0] == 204
