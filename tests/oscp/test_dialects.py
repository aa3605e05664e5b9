"""What a peer says in its own way is understood, and what is not asked for stays strict."""

from __future__ import annotations

import itertools
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fpd.errors import Malformed
from fpd.oscp import dialects, messages, wording
from fpd.oscp.dialects import STRICT

NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)
FLAGS = [name for name in dialects._SWITCHES if name.startswith(("lenient-", "write-", "forward-"))]


def standard(
    body: Any,
    operation: str = "x",
    base_url: str | None = None,
    now: datetime = NOW,
    **switches: Any,
) -> Any:
    """Return what becomes of a message with these switches (underscores for hyphens)."""
    dialect = dialects.read({name.replace("_", "-"): value for name, value in switches.items()})
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    said = wording.standard(raw, dialect, operation=operation, base_url=base_url, now=now)
    return said if isinstance(body, bytes) else json.loads(said)


def block(**values: Any) -> dict[str, Any]:
    return {"forecasted_blocks": [values]}


def test_without_switches_a_peer_is_strict() -> None:
    assert dialects.read(None) is dialects.read({}) is STRICT
    assert dialects.read({"measurement-style": "auto", "lenient-paths": None}) is STRICT
    assert not any(getattr(STRICT, name.replace("-", "_")) for name in FLAGS)
    assert STRICT.heartbeats and STRICT.zone is None and not STRICT.rewrites


def test_every_switch_is_in_the_one_table() -> None:
    assert dialects.__doc__ is not None
    names = {line.split("|")[1].strip() for line in dialects.__doc__.splitlines() if "|" in line}
    assert set(dialects._SWITCHES) <= names


@pytest.mark.parametrize("name", FLAGS)
@pytest.mark.parametrize(("given", "on"), [(True, True), ("YES", True), (1, True), ("off", False)])
def test_a_flag_is_a_truth_value_however_it_is_written(name: str, given: Any, on: bool) -> None:
    assert getattr(dialects.read({name: given}), name.replace("-", "_")) is on


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("lenient-paths", "perhaps"),
        ("lenient-paths", [True]),
        ("time-zone", "Atlantis/Capital"),
        ("time-zone", "../../etc/passwd"),
        ("time-zone", 1),
        ("heartbeats", "never"),
        ("offline-after-s", 0),
        ("offline-after-s", True),
        ("offline-after-s", "60"),
        ("handshake-acknowledge-path", "no-slash"),
        ("url-paths", {"Heartbeat": "@evil.example.org"}),
        ("url-paths", "/hb"),
        ("group-asset-measurement", "maybe"),
        ("group-asset-measurement", []),
        ("measurement-style", "sometimes"),
        ("measurement-style", ["auto"]),
        ("group-measurement-entries", True),
    ],
)
def test_a_value_that_cannot_be_read_is_refused_and_never_a_leniency(name: str, given: Any) -> None:
    with pytest.raises(Malformed, match="expected"):
        dialects.check(name, given)
    assert dialects.read({name: given}) is STRICT


@pytest.mark.parametrize(
    ("name", "given"),
    [
        *(("group-asset-measurement", given) for given in (True, "No", 0, 2.5)),
        *(("measurement-style", given) for given in ("auto", "continuous", "intermittent")),
        *(("group-measurement-entries", given) for given in ("summed", "per-asset")),
        ("anything-else", object()),
    ],
)
def test_how_measurements_are_reported_can_be_said(name: str, given: Any) -> None:
    dialects.check(name, given)


def test_paths_are_the_peer_s_or_the_standard_s() -> None:
    dialect = dialects.read(
        {"url-paths": {"UpdateGroupCapacityForecast": "/v1/fc", "Heartbeat": "/hb"}}
    )
    assert dialect.path("update_group_capacity_forecast") == "/v1/fc"
    assert dialect.path("heartbeat") == "/hb"
    assert dialect.path("handshake") == "/handshake"
    spelt = {"handshake-acknowledge-path": "/handshake_acknowledgment"}
    assert dialects.read(spelt).path("handshake_acknowledge") == "/handshake_acknowledgment"
    both = {**spelt, "url-paths": {"HandshakeAcknowledge": "/ack"}}
    assert dialects.read(both).path("handshake_acknowledge") == "/ack"


def test_headers_are_added_but_none_that_frames_or_names_the_message() -> None:
    given = {"x-api-key": "k", "Content-Length": "0", "host": "other", "X-Request-ID": "mine"}
    access = dialects.read_access({"http-headers": given})
    assert access.headers == {"x-api-key": "k"} and access.credentials is None
    assert "k" not in repr(access)


