"""What comes in may be anything: it is refused in one shape, with the right status, by name."""

from __future__ import annotations

import asyncio
import json
import posixpath
import zlib
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.management import Management, User, asset_body, group_body, make_group, management

from fpd.config import Http
from fpd.domain.link import Link
from fpd.store import accounts
from fpd.web import body as bodies
from fpd.web.manage import PREFIX


@pytest.fixture
async def api(database_url: str, clock: Callable[[], datetime]) -> AsyncIterator[Management]:
    async with management(database_url, clock, http=Http(max_body_mb=0.1)) as api:
        yield api


@pytest.fixture
async def user(api: Management) -> User:
    return await api.user()


async def test_every_fault_is_told_at_once(user: User) -> None:
    answer = await user("POST", "capacity-groups", {"name": "x" * 65, "enabled": "yes"})
    assert (answer.status, answer.body["code"]) == (422, "VAL.00003")
    assert answer.faults == {
        "name": "expected at most 64 characters",
        "enabled": "expected true or false",
        "identifier": "is required",
        "capacityProviderMeasurementPeriod": "is required",
        "capacityProviderId": "is required",
    }
    body = asset_body(
        77,
        nodeId=-1,
        phase="D",
        category=None,
        instantaneous={"propertyNames": [], "unit": "V", "statisticType": "Median"},
        energy={"propertyNames": ["wattHours", 5], "unit": "W", "multiplier": "x", "type": 1},
    )
    answer = await user("POST", "assets", body)
    assert set(answer.faults) == {
        "capacityGroupId", "nodeId", "phase", "category",
        "instantaneous.propertyNames", "instantaneous.unit", "instantaneous.statisticType",
        "energy.propertyNames", "energy.unit", "energy.multiplier", "energy.type",
    }  # fmt: skip


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b" ",
        b"{",
        b"nonsense",
        b"{'name': 'x'}",
        b'{"name": NaN}',
        b'{"name": -Infinity}',
        b'{"name": "x"} {}',
        b'{"name": "\xff"}',
        b'\xef\xbb\xbf{"name": "x"}',
        '{"name": "x"}'.encode("utf-16"),
        b'{"name": "a", "name": "b"}',
        b'{"name": "a", "serviceProps": {"x": 1, "x": 1}}',
        b'{"name": "a", "serviceProps": {"x": [{"y": 1, "y": 2}]}}',
        b"[" * 50_000,
        b'{"x":' * 20_000,
        b'{"name": ' + b"9" * 5000 + b"}",
        b"{" + b"\0" + b"}",
    ],
)
async def test_a_body_that_is_not_json_or_repeats_a_key(user: User, raw: bytes) -> None:
    answer = await user("POST", "capacity-providers", raw)
    assert (answer.status, answer.body["code"]) == (400, "VAL.00005"), answer.text
    assert len(answer.text) < 2000


async def test_the_repeated_key_is_named(user: User) -> None:
    raw = b'{"name": "a", "baseUrl": null, "baseUrl": null}'
    assert (await user("POST", "capacity-providers", raw)).faults == {"baseUrl": "is given twice"}


async def test_faults_beyond_number_are_not_all_told(user: User) -> None:
    props = {f"{number}\0": number for number in range(1000)}
    answer = await user("POST", "capacity-providers", {"name": "x", "serviceProps": props})
    assert (answer.status, len(answer.faults)) == (422, 100)


