"""Datum: what documents are understood as, what is refused, what is published."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fpd.domain.datum import (
    Datum,
    StreamKey,
    flat,
    of_forecast,
    of_heartbeat,
    read,
)
from fpd.domain.forecast import Block
from fpd.domain.packed import is_timely, microseconds, pack
from fpd.domain.supersede import Stated, restated
from fpd.domain.units import Phase, Unit
from fpd.errors import Malformed

METER = StreamKey(1, 7, "meter/1")
NOON = datetime(2030, 3, 10, 12, tzinfo=UTC)
NOON_MS = 1899374400000


def of(document: object) -> Datum:
    return read(document, stream=METER, received_at=NOON)


def test_a_flat_document_is_unclassified() -> None:
    datum = of(
        {
            "created": NOON_MS + 5,
            "nodeId": 99,
            "sourceId": "somebody/else",
            "watts": 230,
            "wattHours": Decimal("12345678901234567890.123456789"),
            "mode": "auto",
            "on": True,
            "gone": None,
            "tags": ["virtual"],
        }
    )
    assert datum == Datum(
        stream=METER,
        at=NOON + timedelta(milliseconds=5),
        i={"watts": Decimal(230), "wattHours": Decimal("12345678901234567890.123456789")},
        s={"mode": "auto", "on": True},
        t=("virtual",),
    )


def test_a_document_with_samples_is_classified() -> None:
    datum = of(
        {
            "created": NOON_MS,
            "sourceId": "/meter/1",
            "samples": {
                "i": {"watts": 230.5, "none": None},
                "a": {"wattHours": 7},
                "s": {"phase": "Total", "state": 3, "open": False},
                "t": ["a", "b"],
            },
        }
    )
    assert datum.i == {"watts": Decimal("230.5")}
    assert datum.a == {"wattHours": Decimal(7)}
    assert datum.s == {"phase": "Total", "state": Decimal(3), "open": False}
    assert datum.t == ("a", "b")


@pytest.mark.parametrize(
    ("created", "at"),
    [
        (None, NOON),
        (0, datetime(1970, 1, 1, tzinfo=UTC)),
        (1899374400000.5, NOON + timedelta(microseconds=500)),
        ("2030-03-10T13:00:00+01:00", NOON),
        ("2030-03-10 12:00:00.25Z", NOON + timedelta(milliseconds=250)),
        (NOON, NOON),
    ],
)
def test_created_is_understood(created: object, at: datetime) -> None:
    assert of({"created": created, "a": 1}).at == at


@pytest.mark.parametrize(
    "document",
    [
        [],
        "text",
        {},
        {"created": NOON_MS},
        {"created": "yesterday", "a": 1},
        {"created": "2030-03-10T12:00:00", "a": 1},
        {"created": 10**25, "a": 1},
        {"created": {}, "a": 1},
        {"created": True, "a": 1},
        {"a": float("nan")},
        {"a": float("inf")},
        {"a": Decimal("1e30")},
        {"a": Decimal("1e-31")},
        {"a": Decimal("1." + "1" * 40)},
        {"a": [1]},
        {"a": {"b": 1}},
        {"a": b"bytes"},
        {"": 1},
        {"x" * 65: 1},
        {"a\x00": 1},
        {5: 1},
        {"a": "\x00"},
        {"a": "x" * 4097},
        {"a": 1, "tags": "x"},
        {"a": 1, "tags": [5]},
        {str(n): n for n in range(257)},
        {"samples": {}},
        {"samples": {"i": {"a": "5"}}},
        {"samples": {"i": {"a": True}}},
        {"samples": {"i": [1]}},
    ],
)
def test_what_cannot_be_meant_is_refused(document: object) -> None:
    with pytest.raises(Malformed):
        of(document)


_PLAIN = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.decimals()
    | st.text()
    | st.binary()
    | st.datetimes()
)
_KEYS = st.text() | st.integers() | st.just("samples")
_DOCUMENTS = st.recursive(
    _PLAIN,
    lambda inner: st.lists(inner) | st.dictionaries(_KEYS, inner),
    max_leaves=20,
)


@given(_DOCUMENTS | st.dictionaries(st.sampled_from(["created", "samples", "a"]), _DOCUMENTS))
def test_nothing_that_can_be_sent_is_worse_than_malformed(document: object) -> None:
    try:
        datum = of(document)
    except Malformed:
        return
    assert datum.i or datum.a or datum.s or datum.t
    assert datum.at.tzinfo is UTC


def test_absurd_times_are_told_apart() -> None:
    def is_kept(at: datetime) -> bool:
        datum = pack(Datum(stream=METER, at=at))
        days = timedelta(days=400) // timedelta(microseconds=1)
        return is_timely(datum, now_us=microseconds(NOON), retention_us=days)

    assert is_kept(NOON)
    assert is_kept(NOON + timedelta(days=1))
    assert not is_kept(NOON + timedelta(days=1, microseconds=1))
    assert is_kept(NOON - timedelta(days=400))
    assert not is_kept(NOON - timedelta(days=400, microseconds=1))


@given(
    st.dictionaries(
        st.text("abc", min_size=1, max_size=3),
        st.booleans() | st.decimals(-(10**9), 10**9, places=3) | st.just("on"),
        min_size=1,
    )
)
def test_what_is_published_is_read_back_the_same(properties: dict[str, object]) -> None:
    document = {"created": NOON_MS, **properties}
    published = flat(of(document), "/meter/1")
    assert list(published)[:3] == ["created", "nodeId", "sourceId"]
    assert published["sourceId"] == "/meter/1"
    assert of(published) == of(document)


def block(capacity: str, unit: Unit, phase: Phase, *, start: int, minutes: float = 15) -> Block:
    start_at = NOON + timedelta(minutes=start)
    return Block(
        start_at=start_at,
        end_at=start_at + timedelta(minutes=minutes),
        capacity=Decimal(capacity),
        unit=unit,
        phase=phase,
    )


def told(*messages: tuple[str, list[Block]]) -> list[Datum]:
    """Return what the last of the messages is published as."""
    said = [[Stated(one, request_id) for one in blocks] for request_id, blocks in messages]
    starts = restated(said[:-1], said[-1], after=NOON)
    return list(of_forecast(starts, stream=METER, request_id=messages[-1][0]))


def test_blocks_with_one_start_are_one_datum() -> None:
    made = told(
        ("r-1", [
            block("6", Unit.A, Phase.TWO, start=15),
            block("11.5", Unit.KW, Phase.ALL, start=0, minutes=0.75),
            block("6", Unit.A, Phase.ONE, start=15),
            block("7", Unit.A, Phase.UNKNOWN, start=15),
        ]),
    )  # fmt: skip
    assert tuple(made) == (
        Datum(
            stream=METER,
            at=NOON,
            i={"duration": Decimal(45), "amount": Decimal("11.5")},
            s={"forecastIdentifier": "r-1", "unit": "kW"},
        ),
        Datum(
            stream=METER,
            at=NOON + timedelta(minutes=15),
            i={
                "duration": Decimal(900),
                "amount_b": Decimal(6),
                "amount_a": Decimal(6),
                "amount_u": Decimal(7),
            },
            s={"forecastIdentifier": "r-1", "unit_b": "A", "unit_a": "A", "unit_u": "A"},
        ),
    )


def test_what_still_holds_of_other_phases_stays_beside_what_is_new() -> None:
    every = block("9", Unit.KW, Phase.ALL, start=0, minutes=60)
    one = block("6", Unit.A, Phase.ONE, start=0)
    both = Datum(
        stream=METER,
        at=NOON,
        i={"duration": Decimal(3600), "amount": Decimal(9)}
        | {"duration_a": Decimal(900), "amount_a": Decimal(6)},
        s={"forecastIdentifier": "r-1", "unit": "kW"}
        | {"forecastIdentifier_a": "r-2", "unit_a": "A"},
    )
    assert told(("r-1", [every]), ("r-2", [one])) == [both]
    assert told(("r-1", [every, one])) == [
        replace(both, s={"forecastIdentifier": "r-1", "unit": "kW", "unit_a": "A"})
    ]
    gone = block("5", Unit.A, Phase.ONE, start=-15, minutes=30)
    assert told(("r-1", [every]), ("r-2", [one]), ("r-3", [gone]))[1:] == told(("r-1", [every]))


@pytest.mark.parametrize(
    ("microseconds", "expected"),
    [
        (0, "2030-03-10 12:00:00Z"),
        (500_000, "2030-03-10 12:00:00.500Z"),
        (500_001, "2030-03-10 12:00:00.500001Z"),
    ],
)
def test_a_heartbeat_tells_when_its_promise_runs_out(microseconds: int, expected: str) -> None:
    promised_at = NOON + timedelta(microseconds=microseconds)
    datum = of_heartbeat(promised_at, stream=METER, at=NOON)
    assert datum == Datum(stream=METER, at=NOON, s={"expires": expected})
