from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from datetime import timedelta
from email.utils import format_datetime
from typing import Any

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from sim.conftest import Start
from sim.hands import Hands

from fpd.errors import Malformed
from fpd.sim.bluegen import BlueGen, BlueGenOptions


class Customer:
    """Speaks to the service as the manual says."""

    def __init__(self, service: BlueGen, http: aiohttp.ClientSession, clock: Hands) -> None:
        self.service, self.http, self.clock = service, http, clock
        self.token = ""

    async def call(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[int, str]:
        content = json.dumps(body).encode() if body is not None else b""
        digest = hashlib.md5(content, usedforsecurity=False).digest()
        sent = {"Date": format_datetime(self.clock(), usegmt=True)}
        if self.token:
            sent["Authorization"] = f"Bearer {self.token}"
        if method in ("POST", "PUT"):
            sent["Content-Type"] = "application/json"
        if method == "POST":
            sent["Content-MD5"] = base64.b64encode(digest).decode()
        url = f"{self.service.url}{path}"
        sent |= headers
        async with self.http.request(method, url, data=content, headers=sent) as response:
            return response.status, await response.text()

    async def read(self, path: str) -> Any:
        status, text = await self.call("GET", path)
        assert status == 200, text
        return json.loads(text)

    async def log_in(self, password: str = "demo") -> tuple[int, Any]:
        credentials = {"username": "demo", "password": password}
        self.token = ""
        status, text = await self.call("POST", "/customer/login", credentials)
        answer = json.loads(text)
        self.token = answer.get("jwt", "")
        return status, answer

    async def error(self, method: str, path: str, body: Any = None) -> tuple[int, str]:
        status, text = await self.call(method, path, body)
        return status, json.loads(text)["error"]

    async def store(self, name: str, *points: tuple[int, int], assign: bool = True) -> str:
        body = {"name": name, "description": "", "points": ticks(*points), "unit_id": "249"}
        status, text = await self.call("POST", "/profiles", body)
        assert status == 200, text
        profile_id: str = json.loads(text)["pid"]
        if assign:
            path = f"/unit/249/profile/{profile_id}"
            assert await self.call("PUT", path) == (200, "")
        return profile_id

    async def watts(self) -> float:
        async with self.http.get(f"{self.service.url}/_sim/state") as response:
            watts: float = (await response.json())["watts"]
            return watts


def ticks(*points: tuple[int, int]) -> list[dict[str, str]]:
    return [{"tick": str(tick), "power": str(power)} for tick, power in points]


@pytest.fixture
def made(start: Start, hands: Hands, http: aiohttp.ClientSession) -> Callable[..., Any]:
    """Makes a service with the options given, and a customer who has logged in."""

    async def made(**options: Any) -> Customer:
        service = BlueGen(BlueGenOptions(**options), clock=hands)
        await start(service)
        customer = Customer(service, http, hands)
        await customer.log_in()
        return customer

    return made


@pytest.fixture
async def customer(made: Callable[..., Any]) -> Customer:
    customer: Customer = await made(unit=(249, 250))
    return customer


async def test_login_gives_a_token_for_an_hour(customer: Customer, hands: Hands) -> None:
    status, answer = await customer.log_in()
    assert status == 200
    assert (answer["eula"], answer["last_login"]) == ("1", "2025-03-12")
    header, claims, _ = (part + "=" * (-len(part) % 4) for part in answer["jwt"].split("."))
    assert json.loads(base64.urlsafe_b64decode(header)) == {"typ": "JWT", "alg": "HS256"}
    told = json.loads(base64.urlsafe_b64decode(claims))
    assert (told["iat"], told["exp"]) == (hands().timestamp(), hands().timestamp() + 3600)

    hands.move(minutes=59)
    assert await customer.read("/units") == {
        "units": [{"id": "249", "name": "BG0249"}, {"id": "250", "name": "BG0250"}]
    }
    hands.move(minutes=1)
    assert await customer.error("GET", "/units") == (400, "Bad Token")
    await customer.log_in()
    async with customer.http.post(f"{customer.service.url}/_sim/actions/expire_tokens"):
        assert await customer.error("GET", "/units") == (400, "Bad Token")
    log = await customer.http.get(f"{customer.service.url}/_sim/log")
    assert customer.token and customer.token not in await log.text()


async def test_too_many_wrong_passwords_suspend_the_account(customer: Customer) -> None:
    names = [(await customer.log_in("guess"))[1]["error"] for _ in range(11)]
    assert names == ["Bad Credentials"] * 5 + ["Too many attempts"] * 5 + ["Account suspended"]
    assert (await customer.log_in())[0] == 400
    async with customer.http.post(f"{customer.service.url}/_sim/actions/unlock"):
        assert (await customer.log_in())[0] == 200


async def test_the_password_may_be_encrypted_with_the_current_key(customer: Customer) -> None:
    told = await customer.read("/customer/pubkey")
    key = load_pem_public_key(base64.b64decode(told["pubkey"]))
    assert isinstance(key, rsa.RSAPublicKey)
    assert told["issuedon"] == "2025-03-12 10:07:00"
    cipher = base64.b64encode(key.encrypt(b"demo", padding.PKCS1v15())).decode()
    assert (await customer.log_in(cipher))[0] == 200
    async with customer.http.post(f"{customer.service.url}/_sim/actions/rotate_pubkey"):
        await customer.read("/customer/pubkey")
    assert (await customer.log_in(cipher))[0] == 400


async def test_reads_look_like_the_manual(customer: Customer) -> None:
    assert (await customer.call("GET", "/"))[1] == "BGN Restalicious"
    assert await customer.read("/unit/249") == {
        "status": {
            "model": "BG15",
            "pp": "1",
            "status": "Power Export",
            "tz": "Australia/Melbourne",
            "gid": "0",
            "pid": "0",
        }
    }
    assert await customer.read("/unit/249/limits") == {
        "limits": {
            "minpower": "800",
            "maxpower": "1500",
            "slew_up": "133.333",
            "slew_dn": "133.333",
        }
    }
    assert (await customer.read("/version"))["version"]["min"] == 3
    assert (await customer.read("/unit/249/version"))["version"]["ccp"] == "34"
    assert (await customer.read("/unit/249/location"))["lhv"] == "10.21046"
    assert await customer.read("/unit/249/profile") == {"pid": "0", "when": 0}
    chart = await customer.read("/unit/249/chart?period=d")
    assert chart["o"][-1] == 1500 and chart["e"][-1] == 0.575
    assert (await customer.read("/customer/prefs"))["fname"] == "Test"
    assert await customer.call("PUT", "/unit/249/clientname", {"name": "Cellar"}) == (200, "")
    assert (await customer.read("/units"))["units"][0]["name"] == "Cellar"


async def test_reports_come_late_on_a_raster_of_each_unit(customer: Customer, hands: Hands) -> None:
    """10:05 is the raster of unit 249; unit 250 reports 37 s later."""
    current = (await customer.read("/unit/249/current"))["current"]
    assert current["timestamp"] == "2025-03-12 10:05:00"
    assert (current["power"], current["gas"]) == ("1500.000000", "4.258208")
    other = (await customer.read("/unit/250/current"))["current"]
    assert other["timestamp"] == "2025-03-12 10:05:37"
    before = (await customer.read("/unit/249/accumulated"))["acc"]
    assert before["timestamp"] == "2025-03-12 10:05:30"
    hands.move(minutes=3, seconds=20)  # 10:10:20: there, but not in the database yet
    assert (await customer.read("/unit/249/current"))["current"] == current
    hands.move(seconds=40)
    assert (await customer.read("/unit/249/current"))["current"]["timestamp"].endswith("10:10:00")
    after = (await customer.read("/unit/249/accumulated"))["acc"]
    assert float(after["power"]) - float(before["power"]) == pytest.approx(1.5 * 5 / 60, abs=1e-5)

    rows = await customer.read("/unit/249/history?from=2025-03-12&to=2025-03-13&format=json")
    assert rows["data"][-1]["timestamp"] == "2025-03-12 10:10:00"
    _, text = await customer.call(
        "GET", '/unit/249/history?from=2025-03-12&to=2025-03-13&format="csv"'
    )
    assert text.splitlines()[-1].startswith("2025-03-12 10:10:00,1500.000000,")
    answer = await customer.error("GET", "/unit/249/history?from=2025-03-13&to=2025-03-12")
    assert answer == (400, "Invalid data range")


async def test_a_stored_profile_is_run_later_and_approached_slowly(
    customer: Customer, hands: Hands
) -> None:
    """Monday anchor: Wednesday 10:00 is tick 232. The dip to 1000 W lasts from 10:30 to 11:00."""
    profile_id = await customer.store("dip", (0, 1500), (234, 1000), (236, 1500))
    assert (await customer.read("/unit/249/profile"))["pid"] == profile_id
    shown = await customer.read(f"/profile/{profile_id}")
    assert shown["profile"]["name"] == "dip"
    assert [(p["tick"], p["power"]) for p in shown["points"]] == [
        ("0", "1500"), ("234", "1000"), ("236", "1500"),
    ]  # fmt: skip
    hands.move(minutes=14)  # 10:21: stored, not delivered
    assert (await customer.service.actions["unlock"]({})) == {}
    assert customer.service.state()["units"]["249"]["running_points"] == []
    hands.move(minutes=10)  # 10:31: one minute of 133 W/min
    assert await customer.watts() == pytest.approx(1500 - 133.333 + 1500, abs=0.1)
    hands.move(minutes=4)
    assert await customer.watts() == 1000 + 1500
    hands.move(minutes=40)
    assert await customer.watts() == 3000
    hands.move(days=6, hours=23, minutes=30)  # it comes again every week
    assert await customer.watts() == 2500


@pytest.mark.parametrize(("anchor", "tick"), [("MON", 232), ("SUN", 328), ("THU", 616)])
async def test_the_week_begins_where_the_service_wants(
    hands: Hands, made: Callable[..., Any], anchor: Any, tick: int
) -> None:
    customer = await made(week_anchor=anchor, activation_delay_s=0)
    await customer.store("dip", (0, 1500), (tick, 900), (tick + 1, 1500))
    hands.move(minutes=7, seconds=30)
    assert await customer.watts() == 900


async def test_a_line_may_be_drawn_between_points(hands: Hands, made: Callable[..., Any]) -> None:
    customer = await made(profile_semantics="linear", activation_delay_s=0)
    await customer.store("slope", (0, 1500), (232, 1500), (234, 900), (671, 900))
    hands.move(minutes=8)  # 10:15, half way down
    assert await customer.watts() == pytest.approx(1200, abs=10)


async def test_speed_shortens_delays_and_steepens_ramps_but_not_the_week(
    hands: Hands, made: Callable[..., Any]
) -> None:
    customer = await made(speed=60, sample_period_s=60)
    await customer.store("now", (0, 1500), (232, 900), (236, 1500))
    hands.move(seconds=15.0)  # a quarter of an hour of activation delay
    assert await customer.watts() == 1500
    hands.move(seconds=5)  # 600 W at 133 W/min take 4.5 s
    assert await customer.watts() == 900
    hands.move(seconds=2)
    assert (await customer.read("/unit/249/current"))["current"]["power"] == "900.000000"
    hands.move(minutes=50)  # 10:57
    assert await customer.watts() == 900


async def test_profiles_are_guarded_as_documented(customer: Customer) -> None:
    used = await customer.store("a", (0, 1500))
    assert await customer.error("POST", "/profiles", {"name": "a"}) == (409, "Profile exists")
    assert await customer.error("DELETE", f"/profile/{used}") == (409, "ProfileInUse")
    members = await customer.read(f"/profiles/{used}/members")
    assert members == {"members": [{"id": "249", "name": "BG0249"}]}

    other = await customer.store("b", (0, 1500), (40, 1400), (50, 1300), assign=False)
    assert await customer.call("DELETE", f"/profiles/{other}/range/40:50") == (200, "")
    (point,) = (await customer.read(f"/profile/{other}"))["points"]
    path = f"/profiles/{other}/point/{point['id']}"
    assert await customer.call("PUT", path, {"tick": 0, "power": 1450}) == (200, "")
    same = await customer.error("PUT", path, {"tick": 0, "power": 1450})
    assert same == (400, "Malformed request profile point")
    path = f"/profiles/{other}/points"
    assert await customer.error("POST", path, {"points": []}) == (400, "No profile points")
    assert await customer.call("POST", path, {"points": ticks((5, 1200))}) == (200, "")
    shown = await customer.read(f"/profile/{other}")
    assert [(p["tick"], p["power"]) for p in shown["points"]] == [("5", "1200")]
    assert await customer.call("PUT", f"/profile/{other}", {"name": "c"}) == (200, "")
    assert [p["name"] for p in (await customer.read("/profiles"))["profiles"]] == ["a", "c"]
    assert await customer.call("DELETE", f"/profile/{other}") == (200, "")
    for number in range(19):
        await customer.call("POST", "/profiles", {"name": f"spare {number}"})
    answer = await customer.error("POST", "/profiles", {"name": "one more"})
    assert answer == (400, "Max profile count reached")


@pytest.mark.parametrize(
    ("points", "answer"),
    [
        ([(0, 1501)], (403, "Request out of range")),
        ([(0, 799)], (403, "Request out of range")),
        ([(672, 1000)], (409, "Malformed request profile point range")),
        ([(0, 1500), (0, 1400)], (400, "Malformed request profile point")),
        ([(0, 1500), (100, 1349)], (403, "ShonkyRampRate")),
        ([(0, 1500), (671, 1300)], (403, "ShonkyRampRate")),
    ],
)
async def test_points_that_a_unit_of_ten_watts_a_minute_cannot_follow(
    customer: Customer, points: list[tuple[int, int]], answer: tuple[int, str]
) -> None:
    customer.service.switch({"limits": {"slew_up": 10, "slew_dn": 10}})
    body = {"name": "p", "points": ticks(*points), "unit_id": 249}
    assert await customer.error("POST", "/profiles", body) == answer


async def test_the_ramp_over_the_end_of_the_week_may_go_unchecked(customer: Customer) -> None:
    customer.service.switch({"limits": {"slew_dn": 10}, "ramp_check": "plain"})
    await customer.store("falls at the end of the week", (0, 800), (1, 1500))
    customer.service.switch({"ramp_check": "circular"})
    body = {"name": "p", "points": ticks((0, 800), (1, 1500)), "unit_id": 249}
    assert await customer.error("POST", "/profiles", body) == (403, "ShonkyRampRate")


@pytest.mark.parametrize(
    ("call", "answer"),
    [
        (("GET", "/unit/7"), (400, "UnitInvalid")),
        (("GET", "/unit/x/limits"), (400, "Malformed unit id")),
        (("GET", "/profile/1"), (409, "Malformed request profile owner")),
        (("GET", "/nowhere"), (400, "InvalidURI")),
        (("POST", "/profiles", [1]), (400, "MalformedRequest")),
        (("POST", "/profiles", {"name": "p", "points": [{"ticks": 1, "power": 1500}]}),
         (400, "Malformed request profile point")),
    ],
)  # fmt: skip
async def test_errors_have_the_documented_names(
    customer: Customer, call: tuple[Any, ...], answer: tuple[int, str]
) -> None:
    assert await customer.error(*call) == answer


async def test_headers_are_demanded_and_what_is_missing_is_logged(customer: Customer) -> None:
    url, http = customer.service.url, customer.http
    async with http.get(f"{url}/units") as response:
        assert await response.json() == {"error": "Malformed request timestamp"}
    answer = await customer.call("GET", "/units", Date="Wed, 12 Mar 2025 09:00:00 GMT")
    assert answer == (403, '{"error":"NegativeTimestamp"}')
    headers = {"Content-MD5": "bm90IHRoZSBkaWdlc3Qgb2Y="}
    assert (await customer.call("POST", "/profiles", {"name": "x"}, **headers))[0] == 400
    async with http.get(f"{url}/_sim/log", params={"invalid": "true"}) as response:
        complaints = [entry["invalid"][0] for entry in await response.json()]
    assert complaints == [
        "GET /units needs Date",
        "Date is 4020 s off",
        "POST /profiles needs Content-MD5 (of exactly these bytes, RFC 1864)",
    ]
    customer.service.switch({"check_headers": False})
    async with http.get(
        f"{url}/units", headers={"Authorization": f"Bearer {customer.token}"}
    ) as response:
        assert response.status == 200


async def test_quirks_of_units_and_account(customer: Customer, hands: Hands) -> None:
    await customer.store("low", (0, 900))
    hands.move(minutes=30)
    assert await customer.watts() == 900 + 1500
    customer.service.switch({"pp": {"249": 0}, "status": {"250": "Heat-up"}})
    assert (await customer.read("/unit/249"))["status"]["pp"] == "0"
    assert (await customer.read("/unit/250"))["status"]["status"] == "Heat-up"
    hands.move(minutes=10)
    assert await customer.watts() == 1500  # the first ignores its profile, the second heats up

    customer.service.switch({"frozen_data": True})
    hands.move(minutes=19)
    frozen = await customer.read("/unit/249/current")
    hands.move(minutes=20)
    await customer.log_in()
    assert await customer.read("/unit/249/current") == frozen
    customer.service.switch({"frozen_data": False, "numbers": "number", "other_spelling": True})
    current = (await customer.read("/unit/249/current"))["current"]
    assert current["when"] == "2025-03-12 11:25:00" and current["power"] == 1500.0

    customer.service.switch({"revoked": [250], "eula": False, "error_form": "html"})
    assert [unit["id"] for unit in (await customer.read("/units"))["units"]] == [249]
    status, text = await customer.call("GET", "/unit/250")
    assert (status, "UnitInvalid" in text, text.startswith("<html>")) == (400, True, True)
    assert (await customer.log_in())[1]["eula"] == "0"
    customer.service.switch({"create_assigns": True})
    await customer.call(
        "POST", "/profiles", {"name": "n", "points": ticks((0, 1000)), "unit_id": 249}
    )
    assert (await customer.read("/unit/249/profile"))["pid"] == 367


async def test_the_quota_ends_at_midnight(customer: Customer, hands: Hands) -> None:
    customer.service.switch({"quota_per_day": 3})
    for _ in range(2):
        await customer.read("/units")
    answer = await customer.error("GET", "/units")
    assert answer == (503, "Number of requests per day exceeded")
    hands.move(hours=14)
    assert (await customer.log_in())[0] == 200


async def test_answers_may_be_halved_lost_or_refused_so_many_times(customer: Customer) -> None:
    customer.service.switch({"truncate": True, "fault_path": "GET /units", "fault_times": 1})
    with pytest.raises(json.JSONDecodeError):
        await customer.read("/units")
    assert "units" in await customer.read("/units")

    pid = await customer.store("one", (0, 900), assign=False)
    rule = {"name": "ShonkyRampRate", "path": f"PUT /unit/249/profile/{pid}", "times": 1}
    customer.service.switch({"truncate": None, "refuse": rule, "assign_ignored": True})
    for answer in [(403, '{"error":"ShonkyRampRate"}'), (200, "")]:
        assert await customer.call("PUT", f"/unit/249/profile/{pid}") == answer
        assert (await customer.read("/unit/249/profile"))["pid"] == "0"
    customer.service.switch({"assign_ignored": False, "refuse": [rule | {"times": None}]})
    assert (await customer.call("PUT", f"/unit/249/profile/{pid}"))[0] == 403
    with pytest.raises(Malformed, match="no error of the manual is called Sorry"):
        customer.service.switch({"refuse": {"name": "Sorry"}})


async def test_the_services_clock_may_be_another(customer: Customer) -> None:
    customer.service.switch({"clock_skew_s": 4000})
    assert await customer.error("GET", "/units") == (403, "NegativeTimestamp")
    date = format_datetime(customer.clock() + timedelta(seconds=4000), usegmt=True)
    assert (await customer.call("GET", "/units", Date=date))[0] == 200