@pytest.mark.parametrize("body", [[], "name", 5, None, True])
async def test_json_that_is_no_object(user: User, body: Any) -> None:
    answer = await user("POST", "capacity-providers", json.dumps(body).encode())
    assert (answer.status, list(answer.faults)) == (422, [""])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("name", ""),
        ("name", " \t"),
        ("name", "\0"),
        ("name", "\ud800"),
        ("name", 5),
        ("name", ["x"]),
        ("name", None),
        ("identifier", "x" * 129),
        ("enabled", 1),
        ("enabled", "true"),
        ("capacityProviderId", 0),
        ("capacityProviderId", True),
        ("capacityProviderId", 1.5),
        ("capacityProviderId", 2**63),
        ("capacityProviderId", 10**30),
        ("capacityProviderId", 1e300),
        ("capacityProviderId", "1 "),
        ("capacityProviderId", "١"),
        ("capacityProviderId", {}),
        ("capacityOptimizerId", -1),
        ("capacityProviderMeasurementPeriod", "Fortnight"),
        ("capacityProviderMeasurementPeriod", 901),
        ("capacityProviderMeasurementPeriod", 900.5),
        ("capacityOptimizerMeasurementPeriod", []),
        ("control", "none"),
        ("control", []),
    ],
)
async def test_a_value_that_does_not_fit(user: User, name: str, value: Any) -> None:
    group = await make_group(user)
    body = group_body(1, capacityOptimizerId=2) | {"identifier": "new", name: value}
    for method, path in (("POST", "capacity-groups"), ("PUT", "capacity-groups/1")):
        answer = await user(method, path, body)
        assert (answer.status, list(answer.faults)) == (422, [name]), answer.text
    assert (await user("GET", "capacity-groups")).data == [group]


@pytest.mark.parametrize(
    "template",
    [
        *("/oscp/+/x", "/oscp/#", "/{a:+}", "/a\n", "/a\0b", "/a\x7f", "/\x85", "", "x" * 256, 5),
        *("/", "//a", "/a//{cp}", "/{role}//{cp}", "/a/", "{cp}/", "{colour}", "/{colour}"),
    ],
)
async def test_a_source_id_template_that_mqtt_would_misread(user: User, template: Any) -> None:
    await make_group(user)
    for path in ("settings", "capacity-groups/1/settings"):
        answer = await user("PUT", path, {"nodeId": 1, "sourceIdTemplate": template})
        assert (answer.status, list(answer.faults)) == (422, ["sourceIdTemplate"])
    assert (await user("PUT", "settings", {"nodeId": 1, "sourceIdTemplate": "/é {a:b}"})).data


@pytest.mark.parametrize(
    "template", ["/oscp/{role}/{co:none}", "oscp/{cg}", "{cgName}", "/{role}/{colour}", "/{a:}/b"]
)
async def test_a_source_id_template_that_makes_a_topic(user: User, template: str) -> None:
    await make_group(user)
    for path in ("settings", "capacity-groups/1/settings"):
        said = (await user("PUT", path, {"nodeId": 1, "sourceIdTemplate": template})).data
        assert said["sourceIdTemplate"] == template


async def test_unknown_properties_and_the_assigned_ones_are_ignored(user: User) -> None:
    body = {
        "name": "Lines Co.", "userId": 2, "configId": 99, "created": "never", "token": "mine",
        "settings": {"heartbeatSeconds": 1}, "flexibilityProviderId": 77, "colour": ["red"],
    }  # fmt: skip
    made = (await user("POST", "capacity-providers", body)).data
    assert (made["userId"], made["configId"], made["settings"]) == (1, 1, {})
    assert made["token"] != "mine" and made["created"] != "never" and "colour" not in made


async def test_names_may_be_in_any_script_and_hold_anything_printable(user: User) -> None:
    name = "Ωμέγα ⚡ 'x'; drop table peer; --" + '"\\'
    assert (await user("POST", "capacity-providers", {"name": name})).data["name"] == name
    assert (await user("GET", "capacity-providers/1")).data["name"] == name


@pytest.mark.parametrize("id", ["0", "-1", "x", "1.0", "٣", "9" * 19, "9" * 400, "1%00", "%ff"])
@pytest.mark.parametrize("path", ["assets/{}", "capacity-groups/{}/assets"])
async def test_an_id_that_can_be_nobody_s(user: User, path: str, id: str) -> None:
    answer = await user("GET", path.format(id))
    assert answer.status == 404, answer.text
    assert next(iter(answer.faults)) in ("path.assetId", "path.groupId")


