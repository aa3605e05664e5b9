"""What the BlueGen service answers, read leniently (seed 000; reference: devices §1.3, §1.4).

Numbers come as text, objects come wrapped or not, and table and examples of the manual spell
some keys differently: both are accepted everywhere. What cannot be meant raises Malformed.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from typing import Any

from fpd.domain.control.ticks import UnitLimits
from fpd.domain.lenient import integer, mapping, number, power
from fpd.errors import Malformed

Points = tuple[tuple[int, int], ...]

POWER_EXPORT = "powerexport"
UNDEFINED = "-"
_STATES = {
    "off": "OFF",
    "heat-up": "HEAT_UP",
    "heatup": "HEAT_UP",
    "powerexport": "POWER_EXPORT",
    "selfsustain": "SELF_SUSTAIN",
    "self-sustain": "SELF_SUSTAIN",
    "cooldown": "COOL_DOWN",
    "cool-down": "COOL_DOWN",
}
_LONGEST_FACT = 200
_LAST_EPOCH_S = 253_402_300_800  # the year 10000


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitStatus:
    """`state` in the unit's words; `profiling` False: profiles are ignored; None: not said.

    `tz` is the unit's zone, `group_id` 0 without group.
    """

    state: str
    profiling: bool
    profile_id: int | None
    model: str | None = None
    tz: str | None = None
    group_id: int | None = None

    @property
    def exporting(self) -> bool:
        return _squeezed(self.state) == POWER_EXPORT

    @property
    def dispatchable(self) -> bool:
        """Whether it would follow a profile now."""
        return self.exporting and self.profiling

    @property
    def known(self) -> str:
        """The state in one spelling: one of the documented words, else UNKNOWN."""
        return _STATES.get(_squeezed(self.state), "UNKNOWN")

    @property
    def undefined(self) -> bool:
        return self.state.strip() in ("", UNDEFINED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Power in W or energy in kWh, gas in SLM or kL, at an instant; None where unusable.

    `spoiled`: how many of the two were said, but cannot be true.
    """

    at: datetime | None
    power: float | None
    gas: float | None
    spoiled: int = 0


def units(body: Any) -> dict[int, str]:
    """Return the names of units by their ids, also of a profile's members."""
    key = "members" if "members" in mapping(body) else "units"
    entries = [mapping(entry) for entry in _list(body, key)]
    ids = [integer(entry.get("id")) for entry in entries]
    return {
        unit_id: str(entry.get("name", ""))
        for unit_id, entry in zip(ids, entries, strict=True)
        if unit_id is not None
    }


def unit_status(body: Any) -> UnitStatus:
    """Read `GET /unit/<id>`: `status` may be the wrapper or the state itself."""
    fields = mapping(body)
    if isinstance(fields.get("status"), dict):
        fields = fields["status"]
    state = fields.get("status")
    if not isinstance(state, str):
        raise Malformed("the unit's answer holds no status")
    return UnitStatus(
        state=state,
        profiling=integer(fields.get("pp")) == 1,
        profile_id=integer(fields.get("pid")) or None,
        model=_text(fields.get("model")),
        tz=_text(fields.get("tz")),
        group_id=integer(fields.get("gid")),
    )


def limits(body: Any, *, slew_minutes: int) -> UnitLimits:
    fields = _unwrapped(body, "limits")
    values = [power(fields.get(key)) for key in ("minpower", "maxpower", "slew_up", "slew_dn")]
    least, most, up, down = (Decimal("NaN") if v is None else Decimal(repr(v)) for v in values)
    try:
        return UnitLimits.of(
            minpower=least, maxpower=most, slew_up=up, slew_dn=down, slew_minutes=slew_minutes
        )
    except (ArithmeticError, ValueError, Malformed):
        raise Malformed("the unit's limits are incomplete or impossible") from None


def measured(body: Any, wrapper: str, *, tz: tzinfo = UTC) -> Measured:
    """Read `current` or `acc`; the table calls the time `when`, the example `timestamp`.

    `tz` is the zone of its timestamp, which does not name one. A power that is no number, is
    negative or is more than anything behind a meter delivers is None.
    """
    fields = _unwrapped(body, wrapper)
    if not fields:
        raise Malformed(f"the answer holds no {wrapper}")
    values = {key: _not_negative(fields.get(key)) for key in ("power", "gas")}
    return Measured(
        at=instant(fields.get("timestamp") or fields.get("when"), tz=tz),
        power=values["power"],
        gas=values["gas"],
        spoiled=sum(
            value is None and fields.get(key) not in (None, "") for key, value in values.items()
        ),
    )


