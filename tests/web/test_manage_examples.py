"""Every example of the SolarUser OSCP API document, posted as it stands there.

Only what the installation assigns may differ: dates, tokens, and flexibilityProviderId.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Any

import pytest
from support.management import User, management

from fpd.web.manage import PREFIX

DATE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d{6})?Z")

PROVIDER = """\
{
  "name"        : "Lines Co.",
  "baseUrl"     : "https://oscp.example.com/oscp/cp/2.0",
  "oscpVersion" : "2.0",
  "enabled"     : true,
  "serviceProps" : {
    "oauth-token-url"     : "https://auth.example.com/oauth2/token",
    "oauth-client-id"     : "client-123",
    "oauth-client-secret" : "Secret.123"
  }
}
"""
OPTIMIZER = PROVIDER.replace("Lines Co.", "Optimizer Co.").replace("oscp/cp", "oscp/co")
GROUP = """\
{
  "name"                               : "My Group",
  "identifier"                         : "my-group",
  "capacityProviderId"                 : 1,
  "capacityProviderMeasurementPeriod"  : "FifteenMinute",
  "capacityOptimizerId"                : 2,
  "capacityOptimizerMeasurementPeriod" : "FiveMinute",
  "enabled"                            : true
}
"""
SETTINGS = """\
{
    "publishToSolarIn"   : true,
    "publishToSolarFlux" : true,
    "nodeId"             : 2,
    "sourceIdTemplate"   : "/oscp/{role}/{action}/{cp}/{co}/{cgIdentifier}"
}
"""
ASSET = """\
{
  "name"            : "Charger 1",
  "capacityGroupId" : 1,
  "identifier"      : "XYZ.ABC.123",
  "audience"        : "CapacityProvider",
  "enabled"         : true,
  "nodeId"          : 123,
  "sourceId"        : "charger/1",
  "category"        : "Charging",
  "phase"           : "All",
  "instantaneous" : {
    "propertyNames" : ["watts"],
    "unit"          : "W",
    "statisticType" : "Maximum"
  },
  "energy" : {
    "propertyNames" : ["wattHours"],
    "unit"          : "Wh",
    "statisticType" : "Difference",
    "type"          : "Total",
    "direction"     : "Import"
  }
}
"""


@pytest.fixture
async def user(database_url: str, clock: Callable[[], datetime]) -> AsyncIterator[User]:
    async with management(database_url, clock) as api:
        yield await api.user()


async def post(user: User, path: str, body: str) -> Any:
    answer = await user("POST", path, body.encode())
    assert answer.status == 201
    assert answer.headers["Location"] == f"{PREFIX}/{path}/{answer.data['configId']}"
    return answer.data


async def everything(user: User) -> None:
    """Create what the document creates, in an order in which references exist."""
    await post(user, "capacity-providers", PROVIDER)
    await post(user, "capacity-optimizers", OPTIMIZER)
    await post(user, "capacity-groups", GROUP)
    await post(user, "assets", ASSET)


def dateless(data: Any) -> Any:
    """Check the dates of an entity and leave them out."""
    assert DATE.fullmatch(data["created"]) and DATE.fullmatch(data["modified"])
    return {name: value for name, value in data.items() if name not in ("created", "modified")}


def in_order(data: Any) -> list[str]:
    return list(data)


@pytest.mark.parametrize(
    ("path", "body", "name", "base_url"),
    [
        ("capacity-providers", PROVIDER, "Lines Co.", "https://oscp.example.com/oscp/cp/2.0"),
        ("capacity-optimizers", OPTIMIZER, "Optimizer Co.", "https://oscp.example.com/oscp/co/2.0"),
    ],
)
async def test_a_peer_is_created_and_viewed(
    user: User, path: str, body: str, name: str, base_url: str
) -> None:
    made = await post(user, path, body)
    assert in_order(made) == [
        "userId", "configId", "created", "modified", "enabled", "name", "token", "baseUrl",
        "oscpVersion", "flexibilityProviderId", "registrationStatus", "settings", "serviceProps",
    ]  # fmt: skip
    token = made.pop("token")
    assert re.fullmatch(r"[A-Za-z0-9+/_-]{64}", token)
    viewed = (await user("GET", f"{path}/1")).data
    assert viewed == made, "and the token is not shown again"
    assert dateless(viewed) == {
        "userId": 1,
        "configId": 1,
        "enabled": True,
        "name": name,
        "baseUrl": base_url,
        "oscpVersion": "2.0",
        "flexibilityProviderId": 1,
        "registrationStatus": "Pending",
        "settings": {},
        "serviceProps": {
            "oauth-token-url": "https://auth.example.com/oauth2/token",
            "oauth-client-id": "client-123",
        },
    }


async def test_a_registered_peer_shows_what_it_demanded(
    database_url: str, clock: Callable[[], datetime]
) -> None:
    async with management(database_url, clock) as api:
        user = await api.user()
        await post(user, "capacity-providers", PROVIDER)
        await api.rows(
            """
            update peer set link = 'online', heartbeat_interval_s = 60,
                            measurement_configuration = '{CONTINUOUS}',
                            offline_mode_at = '2026-03-01T10:30:49.346827+02'
            returning id
            """
        )
        await api.rows(
            """
            insert into heartbeat_due (peer_id, due_at, sent_at)
            values (1, '2026-03-01T10:30Z', '2026-03-01T10:29Z') returning 1
            """
        )
        viewed = (await user("GET", "capacity-providers/1")).data
        assert in_order(viewed) == [
            "userId", "configId", "created", "modified", "enabled", "name", "baseUrl",
            "oscpVersion", "flexibilityProviderId", "registrationStatus", "settings",
            "heartbeatDate", "offlineDate", "serviceProps",
        ]  # fmt: skip
        assert viewed["registrationStatus"] == "Registered"
        assert viewed["settings"] == {"heartbeatSeconds": 60, "measurementStyles": ["Continuous"]}
        assert viewed["heartbeatDate"] == "2026-03-01 10:29:00Z"
        assert viewed["offlineDate"] == "2026-03-01 08:30:49.346827Z"


async def test_a_group_is_created_and_viewed(user: User) -> None:
    await post(user, "capacity-providers", PROVIDER)
    await post(user, "capacity-optimizers", OPTIMIZER)
    made = await post(user, "capacity-groups", GROUP)
    assert in_order(made) == [
        "userId", "configId", "created", "modified", "name", "enabled", "identifier",
        "capacityProviderMeasurementPeriod", "capacityOptimizerMeasurementPeriod",
        "capacityProviderId", "capacityOptimizerId",
    ]  # fmt: skip
    assert (await user("GET", "capacity-groups/1")).data == made
    assert dateless(made) == {
        "userId": 1,
        "configId": 1,
        "name": "My Group",
        "enabled": True,
        "identifier": "my-group",
        "capacityProviderMeasurementPeriod": "FifteenMinute",
        "capacityOptimizerMeasurementPeriod": "FiveMinute",
        "capacityProviderId": 1,
        "capacityOptimizerId": 2,
    }


async def test_an_asset_is_created_viewed_and_listed(user: User) -> None:
    await everything(user)
    viewed = (await user("GET", "assets/1")).data
    assert in_order(viewed) == [
        "userId", "configId", "created", "modified", "name", "enabled", "capacityGroupId",
        "identifier", "audience", "nodeId", "sourceId", "category", "phase", "instantaneous",
        "energy",
    ]  # fmt: skip
    assert in_order(viewed["energy"]) == [
        "propertyNames", "unit", "statisticType", "type", "direction",
    ]  # fmt: skip
    assert dateless(viewed) == {
        "userId": 1,
        "configId": 1,
        "name": "Charger 1",
        "enabled": True,
        "capacityGroupId": 1,
        "identifier": "XYZ.ABC.123",
        "audience": "CapacityProvider",
        "nodeId": 123,
        "sourceId": "charger/1",
        "category": "Charging",
        "phase": "All",
        "instantaneous": {"propertyNames": ["watts"], "unit": "W", "statisticType": "Maximum"},
        "energy": {
            "propertyNames": ["wattHours"],
            "unit": "Wh",
            "statisticType": "Difference",
            "type": "Total",
            "direction": "Import",
        },
    }
    assert (await user("GET", "capacity-groups/1/assets")).data == [viewed]


async def test_user_settings_are_set_viewed_and_deleted(user: User) -> None:
    never_set = await user("GET", "settings")
    assert (never_set.status, never_set.body) == (200, {"success": True})
    made = await user("PUT", "settings", SETTINGS.encode())
    assert made.status == 200
    assert in_order(made.data) == [
        "userId", "created", "modified", "publishToSolarIn", "publishToSolarFlux", "nodeId",
        "sourceIdTemplate",
    ]  # fmt: skip
    assert dateless(made.data) == {
        "userId": 1,
        "publishToSolarIn": True,
        "publishToSolarFlux": True,
        "nodeId": 2,
        "sourceIdTemplate": "/oscp/{role}/{action}/{cp}/{co}/{cgIdentifier}",
    }
    assert (await user("GET", "settings")).data == made.data
    for _ in range(2):
        gone = await user("DELETE", "settings")
        assert (gone.status, gone.body) == (200, {"success": True})
    assert (await user("GET", "settings")).body == {"success": True}


async def test_group_settings_are_set_viewed_listed_and_deleted(user: User) -> None:
    await everything(user)
    path = "capacity-groups/1/settings"
    assert (await user("GET", path)).body == {"success": True}
    assert (await user("GET", "capacity-groups/settings")).data == []
    made = (await user("PUT", path, SETTINGS.encode())).data
    assert in_order(made)[:2] == ["userId", "groupId"]
    assert dateless(made) == {
        "userId": 1,
        "groupId": 1,
        "publishToSolarIn": True,
        "publishToSolarFlux": True,
        "nodeId": 2,
        "sourceIdTemplate": "/oscp/{role}/{action}/{cp}/{co}/{cgIdentifier}",
    }
    assert (await user("GET", path)).data == made
    assert (await user("GET", "capacity-groups/settings")).data == [made]
    assert (await user("DELETE", path)).body == {"success": True}
    assert (await user("GET", "capacity-groups/settings")).data == []


async def test_extra_headers_and_custom_paths_are_kept_for_the_peer(user: User) -> None:
    props = """\
    {
      "http-headers" : {
        "x-api-key" : "2j9TZbnC5luyNlSj1ZsT",
        "x-api-id"  : "98b006d1-6bf4-4d65-98b0-c54fba37799f"
      },
      "url-paths" : {
        "UpdateGroupCapacityForecast" : "/capacity-forecast",
        "Heartbeat"                   : "/hb"
      }
    }"""
    body = f'{{"name": "Lines Co.", "serviceProps": {props}}}'
    shown = (await post(user, "capacity-providers", body))["serviceProps"]
    assert shown == {
        "http-headers": {
            "x-api-key": "***",
            "x-api-id": "98b006d1-6bf4-4d65-98b0-c54fba37799f",
        },
        "url-paths": {"UpdateGroupCapacityForecast": "/capacity-forecast", "Heartbeat": "/hb"},
    }


@pytest.mark.parametrize("path", ["assets/1", "capacity-groups/1", "capacity-optimizers/2"])
async def test_a_view_is_an_update_that_changes_nothing_but_the_date(user: User, path: str) -> None:
    await everything(user)
    viewed = (await user("GET", path)).data
    updated = (await user("PUT", path, viewed)).data
    assert dateless(updated) == dateless(viewed)
    assert updated["created"] == viewed["created"]
    assert updated["modified"] > viewed["modified"]
    assert in_order(updated) == in_order(viewed)


async def test_everything_is_deleted_from_the_bottom(user: User) -> None:
    await everything(user)
    for path in ("assets/1", "capacity-groups/1", "capacity-optimizers/2", "capacity-providers/1"):
        gone = await user("DELETE", path)
        assert (gone.status, gone.body) == (200, {"success": True})
        assert (await user("GET", path)).status == 404
        assert (await user("DELETE", path)).status == 404
    for path in ("capacity-groups", "capacity-optimizers", "capacity-providers"):
        assert (await user("GET", path)).data == []
