"""The page that an operator looks at."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import datetime
from decimal import Decimal
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from support.waiting import wait_for
from web.lookout import NOON, Lookout, a_site, add_device, ago, ahead, battery, lookout

from fpd.embedded.broker import EmbeddedBroker
from fpd.store.overview import Envelope
from fpd.web.dashboard import words
from fpd.web.dashboard.gauge import WIDTH, gauge


@pytest.fixture
async def look(database_url: str) -> AsyncIterator[Lookout]:
    async with lookout(database_url, devices=[battery("cellar"), battery("garage")]) as look:
        yield look


class Page(HTMLParser):
    """What a reader sees, and what a browser would fetch or run."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.addresses: list[str] = []
        self.inline: list[str] = []
        self._inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag
        for name, value in attrs:
            if name in ("src", "href", "action", "data-from", "xlink:href"):
                self.addresses.append(value or "")
            if name == "style" or name.startswith("on"):
                self.inline.append(f"{name}={value}")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside in ("script", "style") and data.strip():
            self.inline.append(data)
        self.words.append(data)

    @property
    def text(self) -> str:
        """The words, with every kind of blank as one space."""
        return " ".join(" ".join(self.words).split())


async def seen(look: Lookout, path: str = "/") -> Page:
    status, html = await look.get(path)
    assert status == 200
    return Page(html)


async def test_the_page_says_what_the_database_says(look: Lookout) -> None:
    await a_site(look)
    text = (await seen(look)).text
    assert "2026-03-12 12:00:00 UTC" in text
    assert "Lines Co. Provider 1 online 09:00:00 (3 h) 14 s ago 12:02:46 (in 2 min) 8 s ago" in text
    assert "Stadtwerke Provider 2 offline its heartbeat is overdue 11:48:00 (12 min)" in text
    assert "Optimal Optimizer 3 online" in text
    assert "Depot depot 3 150 W import meter, 4 s ago" in text
    assert "Export limit 2 000 W Import limit 5 000 W Optimum 1 500 W import" in text
    assert "forecast of the provider Since 11:23:00 (37 min ago)" in text
    assert "cellar battery ok discharging 480 W, 62 % full 6 s ago" in text
    assert "discharge 500 W confirmed meter, 7 s ago discharge 500 W 6 s ago" in text
    assert "Messages to peers 3 the oldest since 11:54:00 (6 min)" in text
    assert "MQTT publications 1" in text


async def test_what_needs_attention_comes_first(look: Lookout) -> None:
    await a_site(look)
    await add_device(look, "garage", health="stopped", power_w=0)
    await look.sql("update device_state set detail = 'password refused' where name = 'garage'")
    await look.sql("update envelope set max_w = 3000")
    text = (await seen(look)).text
    notices = text[: text.index("Capacity groups")]
    assert "(6) fpd: something does not work" in notices
    found = [
        "MQTT broker is away; 1 publications wait for it",
        "Stadtwerke offline for 12 min: its heartbeat is overdue",
        "Depot 150 W above its import limit",
        "garage stopped: password refused",
        "Elsewhere provisioned for 5 h: waits for it to register with its token",
        "Messages to peers 3 wait, the oldest for 6 min",
    ]
    places = [notices.index(words) for words in found]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("change", "notice"),
    [
        ("update envelope set reason = 'fallback'", "fallback: the provider is offline, for 37"),
        ("update envelope set min_w = 0, max_w = 0", "3 150 W above its import limit"),
        ("update datum set at = at - interval '10 min'", "last measured 10 min ago"),
        ("delete from datum", "1 of 1 readings are missing"),
        ("update peer set link = 'failed' where id = 1", "it refused our registration"),
        (
            "update device_state set attempts = 3, confirmed = null",
            "does not follow “discharge 500 W”, told 3 times",
        ),
        ("update device_state set health = 'unavailable'", "cellar unavailable: does not answer"),
    ],
)
async def test_trouble_is_noticed(look: Lookout, change: str, notice: str) -> None:
    await a_site(look)
    assert notice not in (await seen(look)).text
    await look.sql(change)
    text = (await seen(look)).text
    assert notice in text[: text.index("Capacity groups")]


@pytest.mark.parametrize(
    "change",
    [
        "update capacity_group set enabled = false",
        # Such limits are meant for the flexible devices, not for what the group takes.
        'update capacity_group set control = control || \'{"capacityScope": "Flexible"}\'',
        "update envelope set max_w = null",
    ],
)
async def test_what_cannot_be_a_breach_is_not_called_one(look: Lookout, change: str) -> None:
    await a_site(look)
    await look.sql("update envelope set max_w = 3000")
    assert "above its import limit" in (await seen(look)).text
    await look.sql(change)
    text = (await seen(look)).text
    assert "above its import limit" not in text[: text.index("Capacity groups")]