async def test_who_is_not_known_gets_401_whatever_he_asks(api: Management, user: User) -> None:
    revoked = await api.user()
    async with api.context.db.transaction() as conn:
        id = revoked.bearer.partition(".")[0]
        await accounts.revoke_token(conn, id=id, now=api.context.clock())
    someones = f"Bearer {user.bearer}"
    for authorization in (
        None, "", "Bearer", "Bearer ", "Bearer nonsense", "Bearer \u00ff", someones + "x",
        f"Bearer {revoked.bearer}", f"Token {user.bearer}", "Basic dXNlcjpwYXNz",
        "SNWS2 Credential=abc", user.bearer, "Bearer " + "x" * 5000,
    ):  # fmt: skip
        for method, path in (("GET", "settings"), ("POST", "assets"), ("DELETE", "assets/1")):
            answer = await api.nobody()(method, path, None, Authorization=authorization)
            assert answer.status == 401, (authorization, answer.text)
            assert answer.faults == {}
            assert answer.headers["WWW-Authenticate"] == "Bearer, SNWS2"
    good = await api.nobody()("GET", "settings", Authorization=f"bEaReR  {user.bearer}")
    assert good.status == 200


async def test_raw_bytes_in_a_credential_are_only_wrong(api: Management) -> None:
    said = await by_hand(api, "GET settings", "Authorization: Bearer \xff\xfe")
    assert said.startswith(b"HTTP/1.1 401 ")


async def test_a_guesser_is_slowed_down_and_nobody_else(api: Management, user: User) -> None:
    guesser = api.nobody("guess")
    answers = [await guesser("GET", "settings") for _ in range(31)]
    assert [answer.status for answer in answers] == [401] * 30 + [429]
    assert 1 <= int(answers[30].headers["Retry-After"]) <= 60
    assert answers[30].body["code"] == "TOO_MANY"
    assert (await user("GET", "settings")).status == 200, "a valid credential is never kept out"
    assert (await api.nobody()("GET", "settings")).status == 401, "none at all is no guess"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "nothing", 404),
        ("GET", "/solaruser/", 404),
        ("GET", "capacity-groups/", 404),
        ("DELETE", "capacity-groups", 405),
        ("PUT", "assets", 405),
        ("POST", "assets/1", 405),
        ("PATCH", "settings", 405),
        ("DELETE", "capacity-groups/1/assets", 405),
    ],
)
async def test_what_is_not_there_is_told_in_the_same_shape(
    user: User, method: str, path: str, status: int
) -> None:
    answer = await user(method, path)
    assert (answer.status, answer.faults) == (status, {})
    assert ("Allow" in answer.headers) == (status == 405)


async def test_the_envelope_is_for_solaruser_alone(user: User) -> None:
    answer = await user("GET", "/nothing")
    assert answer.status == 404 and "success" not in answer.text


async def test_a_body_that_is_too_large_or_no_json_by_its_own_words(user: User) -> None:
    large = await user("POST", "capacity-providers", {"name": "x" * 200_000})
    assert (large.status, large.faults) == (413, {})
    body = b'{"name": "Lines Co."}'
    for kind in ("text/plain", "application/x-www-form-urlencoded", "application/jsonx"):
        answer = await user("POST", "capacity-providers", body, Content_Type=kind)
        assert (answer.status, answer.faults) == (415, {}), kind
    for given_kind in (None, "application/json; charset=utf-8", "Application/JSON"):
        answer = await user("POST", "capacity-providers", body, Content_Type=given_kind)
        assert answer.status == 201, given_kind


async def test_a_compressed_body_is_read_with_care(api: Management, user: User) -> None:
    small = zlib.compress(b'{"name": "Lines Co."}')
    answer = await user("POST", "capacity-providers", small, Content_Encoding="deflate")
    assert answer.status == 201
    answer = await user("POST", "capacity-providers", small, Content_Encoding="rot13")
    assert (answer.status, answer.body["code"]) == (415, "NOT_JSON")
    bomb = zlib.compress(b" " * 50_000_000)
    answer = await user("POST", "capacity-providers", bomb, Content_Encoding="deflate")
    assert answer.status == 413
    for door in ("capacity-providers", "../../instr/add/OSCP_v20"):
        said = await by_hand(
            api,
            f"POST {door}",
            f"Authorization: Bearer {user.bearer}\r\nContent-Encoding: gzip\r\nContent-Length: 9",
            b"nonsense!",
        )
        assert said.startswith(b"HTTP/1.1 400 ") and b"VAL.00005" in said, door


