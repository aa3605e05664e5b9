"""Segments are kept, survive, are taken as one message once, or come to nothing at all."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, replace
from typing import Any

import pytest
from flows.measured_site import NOON, Hands, Site
from hypothesis import given, settings
from hypothesis import strategies as st

from fpd.domain.segments import Place
from fpd.errors import Forbidden, FpdError, Malformed, TooMany, Unavailable, Unknown
from fpd.flows import segments, upkeep
from fpd.flows.inbound import Inbound
from fpd.flows.intake import Intake
from fpd.oscp import messages
from fpd.oscp.dialects import Dialect
from fpd.store.db import Database

_numbers = itertools.count(1)


def body(*capacities: int, **changes: Any) -> bytes:
    """A forecast of one hour for each, from noon + that many hours."""
    blocks = [
        {
            "capacity": capacity,
            "phase": "ALL",
            "unit": "KW",
            "start_time": f"2026-03-10T{12 + capacity % 10}:00:00Z",
            "end_time": f"2026-03-10T{13 + capacity % 10}:00:00Z",
        }
        for capacity in capacities
    ]
    whole = {"group_id": "my-group", "type": "CONSUMPTION", "forecasted_blocks": blocks}
    return json.dumps(whole | changes).encode()


def cut(text: bytes, count: int) -> list[bytes]:
    size = -(-len(text) // count)
    return [text[n * size : (n + 1) * size] for n in range(count)]


def said(bodies: list[bytes], *, reading: str = "first", **changes: Any) -> list[Any]:
    """The requests that bring a message: (inbound, place); ids are new with each call."""
    name = f"m{next(_numbers)}"
    found = []
    for index, part in enumerate(bodies, start=1):
        before = f"{name}-1" if reading == "first" else f"{name}-{index - 1}"
        values: dict[str, Any] = {
            "peer_id": 1,
            "operation": "POST update_group_capacity_forecast",
            "request_id": f"{name}-{index}",
            "correlation_id": before if index > 1 else "asked",
            "body": part,
        }
        found.append((Inbound(**values | changes), Place(index, len(bodies))))
    return found


class Door:
    """One daemon's: what was taken in, and `falls` that come before or after the next ones."""

    def __init__(self, site: Site, db: Database | None = None) -> None:
        self.tasks: set[asyncio.Task[None]] = set()
        self.context = replace(site.context, spawn=self._spawn, db=db or site.db)
        self.taken: list[Inbound] = []
        self.before: list[Exception] = []
        self.after: list[Exception] = []
        self._intake = Intake(self.context)

    def _spawn(self, work: Coroutine[Any, Any, None], *, name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def take(self, message: Inbound) -> str | None:
        self.taken.append(message)
        if self.before:
            raise self.before.pop()
        decoded = messages.decode(message.body, messages.UpdateGroupCapacityForecast)
        await self._intake.receive(message, decoded)
        if self.after:
            raise self.after.pop()
        return None

    async def hear(self, *requests: Any) -> None:
        for inbound, place in requests:
            await segments.receive(self.context, inbound, place, self.take)

    async def hear_at_once(self, requests: list[Any]) -> list[Any]:
        return await asyncio.gather(*(self.hear(one) for one in requests), return_exceptions=True)


@pytest.fixture
async def site(database_url: str) -> AsyncIterator[Site]:
    clock = Hands()
    db = Database(database_url, clock=clock)
    await db.open()
    site = Site(db, clock)
    await site.add_peers()
    await site.add_group()
    yield site
    await db.close()


@pytest.fixture
def door(site: Site) -> Door:
    return Door(site)


async def kept(site: Site) -> list[tuple[str, str, list[int]]]:
    """Every forecast that took effect: its ids and capacities in order."""
    return [
        (row[0], row[1], [int(b["capacity"]) for b in json.loads(row[2])["forecasted_blocks"]])
        for row in await site.fetch(
            "select request_id, correlation_id, body from forecast order by id"
        )
    ]


async def left(site: Site) -> int:
    """How many segments still have their bodies."""
    return int((await site.fetch("select count(*) from segment where body is not null"))[0][0])


async def discarded(site: Site) -> list[Any]:
    rows = await site.fetch("select data from event where kind = 'segments.discarded' order by id")
    return [row[0] for row in rows]


@dataclass(frozen=True)
class Course:
    """One message, and in which order, how often and with whom at once its segments come."""

    capacities: list[int]
    reading: str
    alone: bool
    bunches: list[list[int]]


@st.composite
def courses(draw: st.DrawFn) -> Course:
    capacities = draw(st.lists(st.integers(1, 9), min_size=2, max_size=6, unique=True))
    often = [n for n in range(len(capacities)) for _ in range(draw(st.integers(1, 3)))]
    order = draw(st.permutations(often))
    bunches = []
    while order:
        size = draw(st.integers(1, 4))
        bunches.append(order[:size])
        order = order[size:]
    reading = draw(st.sampled_from(["first", "previous"]))
    return Course(capacities, reading, draw(st.booleans()), bunches)


async def test_any_order_any_repetition_any_company_is_the_message_once(
    site: Site, door: Door
) -> None:
    async def tell(course: Course) -> None:
        capacities = course.capacities
        bodies = [body(one) for one in capacities]
        if not course.alone:
            bodies = cut(body(*capacities), len(capacities))
        requests = said(bodies, reading=course.reading)
        before = len(await kept(site))
        for bunch in course.bunches:
            answers = await door.hear_at_once([requests[n] for n in bunch])
            assert answers == [None] * len(answers)
        assert (await kept(site))[before:] == [(requests[0][0].request_id, "asked", capacities)]
        assert await left(site) == 0

    loop = asyncio.get_running_loop()

    @settings(max_examples=40, deadline=None, database=None)
    @given(courses())
    def explore(course: Course) -> None:
        asyncio.run_coroutine_threadsafe(tell(course), loop).result(30)

    await asyncio.to_thread(explore)


@pytest.mark.parametrize("reading", ["first", "previous"])
async def test_two_daemons_share_the_segments_of_one_message(
    site: Site, door: Door, database_url: str, reading: str
) -> None:
    db = Database(database_url, clock=site.clock)
    await db.open()
    other = Door(site, db)
    requests = said([body(n) for n in range(1, 9)], reading=reading)
    half = requests[::2], requests[1::2]
    answers = await asyncio.gather(
        *(one.hear_at_once([*here, *there]) for one, here, there in ((door, *half), (other, *half)))
    )
    await db.close()
    assert answers == [[None] * 8] * 2
    assert await kept(site) == [(requests[0][0].request_id, "asked", [*range(1, 9)])]
    rows = await site.fetch("select count(*) from outbox")
    assert rows == [(1,)]


async def test_what_is_incomplete_for_a_minute_comes_to_nothing(site: Site, door: Door) -> None:
    requests = said([body(1), body(2), body(3)])
    await door.hear(requests[0])
    site.clock.move(seconds=59)
    await door.hear(requests[1])
    site.clock.move(seconds=60)
    await door.hear(requests[2])  # judged at receipt, nothing has tidied up
    told = {"operation": "update_group_capacity_forecast", "segment": requests[0][0].request_id}
    assert await discarded(site) == [told | {"received": 2, "count": 3}]
    assert (door.taken, await left(site)) == ([], 1)
    site.clock.move(seconds=60)
    assert await segments.step(door.context) is False
    assert await segments.step(door.context) is False
    assert (len(await discarded(site)), await left(site), await kept(site)) == (2, 0, [])
    await door.hear(*requests)
    assert len(await kept(site)) == 1


async def test_what_is_not_old_enough_is_not_tidied_away(site: Site, door: Door) -> None:
    requests = said([body(1), body(2), body(3)])
    await door.hear(requests[0])
    site.clock.move(seconds=59)
    await door.hear(requests[1])
    site.clock.move(seconds=59)
    await segments.step(door.context)
    await door.hear(requests[2])
    assert (len(await kept(site)), await discarded(site)) == (1, [])


@pytest.mark.parametrize("again", [0, 2])
@pytest.mark.parametrize("fall", [RuntimeError("killed"), Unavailable("busy")])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_whoever_dies_while_a_message_is_taken_has_not_answered(
    site: Site, door: Door, fall: Exception, when: str, again: int
) -> None:
    """Before or after it took effect: said again, hours later, it has taken effect once."""
    requests = said([body(1), body(2), body(3)])
    getattr(door, when).append(fall)
    await door.hear(*requests[:2])
    with pytest.raises(type(fall)):
        await door.hear(requests[2])
    site.clock.move(hours=3)
    await segments.step(door.context)
    for _ in range(2):
        await door.hear(requests[again])
    assert await kept(site) == [(requests[0][0].request_id, "asked", [1, 2, 3])]
    assert (len(door.taken), await left(site), await discarded(site)) == (2, 0, [])


async def test_a_refusal_is_the_answer_and_nothing_is_half_applied(site: Site, door: Door) -> None:
    await site.execute("update capacity_group set enabled = false")
    requests = said([body(1), body(2)])
    await door.hear(requests[0])
    for _ in range(2):
        with pytest.raises(Unknown, match="disabled"):
            await door.hear(requests[1])
        await door.hear(requests[0])
    assert await kept(site) == []
    await site.execute("update capacity_group set enabled = true")
    await door.hear(requests[1], requests[0])
    assert len(await kept(site)) == 1


@pytest.mark.parametrize("wrong", [0, 1])
async def test_a_refused_message_is_corrected_under_the_same_ids(
    site: Site, door: Door, wrong: int
) -> None:
    right = said([body(1), body(2)])
    spoilt = list(right)
    inbound, place = right[wrong]
    changed = inbound.body.replace(b"CONSUMPTION", b"GENERATION")
    spoilt[wrong] = replace(inbound, body=changed), place
    await door.hear(spoilt[0])
    with pytest.raises(Malformed, match="segment 2: type: not as in segment 1"):
        await door.hear(spoilt[1])
    await door.hear(*right)
    assert [capacities for *_, capacities in await kept(site)] == [[1, 2]]
    assert await discarded(site) == []


async def test_a_refusal_met_by_an_earlier_segment_is_its_own_answer(
    site: Site, door: Door
) -> None:
    """The daemon died when the last one was there; then the first is said again."""
    requests = said([body(1), body(2)])
    door.before.append(RuntimeError("killed"))
    await site.execute("update capacity_group set enabled = false")
    await door.hear(requests[0])
    with pytest.raises(RuntimeError):
        await door.hear(requests[1])
    for one in (requests[0], requests[0]):
        with pytest.raises(Unknown, match="disabled"):
            await door.hear(one)
    await site.execute("update capacity_group set enabled = true")
    await door.hear(requests[1], requests[0])
    assert len(await kept(site)) == 1


async def test_a_refused_message_is_dropped_without_a_word(site: Site, door: Door) -> None:
    requests = said(cut(body(1, group_id="nobody's"), 2))
    await door.hear(requests[0])
    with pytest.raises(Unknown):
        await door.hear(requests[1])
    site.clock.move(seconds=60)
    await segments.step(door.context)
    assert (await left(site), await discarded(site)) == (0, [])


@pytest.mark.parametrize("link", ["registered", "offline", "unregistered"])
async def test_a_closed_link_refuses_the_first_segment(site: Site, door: Door, link: str) -> None:
    await site.execute("update peer set link = %(link)s", link=link)
    requests = said([body(1), body(2)])
    for one in requests:
        with pytest.raises(Forbidden):
            await door.hear(one)
    assert await site.fetch("select * from segment") == []


async def test_a_link_that_closes_between_segments_refuses_the_next(site: Site, door: Door) -> None:
    requests = said([body(1), body(2)])
    await door.hear(requests[0])
    await site.execute("update peer set link = 'offline'")
    with pytest.raises(Forbidden):
        await door.hear(requests[1])
    await site.execute("update peer set link = 'online'")
    await door.hear(requests[1])
    await site.execute("update peer set link = 'offline'")
    await door.hear(*requests)  # as with any message that was accepted before
    assert len(await kept(site)) == 1


async def test_a_peer_that_needs_no_heartbeats_wakes_with_a_segment(site: Site, door: Door) -> None:
    await site.execute("update peer set link = 'offline'")
    await door.hear(*said([body(1), body(2)], dialect=Dialect(heartbeats=False)))
    assert len(await kept(site)) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"operation": "POST register"},
        {"operation": "PUT register"},
        {"operation": "DELETE register"},
        {"dialect": Dialect(lenient_no_request_id=True)},
    ],
)
async def test_not_everything_comes_in_segments(
    site: Site, door: Door, changes: dict[str, Any]
) -> None:
    with pytest.raises(Malformed):
        await door.hear(*said([b"{", b"}"], **changes))
    assert await site.fetch("select * from segment") == []


