"""How one peer's OSCP differs from the standard, as data. Strict is the default.

Every difference is a switch in the peer's service properties (`serviceProps` of the management
API), read here once and asked by name everywhere else. A switch that is not set, or whose value
cannot be read, leaves the standard in force.

    | what the peer is sent        | value | effect                                             |
    |------------------------------|-------|----------------------------------------------------|
    | url-paths                    | {…}   | path per message: Heartbeat, Register, …           |
    | handshake-acknowledge-path   | path  | the same for HandshakeAcknowledge alone            |
    | http-headers                 | {…}   | added to every message and to the token request    |
    | oauth-token-url, -client-id, | text  | OAuth 2.0 client credentials in place of our token |
    |   -client-secret, -scope     |       | (the scope may be left out)                        |
    | write-flat-handshake         | flag  | behaviours without `required_behaviour` around     |
    | write-text-capacity          | flag  | capacities as texts                                |
    | write-plain-times            | flag  | `2026-03-12 12:00:00`, in `time-zone` or UTC       |
    | write-unregister-body        | flag  | DELETE register carries a Register                 |

    | measurement-style            | word  | auto, continuous or intermittent                   |
    | group-asset-measurement      | flag  | assets, not groups (default: to optimizers only)   |
    | group-measurement-entries    | word  | summed or per-asset                                |
    | group-combined-asset-id      | text  | all assets of a group as one asset of that id      |
    | measurement-zero-fill        | flag  | zeros where nothing was read                       |
    | measurement-corrections      | word  | same-id, new-id (the first in X-Correlation-ID) or |
    |                              |       | none                                               |

    | what is taken from the peer  | value | effect                                             |
    |------------------------------|-------|----------------------------------------------------|
    | jwt-subject                  | text  | whose bearer token: `{iss}/{sub}` or a client id   |
    | lenient-paths                | flag  | handshake_acknowledgment, …_acknowledgement        |
    | lenient-handshake            | flag  | behaviours without `required_behaviour` around     |
    | lenient-capacity             | flag  | capacities as texts                                |
    | lenient-base-url             | flag  | a base_url relative to the one configured          |
    | time-zone                    | name  | times without a zone are this zone's local times   |
    | lenient-no-request-id        | flag  | X-Request-ID may be missing                        |
    | lenient-request-id           | flag  | X-Request-ID may come again with other content     |
    | lenient-correlation          | flag  | an acknowledge with a wrong or no X-Correlation-ID |
    | lenient-heartbeat            | flag  | a heartbeat ends offline mode, without handshake   |
    | heartbeats                   | none  | none either way: each message is a sign of life    |
    | offline-after-s              | s     | and this long after the last one it is offline     |

    | what passes through          | value | effect                                             |
    |------------------------------|-------|----------------------------------------------------|
    | forward-request-id           | flag  | what is passed on from or to the peer keeps its    |
    |                              |       | X-Request-ID, unless the receiver was sent that id |

A flag is true, "true", "yes", "on" or 1. What such a peer says is put into standard form by
`wording` before anything else sees it, so what is kept and passed on is standard too.
"""

from __future__ import annotations

import math
import zoneinfo
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from fpd.errors import Malformed
from fpd.oscp import segments
from fpd.oscp.headers import CORRELATION_ID, REQUEST_ID

# These say where a message begins and ends, to whom it goes and which one it is.
FRAMING: Final = frozenset(
    {
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "host",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        CORRELATION_ID.lower(),
        REQUEST_ID.lower(),
        segments.COUNT.lower(),
        segments.INDEX.lower(),
    }
)

# SolarNetwork's names in `url-paths`, and Handshake, which we send to optimizers.
PATH_NAMES: Final[Mapping[str, str]] = {
    "AdjustGroupCapacityForecast": "adjust_group_capacity_forecast",
    "GroupCapacityComplianceError": "group_capacity_compliance_error",
    "Handshake": "handshake",
    "HandshakeAcknowledge": "handshake_acknowledge",
    "Heartbeat": "heartbeat",
    "Register": "register",
    "UpdateAssetMeasurements": "update_asset_measurements",
    "UpdateGroupCapacityForecast": "update_group_capacity_forecast",
    "UpdateGroupMeasurements": "update_group_measurements",
}

# How peers in the field spell it (NOWUM/pyoscp; alpibrusl/lex-oscp).
ACKNOWLEDGE_SPELLINGS: Final = ("handshake_acknowledgment", "handshake_acknowledgement")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """The switches of one peer. `paths` are by wire name; see the module for all others."""

    paths: Mapping[str, str] = field(default_factory=dict)
    acknowledge_path: str | None = None
    write_flat_handshake: bool = False
    write_text_capacity: bool = False
    write_plain_times: bool = False
    write_unregister_body: bool = False
    lenient_paths: bool = False
    lenient_handshake: bool = False
    lenient_capacity: bool = False
    lenient_base_url: bool = False
    lenient_no_request_id: bool = False
    lenient_request_id: bool = False
    lenient_correlation: bool = False
    lenient_heartbeat: bool = False
    forward_request_id: bool = False
    zone: zoneinfo.ZoneInfo | None = None
    heartbeats: bool = True
    offline_after: timedelta | None = None

    def path(self, operation: str) -> str:
        """Return what follows the base URL for a message of this wire name."""
        if operation == "handshake_acknowledge" and operation not in self.paths:
            return self.acknowledge_path or f"/{operation}"
        return self.paths.get(operation, f"/{operation}")

    @property
    def rewrites(self) -> bool:
        """Whether what the peer says may have to be put into standard form."""
        return (
            self.lenient_handshake
            or self.lenient_capacity
            or self.lenient_base_url
            or self.zone is not None
        )


