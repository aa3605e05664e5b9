"""Payloads: JSON and CBOR recognised, numbers exact, nothing that kills."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Literal

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fpd.domain import datum as datums
from fpd.domain.datum import StreamKey
from fpd.errors import Malformed
from fpd.mqtt import codec

DOCUMENT = {
    "created": 1899374400000,
    "nodeId": 7,
    "sourceId": "/meter/1",
    "watts": Decimal("230.10"),
    "wattHours": Decimal(12345678901234567890),
    "tiny": Decimal("0.1234567890123456789"),
    "mode": "auto",
    "on": True,
}


@pytest.mark.parametrize("encoding", ["json", "cbor"])
def test_what_is_written_is_read_back_exactly(encoding: Literal["json", "cbor"]) -> None:
    stream = StreamKey(1, 7, "meter/1")
    payload = codec.encode(DOCUMENT, encoding)
    read, meant = codec.decode(payload), DOCUMENT
    at = datetime(2030, 3, 10, 12, tzinfo=UTC)
    assert datums.read(read, stream=stream, received_at=at) == datums.read(
        meant, stream=stream, received_at=at
    )


def test_ordinary_numbers_are_ordinary_for_every_cbor_reader() -> None:
    read = cbor2.loads(codec.encode(DOCUMENT, "cbor"))
    assert (type(read["watts"]), type(read["wattHours"])) == (float, int)


def test_json_is_plain_json() -> None:
    text = codec.encode(DOCUMENT, "json")
    assert b'"watts":230.10' in text
    assert json.loads(text)["wattHours"] == 12345678901234567890


def test_numbers_of_json_are_exact() -> None:
    assert codec.decode(b' \n{"a":0.1000000000000000055511151231257827}') == {
        "a": Decimal("0.1000000000000000055511151231257827")
    }


def test_cbor_may_describe_itself() -> None:
    assert codec.decode(b"\xd9\xd9\xf7" + cbor2.dumps({"a": 1})) == {"a": 1}


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b'{"a":NaN}',
        b'{"a":1e9999999999999999999}',
        b'{"a":"\xff"}',
        b'{"a":' * 20_000,
        b"hello",
        b"\xa1\x61",
        b"\x81" * 5_000,
        b"\xbb\x7f" + b"\xff" * 8,
        b"\xff",
        b"{" + b" " * codec.LONGEST,
    ],
)
def test_rubbish_is_malformed(payload: bytes) -> None:
    with pytest.raises(Malformed):
        codec.decode(payload)


@given(st.binary(max_size=200))
def test_no_payload_is_worse_than_malformed(payload: bytes) -> None:
    for variant in (payload, b"{" + payload, b"\xa1" + payload):
        try:
            codec.decode(variant)
        except Malformed as error:
            assert str(error)
