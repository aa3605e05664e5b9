"""What several keys of one table of the configuration must keep together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fpd.config import Config, Device, Http, Mqtt, Oscp
from fpd.config_key import Together, both
from fpd.config_myems import MyemsPlatform, PlatformListener, PlatformStream
from fpd.config_reengen import ReengenListen, ReengenPlatform, ReengenStream
from fpd.domain.reengen_units import unit


def _one_job_each(rows: Sequence[PlatformStream | ReengenStream]) -> bool:
    """Tell whether no two polls write one stream: one would take the other's values away."""
    jobs: dict[tuple[int, int, str], str] = {}
    return all(jobs.setdefault(row.key, row.job) == row.job for row in rows)


def written_twice(config: Config) -> Iterator[tuple[str, int, int]]:
    """Yield (who writes it, platform, row) of streams that somebody else writes already.

    A device or another platform: each would take the other's values away.
    """
    writers: dict[tuple[int, int, str], str] = {
        (device.user_id, device.node_id, device.source_id.lstrip("/")): f"device {device.name}"
        for device in config.devices
        if device.node_id is not None and device.source_id is not None
    }
    for number, platform in enumerate(config.platforms):
        rows: Sequence[PlatformStream | ReengenStream] = platform.stream
        for index, row in enumerate(rows):
            own = f"platform {platform.name}"
            if (writer := writers.setdefault(row.key, own)) != own:
                yield writer, number, index


def _names_what(row: Mapping[str, Any]) -> bool:
    needed = {"datum": ("node_id", "source_id", "property_name"), "setpoint": ("device",)}
    return all(row.get(name) is not None for name in needed.get(row["of"], ("group",)))


TOGETHER: Mapping[type, tuple[Together, ...]] = {
    Http: (
        both("tls_cert", "tls_key"),
        Together(
            frozenset({"tls_client_ca", "tls_cert"}),
            "tls_cert beside tls_client_ca",
            lambda http: http["tls_client_ca"] is None or http["tls_cert"] is not None,
        ),
        Together(
            frozenset({"tls_client_auth", "tls_client_ca"}),
            "tls_client_ca beside tls_client_auth = required",
            lambda http: http["tls_client_auth"] == "optional" or http["tls_client_ca"] is not None,
        ),
    ),
    Oscp: (
        both("client_cert", "client_key"),
        Together(
            frozenset({"jwt_issuer", "jwt_jwks_url"}),
            "jwt_issuer beside jwt_jwks_url",
            lambda oscp: oscp["jwt_jwks_url"] is None or oscp["jwt_issuer"] is not None,
        ),
    ),
    Mqtt: (
        Together(
            frozenset({"password", "username"}),
            "username beside password",
            lambda mqtt: mqtt["password"] is None or mqtt["username"] is not None,
        ),
        Together(
            frozenset({"ca_file", "url"}),
            "an mqtts:// url beside ca_file",
            lambda mqtt: mqtt["ca_file"] is None or mqtt["url"].startswith("mqtts://"),
        ),
    ),
    Device: (both("node_id", "source_id"),),
    MyemsPlatform: (
        both("username", "password"),
        Together(
            frozenset({"api_key", "username", "base_url"}),
            "an api_key, or username and password",
            lambda platform: platform["api_key"] is not None or platform["username"] is not None,
        ),
        Together(
            frozenset({"listener", "username", "base_url"}),
            "username and password beside a listener",
            lambda platform: not platform["listener"] or platform["username"] is not None,
        ),
        Together(
            frozenset({"stream", "base_url"}),
            "every stream (node_id, source_id) from one meter, or from points alone",
            lambda platform: _one_job_each(platform["stream"]),
        ),
    ),
    ReengenPlatform: (
        Together(
            frozenset({"stream", "tenant"}),
            "every stream (node_id, source_id) from one point, its raw rows or one resolution",
            lambda platform: _one_job_each(platform["stream"]),
        ),
    ),
    ReengenStream: (
        Together(
            frozenset({"unit", "function"}),
            "a unit that is known, such as Wh, kvarh, W, V, A, % or m³, where we convert",
            lambda row: (
                row["function"] is not None or row["unit"] is None or unit(row["unit"]) is not None
            ),
        ),
    ),
    ReengenListen: (
        Together(
            frozenset({"of", "group", "device", "node_id", "source_id"}),
            "group of limits and forecasts, device of setpoints, node_id, source_id and property "
            "of datum",
            _names_what,
        ),
    ),
    PlatformListener: (
        Together(
            frozenset({"offline_meter", "node_id", "source_id", "group_id"}),
            "node_id and source_id beside offline_meter",
            lambda row: (
                row["offline_meter"] is None
                or (row["node_id"] is not None and row["source_id"] is not None)
            ),
        ),
    ),
    PlatformStream: (
        Together(
            frozenset({"meter", "point", "virtual_meter", "offline_meter", "source_id"}),
            "a meter, a point (of that meter), a virtual_meter or an offline_meter",
            lambda row: (
                [
                    row["meter"] is not None or row["point"] is not None,
                    row["virtual_meter"] is not None,
                    row["offline_meter"] is not None,
                ].count(True)
                == 1
            ),
        ),
        Together(
            frozenset({"hourly", "meter", "point"}),
            "hourly beside a meter, without point",
            lambda row: not row["hourly"] or (row["meter"] is not None and row["point"] is None),
        ),
        Together(
            frozenset({"mqtt", "point"}),
            "a point beside mqtt",
            lambda row: not row["mqtt"] or row["point"] is not None,
        ),
        Together(
            frozenset(
                {"point", "meter", "mqtt", "unit", "property_name", "property_class", "multiplier"}
            ),
            "unit (or property, class and multiplier) of a point that no report names",
            lambda row: (
                row["point"] is None
                or (row["meter"] is not None and not row["mqtt"])
                or row["unit"] is not None
                or None not in (row["property_name"], row["property_class"], row["multiplier"])
            ),
        ),
    ),
}