async def test_ids_are_a_peer_s_own(site: Site, door: Door) -> None:
    theirs = said([body(1), body(2)])
    ours = [
        (replace(inbound, peer_id=2, body=inbound.body.replace(b"CONSUMPTION", b"OPTIMUM")), place)
        for inbound, place in theirs
    ]
    for pair in zip(theirs, ours, strict=True):
        await door.hear(*pair)
    assert [capacities for *_, capacities in await kept(site)] == [[1, 2], [1, 2]]


async def test_a_segmented_message_may_not_take_the_id_of_another(site: Site, door: Door) -> None:
    requests = said([body(1), body(2)])
    first = requests[0][0]
    whole = replace(first, body=body(5))
    await door.take(whole)
    await door.hear(requests[0])
    with pytest.raises(Malformed, match="reused"):
        await door.hear(requests[1])
    assert [capacities for *_, capacities in await kept(site)] == [[5]]


async def test_too_many_are_refused_until_some_lapse(site: Site, door: Door) -> None:
    for _ in range(16):
        await door.hear(said([body(1), body(2)])[0])
    more = said([body(1), body(2)])
    with pytest.raises(TooMany):
        await door.hear(more[0])
    site.clock.move(seconds=60)
    await door.hear(*more)
    assert (len(await kept(site)), len(await discarded(site))) == (1, 16)


async def test_what_took_effect_is_remembered_for_a_day(site: Site, door: Door) -> None:
    requests = said([body(1), body(2)])
    await door.hear(*requests)
    site.clock.move(hours=23)
    await upkeep.step(site.context)
    await door.hear(*requests)
    assert len(await kept(site)) == 1
    assert await site.fetch("select body, refused from segment") == [(None, False)] * 2
    site.clock.move(hours=2)
    await upkeep.step(site.context)
    assert await site.fetch("select * from segment") == []


async def test_a_refusal_that_comes_late_undoes_nothing(site: Site, door: Door) -> None:
    """The same segment twice at once: one is refused, the other takes effect meanwhile."""
    requests = said([body(1), body(2)])
    await door.hear(requests[0])

    async def take(message: Inbound) -> str | None:
        await door.hear(requests[1])
        raise FpdError("refused")

    with pytest.raises(FpdError, match="refused"):
        await segments.receive(door.context, *requests[1], take)
    await door.hear(*requests)
    assert (len(await kept(site)), len(door.taken)) == (1, 1)
    assert site.clock.at == NOON
