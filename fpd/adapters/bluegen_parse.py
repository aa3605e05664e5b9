"""What the BlueGen service answers, read leniently (seed 000; reference: devices §1.3, §1.4).

Numbers come as text, objects come wrapped or not, and table and examples of the manual spell
some keys differently: both are accepted everywhere.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from fpd.adapters.device import Unreachable
from fpd.adapters.lenient import integer, mapping, number, power
from fpd.domain.control.ticks import UnitLimits
from fpd.errors import Malformed

Points = tuple[tuple[int, int], ...]

POWER_EXPORT = "powerexport"
UNDEFINED = "-"
_LAST_EPOCH_S = 253_402_300_800  # the year 10000


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitStatus:
    """`state` in the unit's words; `profiling` False: profiles are ignored; `profile_id` None:
    not said.
    """

    state: str
    profiling: bool
    profile_id: int | None

    @property
    def exporting(self) -> bool:
        return _squeezed(self.state) == POWER_EXPORT

    @property
    def undefined(self) -> bool:
        return self.state.strip() in ("", UNDEFINED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Power in W or energy in kWh, gas in SLM or kL, at an instant; None where unusable."""

    at: datetime | None
    power: float | None
    gas: float | None


def unit_ids(body: Any) -> tuple[int, ...]:
    ids = (integer(mapping(unit).get("id")) for unit in _list(body, "units"))
    return tuple(unit_id for unit_id in ids if unit_id is not None)


def unit_status(body: Any) -> UnitStatus:
    """Read `GET /unit/<id>`: `status` may be the wrapper or the state itself."""
    fields = mapping(body)
    if isinstance(fields.get("status"), dict):
        fields = fields["status"]
    state = fields.get("status")
    if not isinstance(state, str):
        raise Unreachable("the unit's answer holds no status")
    return UnitStatus(
        state=state,
        profiling=integer(fields.get("pp")) == 1,
        profile_id=integer(fields.get("pid")) or None,
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
        raise Unreachable("the unit's limits are incomplete or impossible") from None


def measured(body: Any, wrapper: str) -> Measured:
    """Read `current` or `acc`; the table calls the time `when`, the example `timestamp`."""
    fields = _unwrapped(body, wrapper)
    return Measured(
        at=instant(fields.get("timestamp", fields.get("when"))),
        power=_not_negative(fields.get("power")),
        gas=_not_negative(fields.get("gas")),
    )


def instant(value: object) -> datetime | None:
    """Read `YYYY-MM-DD HH:MM:SS`, taken as UTC (Interpretation: the manual names no zone)."""
    if not isinstance(value, str):
        return None
    try:
        return datetime.strptime(value, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
    except ValueError:
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
        raise Unreachable("the answer names no id for the new profile")
    return profile_id


def points(body: Any) -> Points:
    """Read the points of `GET /profile/<id>` in the order of ticks."""
    found = []
    for entry in _list(body, "points"):
        fields = mapping(entry)
        tick, power_w = integer(fields.get("tick")), power(fields.get("power"))
        if tick is None or power_w is None:
            raise Unreachable("the profile holds a point that is not one")
        found.append((tick, round(power_w)))
    return tuple(sorted(found))


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """`life_s`: how long it lasts; `issued_at`: when, by the server's clock; None: unsaid."""

    token: str
    life_s: float | None
    issued_at: datetime | None
    eula_accepted: bool


def login(body: Any, *, now: datetime) -> Login:
    fields = mapping(body)
    token = fields.get("jwt")
    if not isinstance(token, str) or not token:
        raise Unreachable("the login's answer holds no token")
    claims = _claims(token)
    ends_at, issued_at = _epoch(claims.get("exp")), _epoch(claims.get("iat"))
    life = None if ends_at is None else ends_at - (issued_at or now)
    return Login(
        token=token,
        life_s=None if life is None or life <= timedelta(0) else life.total_seconds(),
        issued_at=issued_at,
        eula_accepted=str(fields.get("eula")) in ("1", "true", "True"),
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
        raise Unreachable(f"the answer holds no list of {key}")
    return found


def _not_negative(value: object) -> float | None:
    found = number(value)
    return None if found is None or found < 0 else found


def _squeezed(state: str) -> str:
    return "".join(state.split()).lower()