def test_client_credentials_need_a_url_and_an_id() -> None:
    props = {
        "oauth-token-url": "https://auth.example.org/token",
        "oauth-client-id": "client-123",
        "oauth-client-secret": "Secret.123",
        "http-headers": {"x-api-key": "k"},
    }
    credentials = dialects.read_access(props).credentials
    assert credentials is not None and credentials.headers == (("x-api-key", "k"),)
    assert credentials.client_secret == "Secret.123" and "Secret.123" not in repr(credentials)
    for missing in ("oauth-token-url", "oauth-client-id"):
        assert dialects.read_access({**props, missing: None}).credentials is None


def test_a_bare_behaviour_is_put_where_the_standard_has_it() -> None:
    bare = {"measurement_configuration": ["CONTINUOUS"], "heartbeat_interval": 30}
    wrapped = {"required_behaviour": bare}
    for operation in ("handshake", "handshake_acknowledge"):
        assert standard(bare, operation, lenient_handshake=True) == wrapped
        assert standard(wrapped, operation, lenient_handshake=True) == wrapped
        assert standard({}, operation, lenient_handshake=True) == {}
        assert standard(bare, operation) == bare
    assert standard(bare, "heartbeat", lenient_handshake=True) == bare


@pytest.mark.parametrize(
    ("text", "number"), [("3.5", b"3.5"), ("100", b"100"), ("1e1", b"1E+1"), ("-2", b"-2")]
)
def test_a_capacity_in_a_text_is_the_number_in_it(text: str, number: bytes) -> None:
    body = json.dumps(block(capacity=text)).encode()
    assert (
        standard(body, lenient_capacity=True) == b'{"forecasted_blocks":[{"capacity":%b}]}' % number
    )
    assert standard(body) == body


@pytest.mark.parametrize(
    "text", ["", "NaN", "Infinity", "1_000", "3,5", " 3", "٣", "1e999", "9" * 99]
)
def test_a_text_that_is_no_number_stays_one_and_is_refused(text: str) -> None:
    assert standard(block(capacity=text), lenient_capacity=True) == block(capacity=text)


def test_local_times_are_those_of_the_configured_zone() -> None:
    said = block(start_time="2026-07-01T14:00:00", end_time="2026-01-01 12:00")
    heard = block(start_time="2026-07-01T12:00:00Z", end_time="2026-01-01T11:00:00Z")
    assert standard(said, time_zone="Europe/Amsterdam") == heard
    assert standard(said) == said
    heartbeat = {"offline_mode_at": "2026-07-01 14:02:00.5"}
    assert standard(heartbeat, time_zone="Europe/Amsterdam") == {
        "offline_mode_at": "2026-07-01T12:02:00.500000Z"
    }


@pytest.mark.parametrize(
    "text", ["2026-07-01T14:00:00+02:00", "2026-07-01", "2026-13-01T00:00:00", "soon", 0, None]
)
def test_what_is_no_local_time_is_left_to_the_strict_reader(text: Any) -> None:
    assert standard(block(start_time=text), time_zone="Europe/Amsterdam") == block(start_time=text)


def test_the_hour_that_comes_twice_is_told_in_order() -> None:
    """On 25 October 2026 clocks in Amsterdam show 02:00 to 02:59 twice: 00:00Z and 01:00Z on."""
    quarters = [f"0{hour}:{minute:02}" for hour in (1, 2, 2, 3) for minute in (0, 15, 30, 45)]
    times = [f"2026-10-25T{quarter}:00" for quarter in quarters]
    blocks = [{"start_time": a, "end_time": b} for a, b in itertools.pairwise(times)]
    heard = standard({"forecasted_blocks": blocks}, time_zone="Europe/Amsterdam")
    instants = [datetime.fromisoformat(b["start_time"]) for b in heard["forecasted_blocks"]]
    first = datetime(2026, 10, 24, 23, tzinfo=UTC)
    assert instants == [first + n * timedelta(minutes=15) for n in range(15)]
    assert heard["forecasted_blocks"][-1]["end_time"] == "2026-10-25T02:45:00Z"


@pytest.mark.parametrize(
    ("now", "heard"),
    [
        (datetime(2026, 10, 25, 0, 58, tzinfo=UTC), "2026-10-25T01:01:00Z"),
        (datetime(2026, 10, 25, 0, 0, tzinfo=UTC), "2026-10-25T00:01:00Z"),
    ],
)
def test_a_promise_in_that_hour_is_the_one_near_to_now(now: datetime, heard: str) -> None:
    said = {"offline_mode_at": "2026-10-25T02:01:00"}
    assert standard(said, now=now, time_zone="Europe/Amsterdam") == {"offline_mode_at": heard}