STRICT: Final = Dialect()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientCredentials:
    """OAuth 2.0 client credentials (RFC 6749 §4.4) for one peer. `scope` None: not asked for."""

    token_url: str
    client_id: str
    client_secret: str | None = field(repr=False)
    scope: str | None = None
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What the peer's doors want to see beside the message; secret, hence apart from Dialect.

    `credentials` None: the token of the peer's Register is presented.
    """

    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    credentials: ClientCredentials | None = None


PLAIN: Final = Access()


def read(service_props: Mapping[str, Any] | None) -> Dialect:
    """Return the dialect that the service properties describe; they need not hold secrets."""
    if not service_props:
        return STRICT
    values: dict[str, Any] = {}
    for name, switch in _SWITCHES.items():
        given = service_props.get(name)
        if given is None:
            continue
        try:
            values[switch.field] = switch.read(given)
        except Malformed:
            # Stored before the management API knew the switch: `check` refuses it now.
            continue
    return Dialect(**values) if values else STRICT


def read_access(service_props: Mapping[str, Any] | None) -> Access:
    """Return headers and credentials of service properties that have their secrets back."""
    props = service_props or {}
    given = props.get("http-headers")
    headers = {
        name: value
        for name, value in (given.items() if isinstance(given, dict) else ())
        if isinstance(value, str) and name.lower() not in FRAMING
    }
    token_url, client_id = props.get("oauth-token-url"), props.get("oauth-client-id")
    if not token_url or not client_id:
        return Access(headers=headers) if headers else PLAIN
    credentials = ClientCredentials(
        token_url=token_url,
        client_id=client_id,
        client_secret=props.get("oauth-client-secret"),
        scope=props.get("oauth-scope"),
        headers=tuple(headers.items()),
    )
    return Access(headers=headers, credentials=credentials)


def check(name: str, given: Any) -> None:
    """Raise Malformed when `name` is a switch and `given` no value of it."""
    if name in _SWITCHES:
        _SWITCHES[name].read(given)
    elif name in _REPORTING:
        _REPORTING[name](given)


@dataclass(frozen=True, slots=True)
class _Switch:
    field: str
    read: Callable[[Any], Any]


def _flag(given: Any) -> bool:
    texts = {"true": True, "yes": True, "on": True, "1": True}
    texts |= {"false": False, "no": False, "off": False, "0": False}
    word = given.strip().lower() if isinstance(given, str) else str(given).lower()
    if word not in texts:
        raise Malformed("expected true or false")
    return texts[word]


def _paths(given: Any) -> dict[str, str]:
    if not isinstance(given, dict):
        raise Malformed("expected an object")
    return {
        PATH_NAMES[name]: _path(path)
        for name, path in given.items()
        if name in PATH_NAMES and path is not None
    }


def _path(given: Any) -> str:
    # Appended to the base URL: without the slash it could continue the host's name.
    usable = isinstance(given, str) and given.startswith("/") and given.isprintable()
    if not usable or " " in given:
        raise Malformed("expected a path that starts with /")
    return str(given)


def _zone(given: Any) -> zoneinfo.ZoneInfo:
    try:
        return zoneinfo.ZoneInfo(given)
    except (TypeError, ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
        raise Malformed('expected the name of a time zone such as "Europe/Amsterdam"') from None


def _heartbeats(given: Any) -> bool:
    if given not in ("none", "standard"):
        raise Malformed('expected "none" or "standard"')
    return bool(given == "standard")


def _duration(given: Any) -> timedelta:
    """Return seconds, a week at most."""
    number = isinstance(given, int | float) and not isinstance(given, bool)
    if not number or not math.isfinite(given) or not 1 <= given <= 604_800:
        raise Malformed("expected a number from 1 to 604800")
    return timedelta(seconds=given)


def _flag_or_number(given: Any) -> bool:
    """Interpretation: a number is a flag too, as for SolarNetwork: 0 is false."""
    return bool(given) if isinstance(given, int | float) else _flag(given)


def _one_of(*words: str) -> Callable[[Any], str]:
    def read(given: Any) -> str:
        if given not in words:
            raise Malformed(f"expected one of {', '.join(words)}")
        return str(given)

    return read


def _identifier(given: Any) -> str:
    if not isinstance(given, str) or not 0 < len(given) <= 64:
        raise Malformed("expected a text of 1 to 64 characters")
    return given


# How measurements are reported to the peer: read by who makes the reports.
_REPORTING: Final[Mapping[str, Callable[[Any], Any]]] = {
    "measurement-style": _one_of("auto", "continuous", "intermittent"),
    "group-measurement-entries": _one_of("summed", "per-asset"),
    "group-asset-measurement": _flag_or_number,
    "group-combined-asset-id": _identifier,
    "measurement-zero-fill": _flag,
    "measurement-corrections": _one_of("same-id", "new-id", "none"),
}

_SWITCHES: Final[Mapping[str, _Switch]] = {
    "url-paths": _Switch("paths", _paths),
    "handshake-acknowledge-path": _Switch("acknowledge_path", _path),
    "time-zone": _Switch("zone", _zone),
    "heartbeats": _Switch("heartbeats", _heartbeats),
    "offline-after-s": _Switch("offline_after", _duration),
} | {
    name: _Switch(name.replace("-", "_"), _flag)
    for name in (
        "write-flat-handshake",
        "write-text-capacity",
        "write-plain-times",
        "write-unregister-body",
        "lenient-paths",
        "lenient-handshake",
        "lenient-capacity",
        "lenient-base-url",
        "lenient-no-request-id",
        "lenient-request-id",
        "lenient-correlation",
        "lenient-heartbeat",
        "forward-request-id",
    )
}