async def test_what_is_disabled_or_not_ours_to_drive_is_no_trouble(look: Lookout) -> None:
    await a_site(look)
    await add_device(look, "former", health="unavailable", power_w=0)
    await look.sql("update peer set enabled = false where link in ('offline', 'provisioned')")
    await look.sql("delete from outbox")
    text = (await seen(look)).text
    assert "disabled: fpd does not talk to it" in text
    assert "not in this configuration" in text
    notices = text[text.index("MQTT broker away") : text.index("Capacity groups")]
    assert "Stadtwerke" not in notices
    assert "former" not in notices


async def test_names_cannot_bring_code_into_the_page(look: Lookout) -> None:
    await a_site(look)
    evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
    for statement in (
        "update peer set name = %s",
        "update capacity_group set name = %s, identifier = id || %s",
        "update device_state set detail = %s, health = 'degraded'",
        "update device_state set plan = jsonb_build_object('reason', %s::text)",
    ):
        await look.sql(statement, *[evil] * statement.count("%s"))
    page = await seen(look)
    assert evil in page.text
    assert page.inline == []
    assert [address for address in page.addresses if address == "x"] == []


@pytest.mark.parametrize(("path", "filled"), [("/", True), ("/", False), ("/api", False)])
async def test_the_pages_work_offline_under_a_strict_policy(
    look: Lookout, path: str, filled: bool
) -> None:
    if filled:
        await a_site(look)
    async with look.client.get(path) as answer:
        policy = answer.headers["Content-Security-Policy"]
        page = Page(await answer.text())
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert set(re.findall(r"-src ([^;]*)", policy)) == {"'none'", "'self'"}
    assert page.inline == []
    assert len(page.addresses) >= 5
    for address in page.addresses:
        assert not re.match(r"[a-z]+:|/", address), "relative, so that it works below a prefix too"
        assert (await look.get(f"/{address}"))[0] == 200


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("style.css", "text/css"),
        ("live.js", "text/javascript"),
        ("api.css", "text/css"),
        ("api.js", "text/javascript"),
        ("icon.svg", "image/svg+xml"),
    ],
)
async def test_static_files_say_what_they_are(look: Lookout, name: str, kind: str) -> None:
    async with look.client.get(f"/dashboard/{name}") as answer:
        assert (answer.status, answer.content_type) == (200, kind)
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        text = await answer.text()
    external = set(re.findall(r"https?://[^\s\"']+", text)) - {"http://www.w3.org/2000/svg"}
    assert external == set()


async def test_the_page_of_the_api_is_open_and_leads_to_its_description(look: Lookout) -> None:
    status, text = await look.get("/api", Test_Remote="203.0.113.9")
    assert status == 200 and 'data-from="openapi.json"' in text
    assert 'href="api"' in (await look.get("/"))[1]
    script = (await look.get("/dashboard/api.js"))[1]
    assert not re.search("innerHTML|outerHTML|insertAdjacentHTML|document.write|eval", script)


async def test_only_what_belongs_to_the_page_is_served(look: Lookout) -> None:
    for path in ("/dashboard/page.html", "/dashboard/..%2f__init__.py", "/dashboard/"):
        assert (await look.get(path))[0] == 404


async def test_the_part_that_changes_is_the_same_when_fetched_alone(look: Lookout) -> None:
    await a_site(look)
    whole, part = await look.get("/"), await look.get("/dashboard/live")
    assert part[0] == 200
    # To the blank: the script alters only what differs, node by node.
    assert f'data-every-s="3">{part[1]}</div>' in whole[1]
    await look.sql("update peer set link = 'online', link_changed_at = %s where id = 2", NOON)
    part = await look.get("/dashboard/live")
    assert "its heartbeat is overdue" not in part[1]


async def test_an_empty_house_tells_what_to_do_next(look: Lookout) -> None:
    text = (await seen(look)).text
    origin = str(look.client.make_url("/")).rstrip("/")
    assert text.index("fpd token create --user-id 1") < text.index("No group yet")
    assert f"curl -X POST {origin}/solaruser/api/v1/sec/user/oscp/capacity-providers" in text
    assert f"curl -X POST {origin}/solaruser/api/v1/sec/user/oscp/capacity-groups" in text
    assert "[[device]]" in text


async def test_all_is_well(database_url: str, broker: EmbeddedBroker) -> None:
    async with lookout(database_url, devices=[battery("cellar")], broker=broker.address) as look:
        await a_site(look)
        await look.sql("delete from outbox")
        await look.sql("update peer set link = 'online'")
        await wait_for(lambda: look.context.mqtt.connected)
        text = (await seen(look)).text
        assert "fpd: all is well" in text
        assert "MQTT broker ok" in text
        assert "All is well." in text


async def test_without_the_database_the_page_says_so(look: Lookout) -> None:
    await a_site(look)
    await look.context.db.close()
    page = await seen(look)
    assert "fpd: database away" in page.text
    assert "Database away" in page.text
    assert "Nothing is known while the database is away" in page.text
    assert "Lines Co." not in page.text


