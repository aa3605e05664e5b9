"""A message in a peer's dialect ⇄ the same message as the standard writes it.

Both ways work on JSON, before and behind the strict structs of `messages`: what a peer's dialect
does not mention is not touched, and a body without any of it stays byte for byte the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, tzinfo
from decimal import Decimal
from typing import Any, Final

import msgspec
from yarl import URL

from fpd.oscp.dialects import ACKNOWLEDGE_SPELLINGS, Dialect

_HANDSHAKES: Final = frozenset({"handshake", "handshake_acknowledge", *ACKNOWLEDGE_SPELLINGS})
_BEHAVIOUR: Final = frozenset({"heartbeat_interval", "measurement_configuration"})
_NUMBER: Final = re.compile(r"-?\d{1,20}(\.\d{1,20})?([eE][+-]?\d{1,2})?", re.ASCII)
_LOCAL_TIME: Final = re.compile(
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?", re.ASCII | re.IGNORECASE
)
_TIMES: Final = frozenset(
    {"offline_mode_at", "start_time", "end_time", "measure_time", "initial_measure_time"}
)
_encoder = msgspec.json.Encoder(decimal_format="number")


def standard(
    body: bytes, dialect: Dialect, *, operation: str, base_url: str | None, now: datetime
) -> bytes:
    """Return what a peer said in standard form; whether it makes sense is for others to judge.

    `base_url` is the one the peer is configured with, None: a relative one stays relative.
    """
    if not dialect.rewrites:
        return body
    try:
        message = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body
    if not isinstance(message, dict):
        return body
    changed = False
    if dialect.lenient_handshake and operation in _HANDSHAKES:
        changed |= _wrap(message)
    if dialect.lenient_capacity:
        changed |= _numbers(message)
    if dialect.lenient_base_url and base_url is not None:
        changed |= _absolute(message, base_url)
    if dialect.zone is not None:
        changed |= _zoned(message, dialect.zone, now)
    return _encoder.encode(message) if changed else body


def spoken(body: bytes, dialect: Dialect, *, operation: str) -> bytes:
    """Return a message of ours as the peer's dialect writes it; the same bytes on every try."""
    flat = dialect.write_flat_handshake and operation in _HANDSHAKES
    if not body or not (flat or dialect.write_text_capacity or dialect.write_plain_times):
        return body
    message = msgspec.json.decode(body)
    changed = flat
    if flat:
        message = message.get("required_behaviour", {})
    if dialect.write_text_capacity:
        changed |= _texts(message)
    if dialect.write_plain_times:
        changed |= _plain(message, dialect.zone or UTC)
    return _encoder.encode(message) if changed else body


def _texts(message: dict[str, Any]) -> bool:
    """Make texts of capacities."""
    changed = False
    for block in _blocks(message):
        if isinstance(block.get("capacity"), int | float):
            block["capacity"] = format(Decimal(repr(block["capacity"])), "f")
            changed = True
    return changed


def _plain(what: Any, zone: tzinfo) -> bool:
    """Make local times without a zone of instants (NOWUM/pyoscp), to the second before."""
    changed = False
    if isinstance(what, list):
        for part in what:
            changed |= _plain(part, zone)
    elif isinstance(what, dict):
        for name, value in what.items():
            if name in _TIMES and isinstance(value, str):
                local = msgspec.convert(value, datetime).astimezone(zone)
                what[name] = local.strftime("%Y-%m-%d %H:%M:%S")
                changed = True
            else:
                changed |= _plain(value, zone)
    return changed


def _wrap(message: dict[str, Any]) -> bool:
    """Put a bare behaviour where the standard has it (generated Go and TypeScript clients)."""
    if "required_behaviour" in message or not _BEHAVIOUR & message.keys():
        return False
    message["required_behaviour"] = {
        name: message.pop(name) for name in _BEHAVIOUR & message.keys()
    }
    return True


def _blocks(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    blocks = message.get("forecasted_blocks")
    for block in blocks if isinstance(blocks, list) else ():
        if isinstance(block, dict):
            yield block


def _numbers(message: dict[str, Any]) -> bool:
    """Make numbers of capacities that are texts; all their digits are kept."""
    changed = False
    for block in _blocks(message):
        capacity = block.get("capacity")
        if isinstance(capacity, str) and _NUMBER.fullmatch(capacity):
            block["capacity"] = Decimal(capacity)
            changed = True
    return changed


def _absolute(message: dict[str, Any], base_url: str) -> bool:
    """Complete base URLs that are only a path (ELMO) by the one the peer is configured with."""
    changed = False
    offers = message.get("version_url")
    for offer in offers if isinstance(offers, list) else ():
        url = offer.get("base_url") if isinstance(offer, dict) else None
        # "//host" names another host, so it is not completed; the guard refuses it as it stands.
        if isinstance(url, str) and url.startswith("/") and not url.startswith("//"):
            offer["base_url"] = str(URL(base_url).origin()) + url
            changed = True
    return changed


def _zoned(message: dict[str, Any], zone: tzinfo, now: datetime) -> bool:
    """Make instants of local times, in the order in which the message tells them."""
    changed = False
    told_at: datetime | None = None
    places = [(block, name) for block in _blocks(message) for name in ("start_time", "end_time")]
    for place, name in [(message, "offline_mode_at"), *places]:
        text = place.get(name)
        if isinstance(text, str) and _LOCAL_TIME.fullmatch(text):
            told_at = _instant(text, zone, told_at=told_at, now=now)
            if told_at is not None:
                place[name] = told_at
                changed = True
    return changed


def _instant(
    text: str, zone: tzinfo, *, told_at: datetime | None, now: datetime
) -> datetime | None:
    """Return the instant of a local time, None when there is no such date.

    Interpretation: in the hour that a clock shows twice, the first time told means the pass
    nearer to now, and each further one the first pass that is not before the time told last.
    """
    try:
        local = datetime.fromisoformat(text)
        first = local.replace(tzinfo=zone).astimezone(UTC)
        second = local.replace(tzinfo=zone, fold=1).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    if second <= first:  # no such hour, or one that the clock skips
        return first
    if told_at is None:
        return min(first, second, key=lambda instant: abs(instant - now))
    return second if first < told_at <= second else first
