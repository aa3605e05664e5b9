"""How the page says things: a state is a word, a level and what it means, never a colour alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, Literal

import msgspec
from markupsafe import Markup

from fpd.store.overview import Device, Peer
from fpd.store.stream_health import Stream

Level = Literal["good", "warn", "bad", "quiet"]

_THIN = "\N{NARROW NO-BREAK SPACE}"
_SPACE = "\N{NO-BREAK SPACE}"
_MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True, slots=True)
class State:
    """`hint` says what it means, or what to do; empty when the word says it all."""

    word: str
    level: Level
    hint: str = ""


_LINKS: Final[Mapping[str, State]] = {
    "provisioned": State("provisioned", "warn", "waits for it to register with its token"),
    "registering": State("registering", "warn", "it has not accepted our registration yet"),
    "registered": State("registered", "warn", "waits for the handshake"),
    "online": State("online", "good"),
    "offline": State("offline", "bad", "its heartbeat is overdue"),
    "broken": State("broken", "bad", "it refuses our credential"),
    "unregistered": State("unregistered", "warn", "it ended the registration"),
    "failed": State("failed", "bad", "it refused our registration"),
}

# What somebody can do where fpd alone cannot.
_REMEDIES: Final[Mapping[str, str]] = {
    "broken": "let it shake hands or register again, or have us do so",
    "failed": "have us register again, or give it a new first token",
}

_HEALTHS: Final[Mapping[str, State]] = {
    "unknown": State("unknown", "quiet", "not spoken to yet"),
    "ok": State("ok", "good"),
    "degraded": State("degraded", "warn", "answers, but cannot be dispatched now"),
    "unavailable": State("unavailable", "bad", "does not answer; asked again by itself"),
    "rationed": State("rationed", "warn", "its service takes no more requests for now"),
    "stopped": State("stopped", "bad", "refuses for good: somebody has to look"),
}

_REASONS: Final[Mapping[str, str]] = {
    "forecast": "forecast of the provider",
    "fallback": "fallback: the provider is offline",
    "last-known": "last known limit: the provider is offline and left no fallback",
    "gap-fallback": "fallback: no forecast covers this time",
    "hold-last": "last forecast held: none covers this time",
    "static": "static limit of the installation",
    "none": "nothing limits the group",
}


def link(peer: Peer) -> State:
    """Say how the link with a peer is."""
    if not peer.enabled:
        return State(peer.link, "quiet", "disabled: fpd does not talk to it")
    if peer.silent and peer.link == "registered":
        return State(peer.link, "quiet", "has no address: it is never called")
    state = _LINKS.get(peer.link, State(peer.link, "warn"))
    remedy = _REMEDIES.get(peer.link)
    if remedy is None:
        return state
    return State(state.word, state.level, f"{peer.trouble or state.hint}: {remedy}")


def role(peer: Peer) -> str:
    return "Optimizer" if peer.role == "CapacityOptimizer" else "Provider"


def health(device: Device, configured: frozenset[str]) -> State:
    """Say how a device is."""
    if device.name not in configured:
        return State(device.health, "quiet", "not in this configuration: not driven from here")
    state = _HEALTHS.get(device.health, State(device.health, "warn"))
    return State(state.word, state.level, device.detail or state.hint)


_STREAMS: Final[Mapping[str, State]] = {
    "unknown": State("unknown", "quiet", "too few datum to say"),
    "ok": State("ok", "good"),
    "stale": State("stale", "warn", "its next datum is overdue"),
    "frozen": State("frozen", "warn", "it keeps saying the same"),
}


def stream(stream: Stream) -> State:
    """Say how a datum stream is."""
    return _STREAMS[stream.state]


def values(stream: Stream) -> str:
    """Say what a stream's newest datum says, the first few properties of it."""
    told = {**(stream.i or {}), **(stream.a or {}), **(stream.s or {})}
    said = [f"{name} {_value(value)}" for name, value in list(told.items())[:4]]
    return ", ".join([*said, "…"] if len(told) > 4 else said)