def instant(value: object, *, tz: tzinfo = UTC) -> datetime | None:
    """Read `YYYY-MM-DD HH:MM:SS` in `tz` (Interpretation: UTC, since the manual names no zone),
    also with a zone of its own, or as seconds since 1970. 0 and a bare date are no instant.
    """
    seconds = number(value)
    if seconds is not None:
        return _epoch(seconds) if seconds else None
    text = value.strip() if isinstance(value, str) else ""
    if ":" not in text:
        return None
    try:
        read = datetime.fromisoformat(text)
        return (read if read.tzinfo else read.replace(tzinfo=tz)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def assigned_profile(body: Any) -> int | None:
    """Read `GET /unit/<id>/profile`; 0 and nothing mean that none is assigned."""
    return integer(_unwrapped(body, "profile").get("pid")) or None


def profiles(body: Any) -> dict[str, int]:
    """Return the ids of the account's profiles by name."""
    found = {}
    for entry in _list(body, "profiles"):
        fields = mapping(entry)
        profile_id = integer(fields.get("id", fields.get("pid")))
        if profile_id is not None:
            found[str(fields.get("name"))] = profile_id
    return found


def created(body: Any) -> int:
    """Read the id of a new profile: `pid` in the example, `Id` in the table."""
    fields = {key.lower(): value for key, value in mapping(body).items()}
    profile_id = integer(fields.get("pid", fields.get("id")))
    if profile_id is None:
        raise Malformed("the answer names no id for the new profile")
    return profile_id


def profile_name(body: Any) -> tuple[int | None, str | None]:
    """Read the id and the name of `GET /profile/<id>`."""
    fields = _unwrapped(body, "profile")
    return integer(fields.get("id", fields.get("pid"))), _text(fields.get("name"))


def points(body: Any) -> Points:
    """Read the points of `GET /profile/<id>` in the order of ticks."""
    found = []
    for entry in _list(body, "points"):
        fields = mapping(entry)
        tick, power_w = integer(fields.get("tick")), power(fields.get("power"))
        if tick is None or power_w is None:
            raise Malformed("the profile holds a point that is not one")
        found.append((tick, round(power_w)))
    return tuple(sorted(found))


def history(body: Any, *, tz: tzinfo = UTC) -> tuple[Measured, ...]:
    """Return the rows of `GET /unit/<id>/history` that look like `current`, in their order.

    Interpretation: the manual does not show a row; one that has no time is left out.
    """
    rows = (measured(row, "current", tz=tz) for row in _list(body, "data"))
    return tuple(row for row in rows if row.at is not None)


def unit_version(body: Any) -> dict[str, str]:
    """Read `GET /unit/<id>/version`: the versions of its parts, by their names."""
    fields = _unwrapped(body, "version")
    return {f"version {name}": str(value) for name, value in fields.items() if _short(value)}


def parts(body: Any) -> dict[str, int | None]:
    """Read any `version`: the numbers of its parts."""
    fields = _unwrapped(body, "version")
    return {name: integer(value) for name, value in fields.items()}


def location(body: Any) -> dict[str, str]:
    """Read `GET /unit/<id>/location`; `lhv`: lower heating value of the gas, kWh/m³."""
    fields = {name.lower(): value for name, value in mapping(body).items()}
    wanted = ("location", "region", "lhv")
    return {name: str(fields[name]) for name in wanted if _short(fields.get(name))}


def public_key(body: Any) -> tuple[str, str]:
    """Read `GET /customer/pubkey`: the key as it is written, and when it was issued."""
    fields = _unwrapped(body, "pubkey")
    key, issued_on = _text(fields.get("pubkey")), fields.get("issuedon")
    if key is None or issued_on in (None, ""):
        raise Malformed("the answer holds no public key with its date of issue")
    return key, str(issued_on)


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """`life_s`: how long it lasts; `issued_at`: when, by the server's clock; None: unsaid.

    `last_login` is blank at the first one, `tz` the account's zone.
    """

    token: str
    life_s: float | None
    issued_at: datetime | None
    eula_accepted: bool
    last_login: str | None = None
    tz: str | None = None


def login(body: Any, *, now: datetime) -> Login:
    fields = mapping(body)
    token = fields.get("jwt")
    if not isinstance(token, str) or not token:
        raise Malformed("the login's answer holds no token")
    claims = _claims(token)
    ends_at, issued_at = _epoch(claims.get("exp")), _epoch(claims.get("iat"))
    life = None if ends_at is None else ends_at - (issued_at or now)
    return Login(
        token=token,
        life_s=None if life is None or life <= timedelta(0) else life.total_seconds(),
        issued_at=issued_at,
        eula_accepted=str(fields.get("eula")) in ("1", "true", "True"),
        last_login=_text(fields.get("last_login", fields.get("lastlogin"))),
        tz=_text(fields.get("timezone")),
    )


def _claims(token: str) -> dict[str, Any]:
    """Read what a JWT claims; we have no key to verify it with, and only time it."""
    try:
        claims = token.split(".")[1]
        return mapping(json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4))))
    except (IndexError, ValueError, RecursionError):
        return {}


def _epoch(value: object) -> datetime | None:
    seconds = number(value)
    if seconds is None or not 0 <= seconds < _LAST_EPOCH_S:
        return None
    return datetime.fromtimestamp(seconds, UTC)


def _unwrapped(body: Any, wrapper: str) -> dict[str, Any]:
    fields = mapping(body)
    return mapping(fields[wrapper]) if isinstance(fields.get(wrapper), dict) else fields


def _list(body: Any, key: str) -> Iterable[Any]:
    found = mapping(body).get(key) if isinstance(body, dict) else body
    if not isinstance(found, list):
        raise Malformed(f"the answer holds no list of {key}")
    return found


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _short(value: object) -> bool:
    return isinstance(value, int | float | str) and 0 < len(str(value)) <= _LONGEST_FACT


def _not_negative(value: object) -> float | None:
    found = number(value)
    return None if found is None or found < 0 else found


def _squeezed(state: str) -> str:
    return "".join(state.split()).lower()
