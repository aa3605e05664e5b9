"""Worked examples, and what a document that cannot be meant is told."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from fpd.domain.translate import KINDS, translate
from fpd.errors import Malformed

VECTORS = json.loads((Path(__file__).parent / "vectors.json").read_text(encoding="utf-8"))
BY_ID = {vector["id"]: vector for vector in VECTORS["vectors"]}


@pytest.mark.parametrize("vector", VECTORS["vectors"], ids=lambda v: f"{v['id']} {v['title']}")
def test_worked_example(vector: dict[str, Any]) -> None:
    assert json.loads(json.dumps(translate(vector))) == vector["out"], vector["why"]


def test_every_kind_has_an_example() -> None:
    assert set(KINDS) == set(VECTORS["kinds"]) == {v["kind"] for v in VECTORS["vectors"]}


@pytest.mark.parametrize(
    ("instant", "anchor", "tz", "tick"),
    [
        ("2025-03-12T10:07:00Z", "SUN", "UTC", 328),
        ("2025-03-12T11:07:00+01:00", "MON", "UTC", 232),
        ("2025-03-16T23:59:59.999Z", "MON", "UTC", 671),
        ("2025-03-09T00:00:00Z", "SUN", "UTC", 0),
        # The hour that Berlin leaves out and the one that it has twice.
        ("2025-03-30T01:00:00Z", "MON", "Europe/Berlin", 588),
        ("2025-10-26T00:15:00Z", "MON", "Europe/Berlin", 585),
        ("2025-10-26T01:15:00Z", "MON", "Europe/Berlin", 585),
        ("2025-03-12T10:07:00Z", "MON", "Asia/Kathmandu", 255),
        ("1969-12-31T23:59:59Z", "THU", "UTC", None),
    ],
)
def test_tick_index(instant: str, anchor: str, tz: str, tick: int | None) -> None:
    document = {"kind": "tick_index", "in": {"instant": instant, "anchor": anchor, "tz": tz}}
    if tick is None:
        with pytest.raises(Malformed, match=r"in\.instant"):
            translate(document)
    else:
        assert translate(document)["tick"] == tick


@pytest.mark.parametrize(
    ("capacity", "unit", "phase", "change", "watts"),
    [
        (2.5, "KW", "ALL", {}, 2500),
        (500, "WH", "ALL", {}, 500),
        (1000, "WH", "ALL", {"end_time": "2025-03-12T10:07:00Z"}, 8571),
        (6, "A", "ALL", {}, 1380),
        (6, "A", "ALL", {"ampere_all": "per_phase"}, 4140),
        (6, "A", "ALL", {"ampere_all": "per_phase", "group_phases": 1}, 1380),
        (6, "A", "UNKNOWN", {"ampere_all": "per_phase"}, 1380),
        (6, "A", "THREE", {"v_ln": 120.5}, 723),
        (4000, "W", "UNKNOWN", {}, 4000),
        # What binary fractions would lose.
        (1.001, "KW", "ALL", {}, 1001),
        (0.57, "KW", "ALL", {}, 570),
        ("0.29", "KWH", "TWO", {}, 290),
        (1e300, "W", "ALL", {}, None),
    ],
)
def test_unit_to_watts(
    capacity: Any, unit: str, phase: str, change: dict[str, Any], watts: int | None
) -> None:
    document = copy.deepcopy(BY_ID["U01"])
    change = dict(change)
    document["in"]["block"].update(capacity=capacity, unit=unit, phase=phase)
    document["in"]["block"]["end_time"] = change.pop("end_time", "2025-03-12T11:00:00Z")
    document["in"].update(change)
    if watts is None:
        with pytest.raises(Malformed, match=r"in\.block\.capacity: out of range"):
            translate(document)
    else:
        assert translate(document) == {"watts": watts}


def test_most_restrictive_lets_no_update_raise_a_cap() -> None:
    document = copy.deepcopy(BY_ID["C05"])
    document["in"]["policy"] = "most_restrictive"
    assert translate(document) == {"caps_rle": [[8, 1000]]}


def test_the_order_of_receipt_counts_not_that_of_the_document() -> None:
    document = copy.deepcopy(BY_ID["C05"])
    document["in"]["forecasts"].reverse()
    assert translate(document) == BY_ID["C05"]["out"]


def test_blocks_of_a_few_minutes_limit_their_tick() -> None:
    document = copy.deepcopy(BY_ID["C01"])
    (message,) = document["in"]["forecasts"]
    message["blocks"] = [
        {**message["blocks"][0], "capacity": watts, "start_time": start, "end_time": end}
        for watts, start, end in [
            (900, "2025-03-12T10:46:00Z", "2025-03-12T10:47:00Z"),
            (0, "2025-03-12T10:50:00Z", "2025-03-12T10:51:00Z"),
            (700, "2025-03-12T11:00:00Z", "2025-03-12T11:00:00.000001Z"),
            (1, "2025-03-12T09:00:00Z", "2025-03-12T10:00:00Z"),
            (2, "2025-03-12T12:00:00Z", "2025-03-12T13:00:00Z"),
        ]
    ]
    assert translate(document) == {"caps_rle": [[3, None], [1, 0], [1, 700], [3, None]]}


def test_a_block_beyond_the_week_waits_and_is_named() -> None:
    document = copy.deepcopy(BY_ID["P01"])
    (message,) = document["in"]["forecasts"]
    near = message["blocks"][0]
    far = {**near, "start_time": "2025-03-19T06:00:00Z", "end_time": "2025-03-19T08:00:00Z"}
    message["blocks"] = [far, near]
    assert translate(document) == BY_ID["P01"]["out"] | {"deferred_blocks": [far]}


def test_of_a_block_across_the_end_of_the_week_the_part_inside_is_written() -> None:
    document = copy.deepcopy(BY_ID["P03"])
    (message,) = document["in"]["forecasts"]
    message["blocks"][0].update(start_time="2025-03-19T05:00:00Z", end_time="2025-03-19T09:00:00Z")
    found = translate(document)
    limited = [point["tick"] for point in found["points"] if point["power"] == 1000]
    assert limited == [212, 215]  # Wednesday 5:00 to 6:00
    assert found["deferred_blocks"] == []


def test_a_limit_of_one_phase_is_that_of_a_unit_on_it() -> None:
    document = copy.deepcopy(BY_ID["P01"])
    document["in"]["forecasts"][0]["blocks"][0].update(capacity=4.5, unit="A", phase="TWO")
    powers = {point["power"] for point in translate(document)["points"]}
    assert powers == {1500, 1035}


def test_a_wish_is_followed_inside_the_limits() -> None:
    document = copy.deepcopy(BY_ID["P03"])
    limit = document["in"]["forecasts"][0]
    wish = copy.deepcopy(limit)
    wish["type"] = "OPTIMUM"
    wish["blocks"][0].update(capacity=900, unit="W", end_time="2025-03-12T11:00:00Z")
    wish["blocks"].append(
        {**limit["blocks"][0], "capacity": 1200, "unit": "W", "start_time": "2025-03-12T11:00:00Z"}
    )
    document["in"]["forecasts"].append(wish)
    points = {point["tick"]: point["power"] for point in translate(document)["points"]}
    assert [points[tick] for tick in (231, 232, 235, 236, 239, 240)] == [
        1500, 900, 900, 1000, 1000, 1500,
    ]  # fmt: skip


_REMOVE = object()


@pytest.mark.parametrize(
    ("vector", "path", "value", "complaint"),
    [
        (
            "T01",
            ["instant"],
            "2025-03-12T10:07:00",
            "in.instant: '2025-03-12T10:07:00' has no zone",
        ),
        ("T01", ["instant"], "soon", "in.instant: 'soon' is no RFC 3339 instant"),
        ("T01", ["instant"], 5, "in.instant: not a string"),
        ("T01", ["instant"], _REMOVE, "in.instant: missing"),
        ("T01", ["anchor"], "UNKNOWN", "in.anchor: an unknown first day gives no index"),
        ("T01", ["anchor"], "MOND", "in.anchor: 'MOND' is none of UNKNOWN, MON"),
        ("T01", ["tz"], "Europe", "in.tz: 'Europe' is no time zone"),
        ("T01", ["tz"], "../../etc/passwd", "in.tz: '../../etc/passwd' is no time zone"),
        ("U01", ["block"], [], "in.block: not an object"),
        ("U01", ["block", "capacity"], -1, "in.block.capacity: not a number from 0 on"),
        ("U01", ["block", "capacity"], True, "in.block.capacity: not a number"),
        ("U01", ["block", "capacity"], "much", "in.block.capacity: not a number"),
        ("U01", ["block", "capacity"], float("nan"), "in.block.capacity: not a finite number"),
        ("U01", ["block", "capacity"], 10**30, "in.block.capacity: out of range"),
        ("U01", ["block", "unit"], "MW", "in.block.unit: 'MW' is none of A, W, KW, WH, KWH"),
        ("U01", ["block", "phase"], None, "in.block.phase: not a string"),
        ("U01", ["block", "end_time"], "2025-03-12T10:00:00Z", "in.block.end_time: not after"),
        ("U01", ["v_ln"], 0, "in.v_ln: must be above 0"),
        ("U01", ["group_phases"], 4, "in.group_phases: must be 1, 2 or 3"),
        ("C01", ["forecasts"], "none", "in.forecasts: not an array"),
        ("C01", ["forecasts", 0, "type"], "LIMIT", "in.forecasts[0].type: 'LIMIT' is none of"),
        ("C01", ["forecasts", 0, "received_at"], _REMOVE, "in.forecasts[0].received_at: missing"),
        (
            "C07",
            ["forecasts", 0, "blocks", 1, "end_time"],
            "2025-03-12T10:00:00Z",
            "in.forecasts[0].blocks[1].end_time: not after start_time",
        ),
        (
            "C07",
            ["forecasts", 0, "blocks", 1, "start_time"],
            "0001-01-01T00:00:00+09:00",
            "in.forecasts[0].blocks[1].start_time: '0001-01-01T00:00:00+09:00' is no RFC 3339",
        ),
        ("C01", ["ticks"], 1.5, "in.ticks: not a whole number"),
        ("C01", ["ticks"], 10**9, "in.ticks: must lie between 0 and 100000"),
        ("P01", ["now"], "9999-12-31T00:00:00Z", "in.now: not between 1970 and 9000"),
        ("P01", ["limits", "slew_up"], _REMOVE, "in.limits.slew_up: missing"),
        ("P01", ["limits", "slew_up"], "-1", "in.limits.slew_up, slew_dn: must not be negative"),
        ("P01", ["limits", "minpower"], "1501", "in.limits.minpower: must lie between 0 and max"),
        ("P01", ["semantics"], "ramp", "in.semantics: 'ramp' is none of step, step_lag"),
        ("P25", ["net_load_profile", 0, 1], "2025-03-12T18:00:00Z", "in.net_load_profile[0][1]"),
        ("P25", ["net_load_profile", 1], [], "in.net_load_profile[1][0]: missing"),
        ("B01", ["net_load_w"], None, "in.net_load_w: not a number"),
        ("B01", ["consumption_cap_w"], -1, "in.consumption_cap_w: must not be negative"),
        ("B01", ["sustain_s"], 0, "in.sustain_s: must be above 0"),
        ("B01", ["api"], "v3", "in.api: 'v3' is none of v1, v2"),
        ("B01", ["battery", "usoc"], _REMOVE, "in.battery.usoc: missing"),
        ("B01", ["battery", "capacity_wh"], 0, "in.battery.capacity_wh: must be above 0"),
        ("B01", ["battery", "eff_charge"], 95, "in.battery.eff_charge: must lie in (0, 1]"),
        ("B01", ["battery", "charge_blocked"], 1, "in.battery.charge_blocked: not true or false"),
        ("D01", ["assets", 1, "id"], "bat1", "in.assets: two have the same id"),
        ("D01", ["assets", 1, "headroom_up_w"], -1, "in.assets[1].headroom_up_w: must not be"),
        ("R01", ["slew_w_per_min"], "0", "in.slew_w_per_min: must be above 0"),
        ("W01", ["load_w"], [], "in.load_w: empty"),
        ("H01", ["device_phases"], ["ALL"], "in.device_phases: must name some of ONE, TWO, THREE"),
    ],
)
def test_what_cannot_be_meant_is_named(
    vector: str, path: list[Any], value: Any, complaint: str
) -> None:
    document = copy.deepcopy(BY_ID[vector])
    place = document["in"]
    for step in path[:-1]:
        place = place[step]
    if value is _REMOVE:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    with pytest.raises(Malformed) as caught:
        translate(document)
    assert str(caught.value).startswith(complaint)


def test_units_that_ramp_at_once_leave_each_its_triangle() -> None:
    ramp = {"from_w": 800, "to_w": 1400, "slew_w_per_min": "10", "units": 3}
    assert translate({"kind": "ramp_bridge", "in": ramp}) == {"minutes": 60, "energy_wh": 900}


def test_numbers_that_burst_the_arithmetic_are_refused() -> None:
    slow = {"from_w": 0, "to_w": 10**14, "slew_w_per_min": "0.00000000000001"}
    with pytest.raises(Malformed, match="in: numbers or times too large to calculate with"):
        translate({"kind": "ramp_bridge", "in": slow})


def test_an_unknown_kind_lists_the_known_ones() -> None:
    with pytest.raises(Malformed, match=r"document\.kind: 'oven' is none of tick_index, unit_to"):
        translate({"kind": "oven", "in": {}})


@pytest.mark.parametrize("document", [{}, {"kind": 5}, {"kind": "caps"}, {"kind": "caps", "in": 1}])
def test_a_document_without_its_parts_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(Malformed, match=r"document\.kind|document\.in|in: not an object"):
        translate(document)


OFFLINE = {
    "offline_mode_at": "2025-03-12T09:05:00Z", "now": "2025-03-12T10:00:00Z",
    "consumption_cap_w": 5000, "fallback_consumption_cap_w": None, "static_limit_w": None,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "effective_w", "mode"),
    [
        ({"fallback_consumption_cap_w": 2500}, 2500, "fallback"),
        ({"fallback_consumption_cap_w": 0, "static_limit_w": 4000}, 0, "fallback"),
        ({"fallback_consumption_cap_w": 6000, "static_limit_w": 4000}, 4000, "static"),
        ({}, 5000, "last_known"),
        ({"consumption_cap_w": None}, None, "none"),
        ({"now": "2025-03-12T09:04:59Z", "static_limit_w": 6000}, 5000, "forecast"),
    ],
)
def test_the_limit_of_a_provider_that_may_be_offline(
    change: dict[str, Any], effective_w: int | None, mode: str
) -> None:
    said = translate({"kind": "actions", "in": {**OFFLINE, **change}})
    assert said == {"effective_consumption_cap_w": effective_w, "mode": mode}


@pytest.mark.parametrize(
    ("given", "dispatchable", "assumed_w"),
    [
        ({"status": "Power Export", "pp": "1", "power": "1493.6"}, True, 1493),
        ({"status": "PowerExport", "pp": 1}, True, None),
        ({"status": "Power Export", "pp": "0", "power": 1200}, False, 1200),
        ({"status": "Power Export", "pp": "0", "output_w": "1200.9"}, False, 1200),
        ({"status": "Self sustain", "pp": "1"}, False, 0),
        ({"status": "Off", "pp": "1"}, False, 0),
        ({"status": "-", "pp": "1"}, False, 0),
        ({"status": "Holiday", "pp": "1", "power": 900}, False, 900),
    ],
)
def test_a_unit_is_dispatchable_in_power_export_with_its_profile_active(
    given: dict[str, Any], dispatchable: bool, assumed_w: int | None
) -> None:
    said = translate({"kind": "actions", "in": {"device": "bluegen", **given}})
    assert said == {"dispatchable": dispatchable, "assume_output_w": assumed_w, "calls": []}


def test_what_ends_and_what_is_silent_is_given_back() -> None:
    ended = {"now": "2025-03-12T12:00:00Z", "group_blocks_end": "2025-03-12T12:00:00Z"}
    zeros = [["PUT", "/api/v1/setpoint/charge/0"], ["PUT", "/api/v1/setpoint/discharge/0"]]
    asked = {"kind": "actions", "in": {**ended, "device": "battery_v1"}}
    assert translate(asked) == {"calls": zeros}
    early = {"now": "2025-03-12T11:59:59Z"}
    assert translate({"kind": "actions", "in": {**asked["in"], **early}}) == {"calls": []}
    silent = {"device": "battery_v1", "now": "2025-03-12T12:01:01Z"}
    for status_at, calls in [("2025-03-12T12:00:00Z", zeros), ("2025-03-12T12:00:01Z", [])]:
        said = translate({"kind": "actions", "in": {**silent, "status_at": status_at}})
        assert said == {"dispatchable": not calls, "calls": calls}
    for wrong in ({"device": "toaster", **ended}, {"now": "2025-03-12T12:00:00Z"}):
        with pytest.raises(Malformed, match="in"):
            translate({"kind": "actions", "in": wrong})


@pytest.mark.parametrize(
    ("what", "raw", "out"),
    [
        (
            "bluegen_current",
            {"when": "2018-08-21 07:05:00", "power": 1493.5, "gas": "4.2"},
            {"at": "2018-08-21T07:05:00Z", "power_w": 1493.5, "gas_slm": 4.2},
        ),
        (
            "bluegen_current",
            {"current": {"timestamp": "soon", "power": "-1", "gas": "NaN"}},
            {"at": None, "power_w": None, "gas_slm": None},
        ),
        (
            "bluegen_current",
            {"current": {"when": 1534835100, "power": 1, "gas": 1}},
            {"at": "2018-08-21T07:05:00Z", "power_w": 1, "gas_slm": 1},
        ),
        (
            "bluegen_current",
            {"current": {"when": 0, "timestamp": "2018-08-21T09:05:00+02:00", "power": 1}},
            {"at": "2018-08-21T07:05:00Z", "power_w": 1, "gas_slm": None},
        ),
        (
            "bluegen_history",
            {"data": [{"when": "2018-08-21 07:05:00", "power": "1", "gas": "2"}]},
            {"samples": [{"at": "2018-08-21T07:05:00Z", "power_w": 1, "gas_slm": 2}]},
        ),
        (
            "bluegen_profiles",
            {"profiles": [{"id": "366", "name": "New profile"}]},
            {"profiles": [{"id": 366, "name": "New profile"}]},
        ),
        (
            "bluegen_version",
            {"version": {"maj": 1, "min": 3, "inf": 0, "pro": 1, "api": "1"}},
            {"maj": 1, "min": 3, "inf": 0, "pro": 1, "api": 1},
        ),
        (
            "bluegen_location",
            {"location": "Dandenong", "region": "Melbourne", "LHV": "10.21046"},
            {"location": "Dandenong", "region": "Melbourne", "lhv_kwh_per_m3": 10.21046},
        ),
        (
            "bluegen_pubkey",
            {"pubkey": "a2V5", "issuedon": "2018-08-21 07:05:00"},
            {"pubkey": "a2V5", "issued_on": "2018-08-21 07:05:00"},
        ),
        (
            "bluegen_login",
            {"jwt": "opaque", "eula": "0", "lastlogin": "", "timezone": "Europe/Rome"},
            {
                "token": "opaque",
                "eula_accepted": False,
                "issued_at": None,
                "life_s": None,
                "last_login": "",
                "tz": "Europe/Rome",
            },
        ),
        (
            "bluegen_accumulated",
            {"acc": {"timestamp": "2018-08-21 07:05:30", "power": "91920.25", "gas": "13722.5"}},
            {"at": "2018-08-21T07:05:30Z", "energy_kwh": 91920.25, "gas_kl": 13722.5},
        ),
        (
            "bluegen_profile",
            {
                "profile": {"id": "374", "name": "P"},
                "points": [
                    {"id": "2", "tick": "16", "power": "1450"},
                    {"id": "1", "tick": 1, "power": 1500},
                ],
            },
            {
                "id": 374,
                "name": "P",
                "points": [{"tick": 1, "power": 1500}, {"tick": 16, "power": 1450}],
            },
        ),
        ("bluegen_profile", {"pid": "366", "when": 0}, {"pid": 366}),
        (
            "bluegen_units",
            {"units": [{"id": "249", "name": "B"}]},
            {"units": [{"id": 249, "name": "B"}]},
        ),
        ("battery_return_code", '{"ReturnCode": "0"}', {"code": 0, "ok": True, "action": "ok"}),
        (
            "battery_return_code",
            {"ReturnCode": 13},
            {"code": 13, "ok": False, "action": "retry_backoff"},
        ),
        ("battery_return_code", "<html>", {"code": None, "ok": False, "action": "retry_backoff"}),
        ("reengen_getdata", {"properties": {"data": {"0": None}}}, {"series": [[]]}),
        (
            "reengen_getdata",
            {"data": {"1": [["2021-02-25T00:00:00", 7, "1.5"], ["2021-02-25T01:00:00", None]]}},
            {"series": [[], [["2021-02-25T00:00:00", 7, 1.5]]]},
        ),
    ],
)
def test_an_answer_is_read_leniently(what: str, raw: Any, out: Any) -> None:
    assert translate({"kind": "parse", "in": {"what": what, "raw": raw}}) == out


@pytest.mark.parametrize(
    ("what", "raw"),
    [
        ("bluegen_limits", {"limits": {"minpower": "800"}}),
        ("bluegen_status", {}),
        ("bluegen_current", []),
        ("battery_status", {"ReturnCode": 13}),
        ("reengen_getdata", {"succeeded": False, "message": "connect timed out"}),
        ("reengen_listdata", {"data": 1}),
        ("something", {}),
    ],
)
def test_an_answer_that_cannot_be_meant_is_refused(what: str, raw: Any) -> None:
    with pytest.raises(Malformed, match=r"^in\."):
        translate({"kind": "parse", "in": {"what": what, "raw": raw}})


@pytest.mark.parametrize(
    ("status", "body", "action"),
    [
        (401, "", "reauth_once_then_retry"),
        (400, "Too many attempts", "stop_account"),
        (403, '{"error": "InvalidAccessKeyId"}', "stop_account"),
        (502, "<html>Bad Gateway</html>", "retry_backoff"),
        (200, "<html>We are back soon</html>", "retry_backoff"),
        (200, "", "success"),
        (403, "Request out of range", "fix_and_resend"),
        (409, "ProfileInUse", "reassign_then_retry"),
        (400, "Max profile count reached", "recycle_own"),
        (409, "Malformed request profile owner", "stop_unit"),
        (400, "UnitInvalid", "stop_unit"),
        (409, "Malformed request profile point range", "bug"),
        (400, {"error": {"name": "BAD_TOKEN"}}, "reauth_once_then_retry"),
        (400, "User doesn\u2019t exist", "stop_account"),
        (400, "User doesn&#39;t exist", "stop_account"),
        (400, "<b>Malformed  Request Profile\nPoint</b>", "bug"),
        (503, "NumberOfRequestsPerDayExceeded", "quota_pause"),
        (503, None, "retry_backoff"),
        (418, "never heard of", "stop_unit"),
        (400, "never heard of", "bug"),
    ],
)
def test_a_refusal_says_what_to_do(status: int, body: object, action: str) -> None:
    asked = {"kind": "bluegen_error", "in": {"status": status, "body": body}}
    assert translate(asked) == {"action": action}