@pytest.mark.parametrize(
    ("told", "meant"),
    [
        ("/oscp/2.0", "https://elmo.example.org:8443/oscp/2.0"),
        ("//evil.example.org/x", "//evil.example.org/x"),
        ("https://other.example.org/x", "https://other.example.org/x"),
        ("oscp", "oscp"),
    ],
)
def test_a_relative_base_url_is_completed_by_the_configured_one(told: str, meant: str) -> None:
    offer = {"version_url": [{"version": "2.0", "base_url": told}]}
    known = "https://elmo.example.org:8443/old"
    heard = standard(offer, "register", known, lenient_base_url=True)
    assert heard["version_url"][0]["base_url"] == meant
    assert standard(offer, "register", None, lenient_base_url=True) == offer
    assert standard(offer, "register", known) == offer


EVERYTHING = {
    "lenient_handshake": True,
    "lenient_capacity": True,
    "lenient_base_url": True,
    "time_zone": "Europe/Amsterdam",
}


def test_a_standard_message_of_a_lenient_peer_is_not_touched() -> None:
    body = b"""{ "group_id": "g", "type": "CONSUMPTION", "forecasted_blocks": [ {"capacity": 3.10,
        "phase": "ALL", "unit": "KW", "start_time": "2026-07-01T12:00:00Z",
        "end_time": "2026-07-01T13:00:00.0Z"} ] }"""
    assert standard(body, "update_group_capacity_forecast", **EVERYTHING) is body


NAMES = ["forecasted_blocks", "capacity", "start_time", "offline_mode_at", "version_url"]
NAMES += ["base_url", "required_behaviour", "heartbeat_interval", "x"]
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False)
    | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(NAMES),
            inner | st.sampled_from(["1", "2026-10-25T02:30:00", "0001-01-01T00:00:00", "/x"]),
            max_size=5,
        )
    ),
)


@given(json_values.map(lambda value: json.dumps(value).encode()) | st.binary())
def test_whatever_a_lenient_peer_says_is_read_or_refused(body: bytes) -> None:
    for operation in ("handshake", "register", "heartbeat"):
        said = standard(body, operation, "http://peer.example.org/x", **EVERYTHING)
        for message in messages._DECODERS:
            try:
                messages.decode(said, message)
            except Malformed as refusal:
                assert str(refusal)


def test_our_messages_are_written_as_the_peer_reads_them() -> None:
    behaviour = messages.RequiredBehaviour(heartbeat_interval=60)
    handshake = messages.encode(messages.Handshake(required_behaviour=behaviour))
    flat = dialects.read({"write-flat-handshake": True})
    assert wording.spoken(handshake, flat, operation="handshake") == b'{"heartbeat_interval":60}'
    assert wording.spoken(handshake, STRICT, operation="handshake") is handshake
    forecast = b'{"group_id":"g","forecasted_blocks":[{"capacity":3.10},{"capacity":1e3}]}'
    texts = dialects.read({"write-text-capacity": True})
    assert wording.spoken(forecast, texts, operation="update_group_capacity_forecast") == (
        b'{"group_id":"g","forecasted_blocks":[{"capacity":"3.1"},{"capacity":"1000.0"}]}'
    )
    assert wording.spoken(b"", texts, operation="register") == b""


def test_a_peer_may_want_times_without_a_zone() -> None:
    plain = dialects.read({"write-plain-times": True})
    body = b'{"offline_mode_at":"2026-07-01T12:00:59.9Z"}'
    assert wording.spoken(body, plain, operation="heartbeat") == (
        b'{"offline_mode_at":"2026-07-01 12:00:59"}'
    )
    local = dialects.read({"write-plain-times": True, "time-zone": "Europe/Amsterdam"})
    measured = b'{"measurements":[{"energy_measurement":{"measure_time":"2026-07-01T10:00:00Z"}}]}'
    assert b'"2026-07-01 12:00:00"' in wording.spoken(measured, local, operation="any")


def test_plain_times_are_read_back_as_they_were_meant() -> None:
    switches = {"write_plain_times": True, "time_zone": "Europe/Amsterdam"}
    local = dialects.read({name.replace("_", "-"): value for name, value in switches.items()})
    meant = {"start_time": "2026-01-05T12:00:00Z", "end_time": "2026-07-05T12:00:00+00:00"}
    written = wording.spoken(json.dumps(block(**meant)).encode(), local, operation="any")
    assert b'"2026-01-05 13:00:00"' in written and b'"2026-07-05 14:00:00"' in written
    (back,) = standard(json.loads(written), **switches)["forecasted_blocks"]
    for name, instant in meant.items():
        assert datetime.fromisoformat(back[name]) == datetime.fromisoformat(instant)
