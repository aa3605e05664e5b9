"""Payloads: JSON with exact numbers, CBOR, and which of the two it is."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Literal

import cbor2
import msgspec

from fpd.errors import Malformed

LONGEST = 64 * 1024  # bytes of a payload that is taken in

_json_decoder = msgspec.json.Decoder(float_hook=Decimal)
_json_encoder = msgspec.json.Encoder(decimal_format="number")


def decode(payload: bytes) -> object:
    """Return the document in a payload. Raises Malformed when there is none.

    Both forms of an object begin differently: JSON with a brace, which as CBOR would be a text.
    """
    if len(payload) > LONGEST:
        raise Malformed(f"longer than {LONGEST} bytes")
    if payload.lstrip(b" \t\r\n").startswith(b"{"):
        try:
            return _json_decoder.decode(payload)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, InvalidOperation) as e:
            raise Malformed(f"not JSON: {e}") from None
    try:
        return cbor2.loads(payload)
    except (cbor2.CBORDecodeError, ValueError, TypeError, ArithmeticError, RecursionError) as error:
        raise Malformed(f"neither JSON nor CBOR: {error}") from None


def encode(document: Mapping[str, object], encoding: Literal["json", "cbor"]) -> bytes:
    """Return the payload of a published document."""
    if encoding == "json":
        return _json_encoder.encode(document)
    return cbor2.dumps({name: _plain(value) for name, value in document.items()})


def _plain(value: object) -> object:
    """Give CBOR a number that every reader knows when it says the same, else a decimal fraction."""
    if not isinstance(value, Decimal):
        return value
    if value == value.to_integral_value():
        return int(value)
    as_float = float(value)
    return as_float if Decimal(repr(as_float)) == value else value
