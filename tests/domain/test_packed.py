"""What is taken over as it stands is what would have been read property by property."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fpd.domain import datum as datums
from fpd.domain.datum import StreamKey
from fpd.domain.packed import Packed, microseconds, pack, read_plain
from fpd.errors import Malformed
from fpd.mqtt import codec

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
METER = StreamKey(1, 7, "meter/1")

names = st.one_of(
    st.sampled_from(["watts", "created", "samples", "tags", "nodeId", "t", "i", "", "ü", "a\nb"]),
    st.text(max_size=70),
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.decimals(allow_nan=False, allow_infinity=False).map(float),
    st.text(max_size=20),
)
values = st.one_of(scalars, st.lists(scalars, max_size=2), st.dictionaries(names, scalars))
flat = st.dictionaries(names, values, max_size=6)
classed = st.fixed_dictionaries(
    {"samples": st.dictionaries(st.sampled_from("iast"), values | flat, max_size=4)},
    optional={"created": scalars | st.just(1773144000000), "sourceId": scalars},
)


def as_numbers(packed: Packed) -> tuple[Any, ...]:
    read = [json.loads(one, parse_float=Decimal) if one else {} for one in packed[2:5]]
    return (*packed[:2], *read, packed.t)


def judged(payload: bytes) -> Packed | None:
    try:
        document = codec.decode(payload)
        return pack(datums.read(document, stream=METER, received_at=NOON))
    except Malformed:
        return None


def plain(payload: bytes) -> Packed | None:
    return read_plain(payload, stream=METER, received_us=microseconds(NOON))


@given(st.one_of(flat, classed).map(lambda document: json.dumps(document).encode()))
def test_both_ways_mean_the_same(payload: bytes) -> None:
    found = plain(payload)
    if found is not None:
        expected = judged(payload)
        assert expected is not None
        assert as_numbers(found) == as_numbers(expected)


@given(st.binary(max_size=60).map(lambda data: b'{"a":' + data + b"}"))
def test_rubbish_is_left_to_the_long_way(payload: bytes) -> None:
    found = plain(payload)
    if found is not None:
        expected = judged(payload)
        assert expected is not None
        assert as_numbers(found) == as_numbers(expected)


@pytest.mark.parametrize(
    "document",
    [
        b'{"created":1773144000000,"watts":230.50,"on":true,"mode":"auto","n":-7}',
        b' {"created": 1773144000000, "nodeId": 9, "sourceId": "/x", "watts": 0} ',
        b'{"watts":1,"watts":2}',
        b'{"created":1773144000000,"samples":{"i":{"watts":1.5},"a":{"wattHours":2},"s":{"x":"y"}}}',
    ],
)
def test_what_sources_send_is_plain(document: bytes) -> None:
    found, expected = plain(document), judged(document)
    assert found is not None
    assert expected is not None
    assert as_numbers(found) == as_numbers(expected)


@pytest.mark.parametrize(
    "document",
    [
        b'{"created":"2026-03-10T12:00:00Z","watts":1}',
        b'{"watts":1e5}',
        b'{"watts":null,"x":1}',
        b'{"mode":"a\\u0041"}',
        b'{"watts":01}',
        b'{"watts":1.}',
        b'{"watts":-}',
        b'{"watts":{}}',
        b'{"tags":["a"],"watts":1}',
        b"{}",
        b'{"watts":1}x',
        '{"mode":"ü"}'.encode(),
        b"\xa1\x61a\x01",
    ],
)
def test_what_is_not_plain_says_nothing(document: bytes) -> None:
    assert plain(document) is None


def test_a_datum_packed_keeps_its_time_to_the_microsecond() -> None:
    at = NOON + timedelta(microseconds=1)
    assert pack(datums.Datum(stream=METER, at=at, t=("a",))).at == at