async def test_who_may_not_look_is_told_how(look: Lookout) -> None:
    await a_site(look)
    async with look.client.get("/", headers={"Test-Remote": "192.0.2.7"}) as answer:
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"] == "Bearer, SNWS2"
        assert "Content-Security-Policy" in answer.headers
        page = Page(await answer.text())
    assert "ssh -L 8484:127.0.0.1:8484" in page.text
    assert "Authorization: Bearer" in page.text
    assert "Lines Co." not in page.text
    assert page.inline == []


async def test_a_token_that_cannot_be_checked_now_is_not_called_wrong(look: Lookout) -> None:
    bearer = await look.bearer(1)
    await look.context.db.close()
    status, html = await look.get("/", Test_Remote="192.0.2.7", Authorization=bearer)
    assert status == 503
    assert "cannot check your token now" in html


@pytest.mark.parametrize(
    ("at", "said"),
    [
        (NOON, "now"),
        (ago(seconds=59), "59 s ago"),
        (ago(seconds=119), "119 s ago"),
        (ago(minutes=12), "12 min ago"),
        (ago(hours=2), "2 h ago"),
        (ago(hours=26, minutes=5), "26 h 5 min ago"),
        (ago(days=3), "3 days ago"),
        (ahead(seconds=45), "in 45 s"),
    ],
)
def test_ages(at: datetime, said: str) -> None:
    assert blanks(words.age(at, NOON)) == said


@pytest.mark.parametrize(
    ("watts", "said"),
    [
        (0, "0 W"),
        (9999, "9 999 W"),
        (-9999, "−9 999 W"),
        (10_000, "10 kW"),
        (12_345, "12.345 kW"),
        (-1_250_500, "−1 250.5 kW"),
        (Decimal("1493.599976"), "1 494 W"),
        (0.4, "0 W"),
    ],
)
def test_powers_have_units_and_lose_no_watt(watts: float | Decimal, said: str) -> None:
    assert blanks(words.watts(watts)) == said


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ({"kind": "setpoint", "power_w": 500}, "discharge 500 W"),
        ({"kind": "setpoint", "power_w": -3300}, "charge 3 300 W"),
        ({"kind": "setpoint", "power_w": 0}, "idle, 0 W"),
        ({"kind": "release"}, "released: its own control"),
        (
            {"kind": "profile", "points": [[0, 1500], [231, 800], [671, 1500]]},
            "weekly profile, 800–1 500 W, 3 points",
        ),
        ({"kind": "profile", "points": [[0, 900]]}, "weekly profile, 900 W, 1 point"),
        ({"kind": "a later one", "x": 1}, '{"kind":"a later one","x":1}'),
    ],
)
def test_commands_in_words(command: dict[str, object], said: str) -> None:
    assert blanks(words.command(command)) == said


def blanks(text: str) -> str:
    return text.replace("\N{NARROW NO-BREAK SPACE}", " ").replace("\N{NO-BREAK SPACE}", " ")


def limits(min_w: int | None, max_w: int | None, optimum_w: int | None = None) -> Envelope:
    return Envelope(
        min_w=min_w,
        max_w=max_w,
        optimum_w=optimum_w,
        reason="forecast",
        since_at=NOON,
        until_at=None,
    )


@pytest.mark.parametrize(
    ("min_w", "max_w", "optimum_w", "power_w"),
    [
        (-2000, 5000, 1500, Decimal(5300)),
        (-2000, 5000, None, Decimal(-90_000)),
        (0, 0, 0, Decimal(0)),
        (None, 17_250, None, Decimal("12.5")),
    ],
)
def test_a_picture_keeps_everything_inside_and_in_order(
    min_w: int | None, max_w: int | None, optimum_w: int | None, power_w: Decimal
) -> None:
    picture = gauge(limits(min_w, max_w, optimum_w), power_w)
    assert picture is not None
    named = [(min_w, picture.band[0]), (max_w, picture.band[1]), (0, picture.zero)]
    named += [(optimum_w, picture.optimum or 0.0), (int(power_w), picture.measured or 0.0)]
    placed = sorted((watts, x) for watts, x in named if watts is not None)
    assert [x for _, x in placed] == sorted(x for _, x in placed)
    assert all(0 < x < WIDTH for _, x in placed)
    apart = sorted(label.x for label in picture.labels)
    assert all(right - left >= 70 for left, right in pairwise(apart))


def test_no_limit_reaches_the_edge_of_the_picture_and_zero_does_not() -> None:
    free = gauge(limits(None, None), Decimal(100))
    closed = gauge(limits(0, 0), Decimal(100))
    assert free is not None
    assert closed is not None
    assert free.band == (0.0, WIDTH)
    assert closed.band == (closed.zero, closed.zero)


def test_nothing_known_is_no_picture() -> None:
    assert gauge(limits(None, None), None) is None
    assert gauge(None, None) is None