def _value(value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return number(value)
    text = str(value)
    return text if len(text) <= 40 else f"{text[:39]}…"


def following(device: Device) -> State | None:
    """Say whether a device does what control wants; None when control wants nothing."""
    if device.wanted is None:
        return None
    if device.attempts:
        times = "once" if device.attempts == 1 else f"{device.attempts} times"
        return State("not followed", "bad", f"told {times}")
    if device.wanted == device.confirmed:
        return State("confirmed", "good")
    return State("not confirmed yet", "warn")


def reason(word: str) -> str:
    """Say where an envelope comes from."""
    return _REASONS.get(word, word)


def number(value: Decimal | float) -> str:
    """Write a number as people read it: thousands apart, a true minus, no needless digits.

    >>> number(-12500).replace(_THIN, " ")
    '−12 500'
    """
    text = f"{Decimal(str(value)):,f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return text.replace(",", _THIN).replace("-", _MINUS)


def watts(value: Decimal | float) -> str:
    """Write a power in W, from 10 kW on in kW; what is below one watt is left out."""
    whole = Decimal(str(value)).quantize(Decimal(1))
    if abs(whole) < 10_000:
        return f"{number(whole)}{_SPACE}W"
    return f"{number(whole / 1000)}{_SPACE}kW"


def power(value: Decimal | int) -> Markup:
    """Write a power into the group with its direction; the exact value stays in the mark-up."""
    whole = Decimal(value).quantize(Decimal(1))
    direction = " import" if whole > 0 else " export" if whole < 0 else ""
    return Markup('<data value="{}">{}{}</data>').format(value, watts(abs(whole)), direction)


def limit(value: int | None) -> Markup:
    """Write a limit; its direction is said beside it."""
    if value is None:
        return Markup('<span class="muted">no limit</span>')
    return Markup('<data value="{}">{}</data>').format(value, watts(abs(value)))


def age(at: datetime, now: datetime) -> str:
    """Say how long ago (or how far ahead) an instant is."""
    seconds = round((now - at).total_seconds())
    if seconds == 0:
        return "now"
    span = _span(abs(seconds))
    return f"{span}{_SPACE}ago" if seconds > 0 else f"in{_SPACE}{span}"


def lasting(since: datetime, now: datetime) -> str:
    """Say how long something has lasted."""
    return _span(max(round((now - since).total_seconds()), 0))


def _span(seconds: int) -> str:
    if seconds < 120:
        return f"{seconds}{_SPACE}s"
    minutes = seconds // 60
    if minutes < 120:
        return f"{minutes}{_SPACE}min"
    hours = minutes // 60
    if hours < 48:
        rest = f"{_SPACE}{minutes % 60}{_SPACE}min" if minutes % 60 else ""
        return f"{hours}{_SPACE}h{rest}"
    return f"{hours // 24}{_SPACE}days"


def clock(at: datetime, now: datetime) -> str:
    """Write an instant as a time of day, with its date when that is not today's; in UTC."""
    at = at.astimezone(UTC)
    if at.date() == now.astimezone(UTC).date():
        return f"{at:%H:%M:%S}"
    return f"{at.day} {at:%b} {at:%H:%M}" if abs((now - at).days) < 300 else f"{at:%Y-%m-%d %H:%M}"


def instant(at: datetime) -> str:
    """Write an instant in full."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def command(given: Mapping[str, Any]) -> str:
    """Say what a device is told. At its door delivering (discharge) is positive."""
    match given:
        case {"kind": "setpoint", "power_w": int(power_w)}:
            return _setpoint(power_w)
        case {"kind": "profile", "points": [_, *_] as points}:
            powers = [power_w for _, power_w in points]
            low, high = number(min(powers)), number(max(powers))
            span = high if low == high else f"{low}–{high}"
            count = "1 point" if len(powers) == 1 else f"{len(powers)} points"
            return f"weekly profile, {span}{_SPACE}W, {count}"
        case {"kind": "release"}:
            return "released: its own control"
    return _compact(given)


def _setpoint(power_w: int) -> str:
    if power_w == 0:
        return f"idle, 0{_SPACE}W"
    return f"{'discharge' if power_w > 0 else 'charge'} {watts(abs(power_w))}"


def reading(device: Device) -> str:
    """Say what a device reads."""
    given = device.reading
    if given is None:
        return ""
    said = []
    match given.get("output_w"):
        case int() | float() as output_w if (
            given.get("soc") is not None or device.type == "battery"
        ):
            said.append(_setpoint(round(output_w)).replace("charge ", "charging "))
        case int() | float() as output_w:
            said.append(f"delivers {watts(output_w)}")
    match given.get("soc"):
        case int() | float() as soc:
            said.append(f"{number(soc)}{_SPACE}% full")
    return ", ".join(said) if said else _compact(given)


def _compact(given: Mapping[str, Any]) -> str:
    text = msgspec.json.encode(given).decode()
    return text if len(text) <= 120 else f"{text[:119]}…"


FILTERS: Final = {
    "age": age,
    "clock": clock,
    "command": command,
    "instant": instant,
    "lasting": lasting,
    "limit": limit,
    "number": number,
    "power": power,
    "reason": reason,
    "watts": watts,
}
GLOBALS: Final = {
    "following": following,
    "health": health,
    "link": link,
    "reading": reading,
    "role": role,
    "stream": stream,
    "values": values,
}
