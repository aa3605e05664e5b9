"""What users do with entities: defaults, references, uniqueness, paging, and each to his own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Any

import pytest
from support.management import Management, User, asset_body, group_body, make_group, management

from fpd.config import Http
from fpd.web.manage import PREFIX


@pytest.fixture
async def api(database_url: str, clock: Callable[[], datetime]) -> AsyncIterator[Management]:
    async with management(database_url, clock) as api:
        yield api


@pytest.fixture
async def user(api: Management) -> User:
    return await api.user()


async def provider(user: User, **changes: Any) -> Any:
    return (await user("POST", "capacity-providers", {"name": "Lines Co.", **changes})).data


async def test_what_is_not_said_has_a_default(user: User) -> None:
    peer = await provider(user)
    assert (peer["enabled"], peer["oscpVersion"]) == (False, "2.0")
    assert "baseUrl" not in peer and "serviceProps" not in peer
    group = await make_group(user, enabled=None)
    assert group["enabled"] is False
    measured = {"propertyNames": ["watts"], "unit": "W"}
    counted = {"propertyNames": ["wattHours"], "unit": "Wh", "multiplier": 0.001}
    body = asset_body(group["configId"], instantaneous=measured, energy=counted)
    asset = (await user("POST", "assets", body)).data
    assert asset["instantaneous"] == {**measured, "statisticType": "Average"}
    assert asset["energy"] == {
        **counted, "statisticType": "Difference", "type": "Total", "direction": "Import",
    }  # fmt: skip
    assert list(asset["energy"])[1:3] == ["unit", "multiplier"]
    settings = (await user("PUT", "settings", {"nodeId": 2})).data
    assert settings["publishToSolarIn"] is settings["publishToSolarFlux"] is True


async def test_a_group_s_settings_override_only_what_they_say(user: User) -> None:
    group = await make_group(user)
    path = f"capacity-groups/{group['configId']}/settings"
    said = {"publishToSolarIn": False}
    made = (await user("PUT", path, said)).data
    assert {n: v for n, v in made.items() if n.startswith(("publish", "node", "source"))} == said
    await user("PUT", path, {"nodeId": "7"})
    replaced = (await user("GET", path)).data
    assert replaced["nodeId"] == 7 and "publishToSolarIn" not in replaced
    assert replaced["created"] == made["created"] < replaced["modified"]


async def test_words_and_ids_may_be_written_in_many_ways(user: User) -> None:
    group = await make_group(
        user, capacityProviderMeasurementPeriod=900, capacityOptimizerMeasurementPeriod="HOUR"
    )
    assert group["capacityProviderMeasurementPeriod"] == "FifteenMinute"
    assert group["capacityOptimizerMeasurementPeriod"] == "Hour"
    body = asset_body(
        str(group["configId"]),
        nodeId="123",
        audience="co",
        category="v",
        phase="all",
        energy={"propertyNames": ["a"], "unit": "E", "type": "n", "direction": "EXPORT"},
    )
    asset = (await user("POST", "assets", body)).data
    assert (asset["capacityGroupId"], asset["nodeId"]) == (group["configId"], 123)
    assert asset["audience"] == "CapacityOptimizer"
    assert (asset["category"], asset["phase"]) == ("Charging", "All")
    assert asset["energy"]["unit"] == "kWh"
    assert (asset["energy"]["type"], asset["energy"]["direction"]) == ("NonFlexible", "Export")


async def test_an_update_replaces_everything(user: User) -> None:
    peer = await provider(
        user, enabled=True, baseUrl="https://oscp.example.com", serviceProps={"a": 1}
    )
    path = f"capacity-providers/{peer['configId']}"
    replaced = (await user("PUT", path, {"name": "New Lines"})).data
    assert (replaced["name"], replaced["enabled"]) == ("New Lines", False)
    assert "baseUrl" not in replaced and "serviceProps" not in replaced
    assert (await user("GET", path)).data == replaced


async def test_providers_and_optimizers_share_ids_but_not_paths(user: User) -> None:
    group = await make_group(user)
    assert (group["capacityProviderId"], group["capacityOptimizerId"]) == (1, 2)
    assert (await user("GET", "capacity-optimizers/1")).status == 404
    assert (await user("GET", "capacity-providers/2")).status == 404


async def test_a_group_needs_no_optimizer(user: User) -> None:
    peer = await provider(user)
    body = group_body(peer["configId"])
    del body["capacityOptimizerMeasurementPeriod"]
    group = (await user("POST", "capacity-groups", body)).data
    assert "capacityOptimizerId" not in group
    missing = await user("POST", "capacity-groups", {**body, "capacityOptimizerId": 77})
    assert missing.status == 422
    assert missing.faults == {
        "capacityOptimizerMeasurementPeriod": "is required",
        "capacityOptimizerId": "there is no capacity optimizer 77",
    }


async def test_references_must_exist_and_have_the_right_role(user: User) -> None:
    group = await make_group(user)
    wrong = group_body(
        group["capacityOptimizerId"],
        identifier="other",
        capacityOptimizerId=group["capacityProviderId"],
    )
    answer = await user("POST", "capacity-groups", wrong)
    assert answer.status == 422
    assert set(answer.faults) == {"capacityProviderId", "capacityOptimizerId"}
    answer = await user("POST", "assets", asset_body(77))
    assert (answer.status, list(answer.faults)) == (422, ["capacityGroupId"])


async def test_what_must_be_unique_is_told_as_taken(user: User) -> None:
    group = await make_group(user)
    again = await user(
        "POST", "capacity-groups", group_body(group["capacityProviderId"], identifier="my-group")
    )
    assert (again.status, again.body["code"]) == (409, "DAO.00101")
    assert list(again.faults) == ["identifier"]
    await user("POST", "assets", asset_body(group["configId"]))
    again = await user("POST", "assets", asset_body(group["configId"]))
    assert (again.status, list(again.faults)) == (409, ["identifier"])
    assert len((await user("GET", f"capacity-groups/{group['configId']}/assets")).data) == 1


async def test_a_base_url_is_unique_per_role_however_it_is_written(
    api: Management, user: User
) -> None:
    one = await provider(user, baseUrl="HTTPS://Lines.Example.COM/oscp/")
    assert one["baseUrl"] == "https://lines.example.com/oscp"
    same = {"name": "Twin", "baseUrl": "https://lines.example.com/oscp"}
    twin = await user("POST", "capacity-providers", same)
    assert (twin.status, list(twin.faults)) == (409, ["baseUrl"])
    assert (await user("POST", "capacity-optimizers", same)).status == 201
    assert (await (await api.user(2))("POST", "capacity-providers", same)).status == 201
    other = await provider(user, baseUrl="https://other.example.com")
    moved = await user("PUT", f"capacity-providers/{other['configId']}", same)
    assert (moved.status, list(moved.faults)) == (409, ["baseUrl"])


async def test_a_peer_that_a_group_uses_stays(user: User) -> None:
    group = await make_group(user)
    for path in ("capacity-providers/1", "capacity-optimizers/2"):
        refused = await user("DELETE", path)
        assert (refused.status, refused.body["code"]) == (409, "DAO.00105")
        assert (await user("GET", path)).status == 200
    await user("POST", "assets", asset_body(group["configId"]))
    await user("PUT", "capacity-groups/1/settings", {"nodeId": 1})
    assert (await user("DELETE", "capacity-groups/1")).status == 200
    assert (await user("GET", "assets/1")).status == 404, "its assets go with it"
    assert (await user("GET", "capacity-groups/settings")).data == []
    assert (await user("DELETE", "capacity-providers/1")).status == 200


async def test_what_is_another_user_s_does_not_exist(api: Management, user: User) -> None:
    group = await make_group(user)
    await user("POST", "assets", asset_body(group["configId"]))
    await user("PUT", "settings", {"nodeId": 2})
    await user("PUT", "capacity-groups/1/settings", {"nodeId": 2})
    stranger = await api.user(2)
    bodies = {
        "capacity-providers/1": {"name": "Mine now"},
        "capacity-optimizers/2": {"name": "Mine now"},
        "capacity-groups/1": group_body(1),
        "assets/1": asset_body(1),
        "capacity-groups/1/settings": {"nodeId": 9},
    }
    for path, body in bodies.items():
        for method in ("GET", "PUT", "DELETE"):
            answer = await stranger(method, path, body if method == "PUT" else None)
            assert answer.status == 404, (method, path)
            assert next(iter(answer.faults)).startswith("path.")
        assert (await user("GET", path)).status == 200
    assert (await stranger("GET", "capacity-groups/1/assets")).status == 404
    for path in ("capacity-providers", "capacity-optimizers", "capacity-groups", "assets"):
        assert (await stranger("GET", path)).data == []
    assert (await stranger("GET", "capacity-groups/settings")).data == []
    assert (await stranger("GET", "settings")).body == {"success": True}
    assert list((await stranger("POST", "assets", asset_body(1))).faults) == ["capacityGroupId"]
    foreign = (
        await stranger("POST", "capacity-groups", group_body(1, capacityOptimizerId=2))
    ).faults
    assert set(foreign) == {"capacityProviderId", "capacityOptimizerId"}
    await stranger("DELETE", "settings")
    assert (await user("GET", "settings")).data["nodeId"] == 2


async def test_two_users_may_use_the_same_words(api: Management) -> None:
    groups = [await make_group(await api.user(user_id)) for user_id in (1, 2)]
    assert [group["userId"] for group in groups] == [1, 2]
    assert groups[0]["identifier"] == groups[1]["identifier"]


async def test_lists_come_whole_or_in_pages(user: User) -> None:
    for number in range(5):
        await provider(user, name=f"Lines {number}")
    whole = (await user("GET", "capacity-providers")).data
    assert [peer["configId"] for peer in whole] == [1, 2, 3, 4, 5]
    page = (await user("GET", "capacity-providers?max=2&offset=1")).data
    assert list(page) == ["totalResults", "startingOffset", "returnedResultCount", "results"]
    assert page == {
        "totalResults": 5,
        "startingOffset": 1,
        "returnedResultCount": 2,
        "results": whole[1:3],
    }
    rest = (await user("GET", "capacity-providers?offset=4")).data
    assert (rest["returnedResultCount"], rest["results"]) == (1, whole[4:])
    beyond = (await user("GET", "capacity-providers?max=10000&offset=9")).data
    assert (beyond["totalResults"], beyond["results"]) == (5, [])


@pytest.mark.parametrize(
    ("query", "faults"),
    [
        ("max=0", {"query.max"}),
        ("max=10001", {"query.max"}),
        ("max=-1&offset=-1", {"query.max", "query.offset"}),
        ("max=two", {"query.max"}),
        ("offset=", {"query.offset"}),
        ("offset=1.5", {"query.offset"}),
        ("offset=99999999999999999999", {"query.offset"}),
        ("max=%D9%A3", {"query.max"}),
    ],
)
async def test_a_page_that_cannot_be(user: User, query: str, faults: set[str]) -> None:
    for path in ("capacity-groups", "capacity-groups/settings"):
        answer = await user("GET", f"{path}?{query}")
        assert (answer.status, set(answer.faults)) == (422, faults)


async def test_the_pages_of_a_group_s_assets(user: User) -> None:
    group = await make_group(user)
    for number in range(3):
        await user("POST", "assets", asset_body(group["configId"], identifier=f"charger-{number}"))
    page = (await user("GET", "capacity-groups/1/assets?max=1&offset=2")).data
    assert (page["totalResults"], page["results"][0]["identifier"]) == (3, "charger-2")


async def test_every_list_has_pages_and_its_whole(user: User) -> None:
    for number in range(3):
        group = await make_group(user, identifier=f"g{number}")
        await user("PUT", f"capacity-groups/{group['configId']}/settings", {"nodeId": 1 + number})
        for asset in range(50):
            body = asset_body(group["configId"], identifier=f"a{asset}")
            assert (await user("POST", "assets", body)).status == 201
    for path, many in (
        ("capacity-providers", 3),
        ("capacity-optimizers", 3),
        ("capacity-groups", 3),
        ("capacity-groups/settings", 3),
        ("capacity-groups/2/assets", 50),
        ("assets", 150),
    ):
        whole = (await user("GET", path)).data
        assert len(whole) == many
        for offset, most in ((0, 2), (1, 10_000), (many - 1, 1), (many, 5)):
            page = (await user("GET", f"{path}?max={most}&offset={offset}")).data
            assert page["results"] == whole[offset:][:most]
            assert page["totalResults"] == many and page["startingOffset"] == offset
            assert page["returnedResultCount"] == len(page["results"])
    ids = [asset["configId"] for asset in (await user("GET", "assets")).data]
    assert ids == sorted(ids)


async def test_control_settings_have_defaults_and_are_shown_last(user: User) -> None:
    meter = {"nodeId": 5, "sourceId": "meter/1", "property": "watts"}
    group = await make_group(
        user,
        control={"staticImportLimit": 11000, "phases": 1, "gapPolicy": "holdlast", "meter": meter},
    )
    assert list(group)[-1] == "control"
    assert group["control"] == {
        "staticImportLimit": 11000,
        "nominalVoltage": 230,
        "phases": 1,
        "capacityScope": "Net",
        "gapPolicy": "HoldLast",
        "optimumDirection": "Auto",
        "marginPercent": 2,
        "meter": {**meter, "multiplier": 1},
    }
    bad = {
        "staticImportLimit": -1,
        "staticExportLimit": 10.5,
        "nominalVoltage": 0,
        "phases": 2,
        "capacityScope": "All",
        "gapPolicy": "Hope",
        "optimumDirection": 1,
        "marginPercent": 50.1,
        "meter": {"nodeId": 0, "multiplier": "2"},
    }
    answer = await user("PUT", "capacity-groups/1", {**group, "control": bad})
    assert answer.status == 422
    assert set(answer.faults) == {
        *(f"control.{name}" for name in bad if name != "meter"),
        *(f"control.meter.{name}" for name in ("nodeId", "sourceId", "property", "multiplier")),
    }
    assert (await user("GET", "capacity-groups/1")).data == group


async def test_an_asset_may_drive_a_device_of_its_user(api: Management, user: User) -> None:
    group = await make_group(user)
    body = asset_body(group["configId"], control={"device": "battery-1"})
    asset = (await user("POST", "assets", body)).data
    assert list(asset)[-1] == "control"
    assert asset["control"] == {"device": "battery-1", "priority": 1}
    for name in ("battery-9", "battery-x", ""):
        body = asset_body(
            group["configId"], identifier="b", control={"device": name, "priority": 0}
        )
        answer = await user("POST", "assets", body)
        assert answer.status == 422
        assert set(answer.faults) == {"control.device", "control.priority"}
        assert name == "" or "battery-1, battery-2" in answer.faults["control.device"]
        assert "battery-x" not in answer.text, "another user's"
    stranger = await api.user(3)
    theirs = await make_group(stranger)
    answer = await stranger(
        "POST", "assets", asset_body(theirs["configId"], control={"device": "battery-1"})
    )
    assert "none is configured" in answer.faults["control.device"]


async def test_control_is_rung_when_something_changes(api: Management, user: User) -> None:
    rung = []
    api.context.bells.control = lambda: rung.append(True)
    first, second = await make_group(user), await make_group_again(user)
    for table in ("control_due", "compliance_due"):
        await api.rows(
            f"insert into {table} (group_id, due_at)"
            " select id, '2100-01-01' from capacity_group returning 1"
        )

    async def due() -> list[int]:
        woken = await api.rows(
            """
            update control_due set due_at = '2100-01-01' where due_at < '2100-01-01'
            returning group_id
            """
        )
        return sorted(row[0] for row in woken)

    rung.clear()
    asset = (await user("POST", "assets", asset_body(first["configId"]))).data
    assert rung and await due() == [first["configId"]]
    moved = {**asset, "capacityGroupId": second["configId"]}
    await user("PUT", f"assets/{asset['configId']}", moved)
    assert await due() == [first["configId"], second["configId"]]
    await user("DELETE", f"assets/{asset['configId']}")
    assert await due() == [second["configId"]]
    await user("PUT", f"capacity-groups/{first['configId']}", first)
    assert await due() == [first["configId"]]
    await user("PUT", "capacity-providers/1", {"name": "Lines Co."})
    assert await due() == [first["configId"], second["configId"]]


async def make_group_again(user: User) -> Any:
    body = group_body(1, identifier="second", capacityOptimizerId=2)
    return (await user("POST", "capacity-groups", body)).data


async def test_many_at_once_neither_lose_nor_double_anything(user: User) -> None:
    group = await make_group(user)
    bodies = [asset_body(group["configId"], identifier=f"a{number % 5}") for number in range(20)]
    answers = await asyncio.gather(*(user("POST", "assets", body) for body in bodies))
    assert sorted(answer.status for answer in answers) == [201] * 5 + [409] * 15
    listed = (await user("GET", "capacity-groups/1/assets")).data
    assert sorted(asset["identifier"] for asset in listed) == [f"a{number}" for number in range(5)]
    puts = [user("PUT", "settings", {"nodeId": number + 1}) for number in range(10)]
    assert {answer.status for answer in await asyncio.gather(*puts)} == {200}


async def test_the_rate_of_a_token_is_limited(
    database_url: str, clock: Callable[[], datetime]
) -> None:
    slow = Http(rate_per_token_s=0.1, rate_burst=3)
    async with management(database_url, clock, http=slow) as api:
        one, other = await api.user(), await api.user()
        answers = [await one("GET", "settings") for _ in range(4)]
        assert [answer.status for answer in answers] == [200, 200, 200, 429]
        assert 1 <= int(answers[3].headers["Retry-After"]) <= 10
        assert answers[3].faults == {}
        assert (await other("GET", "settings")).status == 200, "another token has its own rate"


async def test_a_location_leads_to_what_was_made(user: User) -> None:
    answer = await user("POST", "capacity-optimizers", {"name": "Optimizer Co."})
    assert answer.headers["Location"] == f"{PREFIX}/capacity-optimizers/1"
    assert (await user("GET", answer.headers["Location"])).data["name"] == "Optimizer Co."


async def test_a_list_shows_what_views_show(api: Management) -> None:
    user = await api.user()
    group = await make_group(user, control={"staticImportLimit": 11000, "marginPercent": 2.5})
    names = [f"property-{n}-{'x' * 40}" for n in range(50)]  # a part of some length, and short ones
    for number, part in enumerate(
        (
            {},
            {"instantaneous": {"propertyNames": ["w"], "unit": "kW", "multiplier": 0.001}},
            {"instantaneous": {"propertyNames": ["w"], "unit": "kW", "multiplier": 0.001}},
            {"energy": {"propertyNames": names, "unit": "Wh"}, "control": {"device": "battery-1"}},
        )
    ):
        body = asset_body(group["configId"], identifier=f"a{number}", **part)
        assert (await user("POST", "assets", body)).status == 201
    props = {"b": {"z": None, "a": [1.5, "é"]}, "a": True, "http-headers": {"X-Key": "secret"}}
    for more in ({}, {"serviceProps": {}}, {"serviceProps": props}):
        await user("POST", "capacity-providers", {"name": "Lines Co."} | more)
    await api.rows(
        "update peer set heartbeat_interval_s = 30, measurement_configuration = '{CONTINUOUS}'"
        " where id = %s returning 1",
        group["capacityProviderId"],
    )
    for kind in ("assets", "capacity-providers", "capacity-optimizers", "capacity-groups"):
        listed = json.loads((await user("GET", kind)).text)["data"]
        paged = json.loads((await user("GET", f"{kind}?max=100")).text)["data"]["results"]
        views = [await user("GET", f"{kind}/{one['configId']}") for one in listed]
        assert [json.dumps(one) for one in listed] == [json.dumps(view.data) for view in views]
        assert paged == listed and listed
