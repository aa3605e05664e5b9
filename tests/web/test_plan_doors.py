"""A group's plan, as JSON, as a page and as a picture."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from psycopg.types.json import Jsonb
from web.lookout import NOON, Lookout, a_site, ago, ahead, lookout
from web.test_dashboard import Page

from fpd.flows.planned import compact, planned
from fpd.store.plans import PlanRow
from fpd.web import plan_documents
from fpd.web.dashboard.plan_picture import HEIGHT, WIDTH, picture

GROUP = "/api/v1/oscp/capacity-groups/1/plan"
BREAK = {
    "from": ahead(hours=2).isoformat(),
    "to": ahead(hours=3).isoformat(),
    "which": "import",
    "by_w": 700,
    "reason": "the batteries run <b>empty</b>",
}


def periods() -> dict[str, Any]:
    load = [1000] * 8 + [4000] * 4 + [1000] * 660
    limit = [None] * 8 + [2000] * 4 + [None] * 660
    charge = [-1000] * 4 + [0] * 4 + [1300] * 4 + [0] * 660
    return {
        "period_s": 900,
        "load_source": "the last 4 weeks",
        "load_w": load,
        "least_load_w": [w - 500 for w in load],
        "most_load_w": [w + 500 for w in load],
        "import_limit_w": limit,
        "export_limit_w": [3000] * 672,
        "optimum_w": [None] * 672,
        "net_w": [a - b for a, b in zip(load, charge, strict=True)],
        "devices": [
            {"name": "cellar", "type": "battery", "power_w": charge, "soc": [50.0] * 672,
             "reserve_wh": [1000] * 672},
            {"name": "garage", "type": "battery", "detail": "does <i>not</i> answer"},
        ],
    }  # fmt: skip


@pytest.fixture
async def look(database_url: str) -> AsyncIterator[Lookout]:
    async with lookout(database_url) as look:
        await a_site(look)
        await look.sql("insert into plan_due (group_id, due_at) values (1, %s)", NOON)
        yield look


async def a_plan(look: Lookout) -> None:
    for made_at in (ago(minutes=15), NOON):
        await look.sql(
            "insert into plan (group_id, made_at, from_at, source, solve_s, periods, breaks)"
            " values (1, %s, %s, 'highs', 0.31, %s, %s)",
            made_at, NOON, Jsonb(periods()), Jsonb([BREAK]),
        )  # fmt: skip


async def test_the_newest_plan_is_answered_with_all_that_it_says(look: Lookout) -> None:
    bearer = await look.bearer(1)
    assert (await look.get_json(GROUP, Authorization=bearer))[0] == 404
    await a_plan(look)
    status, said = await look.get_json(GROUP, Authorization=bearer)
    assert status == 200
    data = said["data"]
    assert data["made"] == data["from"] == "2026-03-12T12:00:00.000Z"
    assert data["until"] == "2026-03-19T12:00:00.000Z"
    assert (data["source"], data["solveS"], data["periodS"]) == ("highs", 0.31, 900)
    assert data["importLimitW"][7:9] == [None, 2000]
    assert data["loadSource"] == "the last 4 weeks"
    cellar, garage = data["devices"]
    assert (cellar["name"], cellar["powerW"][0], cellar["soc"][0]) == ("cellar", -1000, 50)
    assert (garage["powerW"], garage["detail"]) == (None, "does <i>not</i> answer")
    assert data["breaks"] == [
        {"from": BREAK["from"], "until": BREAK["to"], "which": "import", "byW": 700,
         "reason": BREAK["reason"]}
    ]  # fmt: skip


async def test_a_plan_is_its_users_own(look: Lookout) -> None:
    await a_plan(look)
    assert (await look.get(GROUP))[0] == 401
    other = await look.bearer(2)
    assert (await look.get(GROUP, Authorization=other))[0] == 404
    assert (await look.get("/plan?group=1", Authorization=other))[0] == 404
    assert (await look.get("/plan?group=1", Test_Remote="203.0.113.9"))[0] == 401
    own = await look.bearer(1)
    assert (await look.get_json(f"{GROUP}?hours=1", Authorization=own))[0] == 400


async def test_the_page_shows_limits_load_and_devices(look: Lookout) -> None:
    status, html = await look.get("/plan?group=1")
    assert status == 200 and "There is no plan yet" in html
    assert 'href="plan?group=1"' in (await look.get("/"))[1]
    await a_plan(look)
    async with look.client.get("/plan?group=1&hours=24") as answer:
        policy, html = answer.headers["Content-Security-Policy"], await answer.text()
    assert "unsafe" not in policy
    page = Page(html)
    assert page.inline == []
    assert "import limit broken by up to 700 W" in re.sub("\\s", " ", page.text)
    assert "<b>empty</b>" in page.text and "does <i>not</i> answer" in page.text
    assert html.count("<svg") == 2
    assert 'class="broken"' in html and 'class="soc"' in html
    for address in page.addresses:
        assert not re.match(r"[a-z]+:|/", address)
        assert (await look.get(f"/{address.removeprefix('.')}"))[0] == 200
    for wrong in ("", "?group=0", "?group=x", "?group=1&hours=999", "?group=99"):
        assert (await look.get(f"/plan{wrong}"))[0] in (400, 404)


def row(**changes: Any) -> PlanRow:
    return PlanRow(
        id=1, group_id=1, made_at=NOON, from_at=NOON, source="highs", solve_s=0.3,
        periods={**periods(), **changes}, breaks=[BREAK],
    )  # fmt: skip


@pytest.mark.parametrize("hours", [1, 24, 168])
def test_the_picture_stays_inside_its_frame(hours: int) -> None:
    found = picture(planned(row(optimum_w=[500] * 672)), hours=hours)
    power = found.power
    for path in (power.load, power.range, power.net, power.optimum, *power.limits):
        for x, y in re.findall(r"[ML]([-\d.]+) ([-\d.]+)", path):
            assert 0 <= float(x) <= WIDTH and 0 <= float(y) <= HEIGHT
    assert len(power.limits) == (1 if hours == 1 else 2)
    assert len(power.broken) == (0 if hours == 1 else 1)
    cellar, garage = found.devices
    assert cellar.soc.startswith("M0 55L") and garage.power == ""
    assert power.load.startswith("M0 ") and power.load.endswith(power.load.split("L")[-1])
    assert found.times


def test_a_plan_at_the_broker_is_the_next_day_of_it() -> None:
    found = compact(planned(row()))
    assert len(found["loadW"]) == len(found["devices"][0]["powerW"]) == 96
    assert found["devices"][1] == {"name": "garage", "powerW": None, "soc": None}
    assert len(json.dumps(found, default=str)) < 5000
    assert len(plan_documents.shown(planned(row()), most=4).load_w) == 4
