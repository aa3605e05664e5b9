"""What several keys of one table of the configuration must keep together."""

from __future__ import annotations

from collections.abc import Mapping

from fpd.config import Device, Http, Mqtt, Oscp
from fpd.config_key import Together


def _both(first: str, second: str) -> Together:
    return Together(
        frozenset({first, second}),
        f"{first} and {second} together",
        lambda table: (table[first] is None) == (table[second] is None),
    )


TOGETHER: Mapping[type, tuple[Together, ...]] = {
    Http: (
        _both("tls_cert", "tls_key"),
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
        _both("client_cert", "client_key"),
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
    Device: (_both("node_id", "source_id"),),
}
