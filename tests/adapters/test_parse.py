"""Whatever a device answers, it is a reading or a fault, never a crash."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fpd.adapters import battery_parse
from fpd.adapters.bluegen_errors import Kind, classify
from fpd.adapters.device import Unreachable
from fpd.adapters.http import Reply
from fpd.domain import bluegen_answers, reengen_answers
from fpd.errors import Malformed

NOW = datetime(2025, 3, 12, 6, tzinfo=UTC)
KEYS = st.sampled_from(
    [
        "status", "pp", "pid", "id", "Id", "units", "profiles", "points", "tick", "power", "limits",
        "minpower", "maxpower", "slew_up", "slew_dn", "current", "acc", "timestamp", "when", "gas",
        "jwt", "eula", "name", "profile", "Pac_total_W", "USOC", "Fac", "ReturnCode", "exp", "iat",
    ]
)  # fmt: skip
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.sampled_from(
        ["1", "1493.6", "1e308", "-", "2018-08-21 07:05:00", "a.e30.c", "Power Export"]
    )
)
ANSWERS = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=6)
)


@given(ANSWERS)
def test_any_json_is_read_or_refused(answer: Any) -> None:
    readers = [
        bluegen_answers.units,
        bluegen_answers.unit_status,
        bluegen_answers.assigned_profile,
        bluegen_answers.profiles,
        bluegen_answers.created,
        bluegen_answers.points,
        lambda body: bluegen_answers.limits(body, slew_minutes=1),
        lambda body: bluegen_answers.measured(body, "current"),
        lambda body: bluegen_answers.login(body, now=NOW),
        bluegen_answers.history,
        bluegen_answers.public_key,
        bluegen_answers.profile_name,
        reengen_answers.list_data,
        reengen_answers.get_data,
        lambda body: battery_parse.status(Reply(status=200, text=json.dumps(body))),
        lambda body: battery_parse.return_code(Reply(status=200, text=json.dumps(body))),
    ]
    for read in readers:
        try:
            read(answer)
        except (Unreachable, Malformed) as fault:
            assert "\n" not in str(fault)


def test_both_spellings_of_the_manual_are_read() -> None:
    example = {"acc": {"timestamp": "2018-08-21 07:05:30", "power": "91920.303897", "gas": "1.5"}}
    table = {"when": "2018-08-21 07:05:30", "power": 91920.303897, "gas": 1.5}
    read = bluegen_answers.measured(example, "acc")
    assert read == bluegen_answers.measured(table, "acc")
    assert read.at == datetime(2018, 8, 21, 7, 5, 30, tzinfo=UTC)
    wrapped = {"status": {"model": "BG15", "pp": "1", "status": "Power Export", "pid": "570"}}
    status = bluegen_answers.unit_status(wrapped)
    assert status == bluegen_answers.unit_status(wrapped["status"])
    assert (status.exporting, status.profiling, status.profile_id) == (True, True, 570)
    assert bluegen_answers.created({"Id": 400}) == bluegen_answers.created({"pid": "400"}) == 400
    assert bluegen_answers.assigned_profile({"pid": "366", "when": 0}) == 366
    assert bluegen_answers.assigned_profile({"pid": 0, "when": 0}) is None


def test_a_status_with_its_signs_is_that_of_the_recorded_device() -> None:
    recorded = {
        "Consumption_W": 719, "Fac": 50.004, "IsSystemInstalled": 1, "Pac total_W": 687,
        "Production_W": -3, "RSOC": 84, "Timestamp": "2021-03-05 18:30:27", "USOC": 82,
        "Uac": 227, "Ubat": 210, "GridFeedIn_W": -35,
    }  # fmt: skip
    status = battery_parse.status(Reply(status=200, text=json.dumps(recorded)))
    assert (status.pac_w, status.usoc, status.grid_w, status.production_w) == (687, 82, 35, 0)
    assert status.trouble is None
    del recorded["GridFeedIn_W"]
    status = battery_parse.status(Reply(status=200, text=json.dumps(recorded)))
    assert status.grid_w == 719 - 687


@pytest.mark.parametrize(
    ("status", "said", "kind"),
    [
        (400, "Bad Token", Kind.RELOGIN),
        (401, "", Kind.RELOGIN),
        (400, '{"error":"Bad Credentials"}', Kind.ACCOUNT),
        (400, "Account suspended", Kind.ACCOUNT),
        (400, "<p>User doesn&#39;t exist</p>", Kind.ACCOUNT),
        (400, "Too many attempts", Kind.ATTEMPTS),
        (503, "Number of requests per day exceeded", Kind.QUOTA),
        (503, "", Kind.LATER),
        (403, "shonkyramprate", Kind.CORRECT),
        (403, "Request out of range", Kind.CORRECT),
        (403, "UnitAtRequestedPower", Kind.DONE),
        (408, "UnitRequestTimeout", Kind.LATER),
        (500, "UnitNotRespondng", Kind.LATER),
        (409, "Profile exists", Kind.EXISTS),
        (409, "ProfileInUse", Kind.IN_USE),
        (409, "PermissionDenied", Kind.STOP),
        (409, "Malformed request profile owner", Kind.STOP),
        (409, "Malformed request profile point range", Kind.BUG),
        (400, "Malformed request profile point", Kind.BUG),
        (400, "Malformed request", Kind.BUG),
        (400, "Max profile count reached", Kind.FULL),
        (404, "", Kind.STOP),
    ],
)
def test_refusals_are_told_apart_by_name_then_by_status(status: int, said: str, kind: Kind) -> None:
    assert classify(status, said)[0] is kind