async def test_a_body_that_never_ends_is_a_408(
    api: Management, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "_PATIENCE_S", 0.2)
    headers = f"Authorization: Bearer {user.bearer}\r\nContent-Length: 100"
    said = await by_hand(api, "POST capacity-providers", headers, b'{"name": "Li')
    assert said.startswith(b"HTTP/1.1 408 ") and b"TOO_SLOW" in said


async def by_hand(api: Management, what: str, headers: str, late_body: bytes = b"") -> bytes:
    """Say what no client would, and return the answer."""
    method, path = what.split()
    host, _, port = api.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    target = posixpath.normpath(f"{PREFIX}/{path}")
    head = f"{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n\r\n"
    writer.write(head.encode("latin-1"))
    await writer.drain()
    await asyncio.sleep(0.1 if late_body else 0)  # so that the handler waits for the body
    writer.write(late_body)
    try:
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()
        await writer.wait_closed()


async def test_a_database_that_is_away_is_503_and_no_failure_of_the_user(
    api: Management, user: User
) -> None:
    await api.context.db.close()
    answer = await user("GET", "settings")
    assert (answer.status, answer.body["code"]) == (503, "UNAVAILABLE")
    assert int(answer.headers["Retry-After"]) > 0
    await api.context.db.open()
    assert (await user("GET", "settings")).status == 200


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(
    ["name", "enabled", "baseUrl", "oscpVersion", "registrationStatus", "serviceProps",
     "identifier", "capacityProviderId", "capacityProviderMeasurementPeriod", "control",
     "capacityGroupId", "audience", "nodeId", "sourceId", "category", "phase", "instantaneous",
     "energy", "sourceIdTemplate", "publishToSolarIn", "http-headers", "url-paths", "meter",
     "oauth-token-url", "propertyNames", "unit", "multiplier", "device", "priority"]
)  # fmt: skip
CHANGES = st.dictionaries(NAMES, JSON | st.dictionaries(NAMES, JSON, max_size=4), max_size=3)
MEASURED = {"propertyNames": ["watts"], "unit": "Wh"}
PEER = {"name": "x", "serviceProps": {"http-headers": {}, "url-paths": {}}}
GROUP = group_body(1, control={"meter": {"nodeId": 1, "sourceId": "a", "property": "b"}})
ASSET = asset_body(1, instantaneous=MEASURED, energy=MEASURED, control={"device": "battery-1"})
DOORS: dict[str, dict[str, Any]] = {
    "POST capacity-providers": PEER,
    "PUT capacity-providers/1": PEER,
    "PUT capacity-groups/1": GROUP,
    "POST assets": ASSET,
    "PUT assets/1": ASSET,
    "PUT settings": {"nodeId": 1},
    "PUT capacity-groups/1/settings": {"nodeId": 1},
}


async def test_nothing_that_is_said_breaks_anything(api: Management, user: User) -> None:
    """Good bodies with a few properties replaced, also deep inside, by anything that JSON has."""
    await make_group(user)
    await user("POST", "assets", asset_body(1))
    loop = asyncio.get_running_loop()
    statuses = set()

    @settings(
        max_examples=120, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
    )
    @given(door=st.sampled_from(sorted(DOORS)), changes=CHANGES, inside=st.booleans())
    def say(door: str, changes: dict[str, Any], inside: bool) -> None:
        method, path = door.split()
        body: dict[str, Any] = json.loads(json.dumps(DOORS[door]))
        parts = [part for part in body.values() if isinstance(part, dict)] if inside else []
        for part in parts or [body]:
            part.update(changes)
        asked = user(method, path, json.dumps(body).encode())
        answer = asyncio.run_coroutine_threadsafe(asked, loop).result(20)
        assert answer.status in (200, 201, 409, 422), (door, body, answer.text)
        assert answer.status != 422 or answer.faults
        statuses.add(answer.status)

    await asyncio.to_thread(say)
    assert {200, 422} <= statuses


async def test_every_link_has_a_status_to_show(api: Management, user: User) -> None:
    await user("POST", "capacity-providers", {"name": "Lines Co."})
    for link in Link:
        await api.rows("update peer set link = %s returning 1", link.value)
        assert (await user("GET", "capacity-providers/1")).data["registrationStatus"]
