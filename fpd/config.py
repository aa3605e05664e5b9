"""The configuration as frozen values: what every key is called, means and defaults to.

`fpd.config_file` reads config.toml and the environment into these and reports every fault at
once; nothing else in fpd reads either. Field names are the keys of the file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Literal

from fpd.config_key import key, required
from fpd.config_myems import MyemsPlatform
from fpd.config_reengen import ReengenPlatform

Network = IPv4Network | IPv6Network
JwtAlgorithm = Literal["RS256", "ES256", "PS256"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Http:
    listen: str = key("127.0.0.1:8484", "address and port of every HTTP door", form="host:port")
    public_url: str | None = key(
        None,
        "how peers reach us; told to them at registration (default: http(s)://listen)",
        schemes=("http", "https"),
        example="https://fpd.example.org",
    )
    tls_cert: Path | None = key(
        None,
        "certificate chain (PEM); with tls_key the doors speak HTTPS",
        readable=True,
        example="/etc/fpd/tls.crt",
    )
    tls_key: Path | None = key(None, "private key (PEM)", readable=True, example="/etc/fpd/tls.key")
    tls_client_ca: Path | None = key(
        None,
        "certificate authority (PEM) that peers' client certificates must chain to",
        readable=True,
        example="/etc/fpd/clients-ca.crt",
    )
    tls_client_auth: Literal["optional", "required"] = key(
        "optional", "with tls_client_ca: whether a client without a certificate is let in"
    )
    max_connections: int = key(4000, "open connections; the one idle longest makes room", minimum=1)
    max_connections_per_address: int = key(2000, "of them, from one address", minimum=1)
    max_body_mb: float = key(4.0, "largest request body", minimum=0.001, maximum=1024)
    rate_per_token_s: float = key(
        100.0, "requests a second and credential, or address without", minimum=0.1
    )
    rate_burst: int = key(1000, "requests that may come at once", minimum=1)
    failed_auth_per_min: int = key(
        30, "failed credentials a minute and address, or token", minimum=1
    )

    @property
    def host(self) -> str:
        """The address to bind, without the brackets of an IPv6 literal."""
        return self.listen.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The port to bind."""
        return int(self.listen.rpartition(":")[2])


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    url: str = key(
        "",
        "postgresql:// URL; empty: our own PostgreSQL under data_dir",
        secret=True,
        schemes=("postgresql", "postgres"),
        blank=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscribe:
    topic: str = required("MQTT topic filter of datum streams to take in", form="topic filter")
    format: Literal["datum", "myems"] = key("datum", "how the payload is read")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mqtt:
    url: str = key(
        "",
        "mqtt:// or mqtts:// URL; empty: our own broker on 127.0.0.1",
        schemes=("mqtt", "mqtts"),
        blank=True,
    )
    port: int = key(1883, "port of our own broker; 0: a free one", minimum=0, maximum=65535)
    encoding: Literal["json", "cbor"] = key("json", "how datum are published")
    qos: Literal[0, 1] = key(1, "quality of service of what is published")
    retain: bool = key(False, "ask the broker to keep the last datum of each topic")
    spool: int = key(
        1_000_000, "messages kept for a broker that is away; the oldest go", minimum=1000
    )
    username: str | None = key(
        None, "broker account; of our own broker: who is let in (default: local)", example="fpd"
    )
    password: str | None = key(
        None,
        "its password (default for our own broker: made in data_dir/mqtt.password)",
        secret=True,
        example="change-me",
    )
    ca_file: Path | None = key(
        None,
        "certificate authority for mqtts:// (PEM)",
        readable=True,
        example="/etc/fpd/mqtt-ca.crt",
    )
    instance: str = key(
        "fpd", "name of this daemon in fpd/{instance}/…; each has its own", form="topic level"
    )
    tree_s: float = key(
        2.0, "how often states in fpd/{instance}/… are looked at", minimum=0.2, maximum=3600
    )
    home_assistant: bool = key(False, "announce groups, devices and peers to Home Assistant")
    home_assistant_prefix: str = key("homeassistant", "its discovery prefix", form="topic level")
    subscribe: tuple[Subscribe, ...] = key(
        (Subscribe(topic="node/+/datum/0/#"), Subscribe(topic="node/+/datum")),
        "datum streams to take in",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Oscp:
    heartbeat_interval_s: int = key(
        60, "how often peers are asked to send heartbeats", minimum=1, maximum=86400
    )
    clock_skew_grace_s: float = key(
        5.0, "added to a peer's offline_mode_at before it counts as offline", minimum=0
    )
    require_https: bool = key(True, "refuse peers whose base_url is plain http")
    allowed_networks: tuple[Network, ...] = key(
        (), "private or loopback networks in which peers may live (SSRF guard)"
    )
    ca_file: Path | None = key(
        None,
        "certificate authority that peers' certificates chain to",
        readable=True,
        example="/etc/fpd/peers-ca.crt",
    )
    client_cert: Path | None = key(
        None,
        "certificate chain (PEM) that we show to peers who ask for one",
        readable=True,
        example="/etc/fpd/client.crt",
    )
    client_key: Path | None = key(
        None, "its private key (PEM)", readable=True, example="/etc/fpd/client.key"
    )
    jwt_issuer: str | None = key(
        None,
        "issuer (iss) whose bearer tokens peers may present in place of OSCP's own",
        schemes=("https", "http"),
        example="https://auth.example.org/realms/oscp",
    )
    jwt_jwks_url: str | None = key(
        None,
        "where its keys are (default: jwt_issuer/.well-known/jwks.json)",
        schemes=("https", "http"),
        example="https://auth.example.org/realms/oscp/certs",
    )
    jwt_audience: str | None = key(
        None, "audience (aud) that they must name (default: any)", example="fpd"
    )
    jwt_leeway_s: int = key(30, "clock difference to the issuer", minimum=0, maximum=600)
    jwt_algorithms: tuple[JwtAlgorithm, ...] = key(
        ("RS256", "ES256", "PS256"), "signatures that are accepted"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurements:
    settle_s: float = key(2.0, "wait for late datum after a period's end", minimum=0, maximum=900)
    correction_window_s: int = key(
        3600, "late datum re-report a period this long", minimum=0, maximum=604_800
    )
    spool_s: int = key(
        86_400, "what could not be reported is kept this long", minimum=3600, maximum=604_800
    )
    average: Literal["time-weighted", "mean"] = key(
        "time-weighted", "Average over time, or the plain mean of the readings"
    )
    hold_s: int = key(900, "how long a value counts into the next period", minimum=0, maximum=86400)
    neighbour_s: int = key(
        86_400, "how far from a period's edge a register may be read", minimum=60, maximum=604_800
    )
    retention_days: int = key(400, "how long datum are kept", minimum=1)
    stream_rate_s: float = key(100.0, "datum a second of one stream by MQTT or HTTP", minimum=0.01)
    stream_burst: int = key(100_000, "datum of it at once, saved up while cut off", minimum=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expect:
    source_id: str = required("source ids; * ? ** are wildcards", example="/load/**")
    cadence_s: float = key(60.0, "usual seconds from one datum to the next", minimum=0.001)


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    stale_after: float = key(5.0, "a stream is stale after so many of its usual gaps", minimum=1)
    least_s: float = key(60.0, "no stream is stale sooner", minimum=1)
    frozen_s: float = key(86400.0, "a stream that says the same so long is frozen", minimum=60)
    expect: tuple[Expect, ...] = key((), "usual gaps that are not to be learned from datum")


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    own_datum_days: int = key(400, "datum that fpd makes of peers' messages", minimum=1)
    forecasts_days: int = key(400, "forecasts that have ended", minimum=1)
    messages_days: int = key(30, "messages to peers, once settled", minimum=1)
    events_days: int = key(400, "events", minimum=1)
    control_days: int = key(400, "envelopes and commands to devices", minimum=1)
    plans_days: int = key(2, "plans; the newest of a group stays", minimum=1)
    publications_days: int = key(7, "what waits for the broker to be published", minimum=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    interval_s: float = key(10.0, "seconds between control ticks", minimum=0.1, maximum=3600)
    load_history_weeks: int = key(
        4, "weeks of which the same weekday and time tell the load to expect", minimum=1, maximum=52
    )
    cells_count_on_load: bool = key(
        False, "fuel cells may exceed the export limit by the least load expected"
    )
    plan_end_soc: float | None = key(
        None,
        "% that batteries should hold at the end of a plan (default: what they hold now)",
        minimum=0,
        maximum=100,
        example=50.0,
    )
    plan_time_limit_s: float = key(
        5.0, "a plan that takes longer is made by arithmetic", minimum=0.1
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    level: Literal["debug", "info", "warning", "error"] = key("info", "least level that is logged")
    format: Literal["console", "json"] = key("console", "for people or for machines")


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """What every device has (decision D1). `fpd.adapters` knows the types."""

    name: str = required("how groups' assets refer to the device; unique", example="device-1")
    type: str = required("what it is")
    user_id: int = key(1, "owner of the device's datum stream", minimum=1)
    node_id: int | None = key(None, "node of the device's datum stream", minimum=1, example=1)
    source_id: str | None = key(
        None, "source of the device's datum stream", example="/site/device-1"
    )
    base_url: str = required(
        "address of the device's service",
        schemes=("http", "https"),
        example="https://device.example.org",
    )
    stale_after_s: float = key(60.0, "older readings are not trusted for control", minimum=1)


Anchor = Literal["UNKNOWN", "MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BluegenDevice(Device):
    username: str = required("customer account of the web service", example="customer")
    password: str = required(
        "its password; with stored_ciphertext what fpd bluegen encrypt printed",
        secret=True,
        example="change-me",
    )
    password_mode: Literal["plain", "encrypt_at_login", "stored_ciphertext"] = key(
        "plain", "how it is kept and sent: as it is, encrypted at each login, or encrypted for good"
    )
    key_issued_on: str | None = key(
        None,
        "issuedon of the key that a stored_ciphertext was encrypted with",
        example="2026-01-31 12:00:00",
    )
    rsa_padding: Literal["pkcs1v15", "oaep_sha1"] = key(
        "pkcs1v15", "how the password is padded when it is encrypted"
    )
    unit_id: int = required("which unit of the account", minimum=0, example=1)
    ca_file: Path | None = key(
        None,
        "certificate authority of the web service (PEM)",
        readable=True,
        example="/etc/fpd/bluegen-ca.crt",
    )
    week_anchor: Anchor = key(
        "UNKNOWN", "day on which the profile week starts; UNKNOWN folds all days into one"
    )
    week_tz: str = key("UTC", "zone in which that day begins", form="zone")
    timestamps_tz: str = key(
        "utc",
        "zone of the service's timestamps: utc, unit (as the unit says), or one by name",
        form="stamp zone",
    )
    profile_semantics: Literal["any", "step", "step_lag", "linear"] = key(
        "any", "how the unit reads a profile between two points"
    )
    slew_minutes: int = key(1, "minutes that the limits' slew rates refer to", minimum=1)
    base_power_w: int | None = key(
        None, "output without a forecast, W (default: maxpower)", minimum=0, example=1500
    )
    send_content_md5: bool = key(True, "send the documented Content-MD5 header")
    numbers_as: Literal["string", "number"] = key("string", "how ticks and powers are sent")
    token_margin_s: int = key(300, "renew the login this long before it ends", minimum=0)
    token_default_s: int = key(3300, "life of a login that does not tell", minimum=1)
    delivery_lead_s: float = key(
        3600.0,
        "a profile takes up to this long to reach its unit; seen by twice this, or alarm",
        minimum=0,
    )
    restore: Literal["original", "base"] = key(
        "original", "without a limit: the profile that was there before ours, or a flat one"
    )
    revert_on_stop: bool = key(
        False, "give it back when the daemon stops, too; a profile else goes on being followed"
    )
    poll_s: float = key(300.0, "seconds between readings, at least", minimum=0.1)
    polling: Literal["adaptive", "fixed"] = key(
        "adaptive", "read once after each report of the unit, as learned, or every poll_s"
    )
    quota_per_day: int | None = key(
        None,
        "requests a day that the service grants (default: learned when it is used up)",
        minimum=1,
        example=1000,
    )
    quota_reset_hour: int = key(
        0, "hour, UTC, at which the day's quota is renewed", minimum=0, maximum=23
    )
    stale_after_s: float = key(7200.0, "older readings are not trusted for control", minimum=1)


AnyPlatform = MyemsPlatform | ReengenPlatform
PLATFORM_TYPES: dict[str, type[AnyPlatform]] = {"myems": MyemsPlatform, "reengen": ReengenPlatform}


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    data_dir: Path = required(
        "our own PostgreSQL and keys (default: $STATE_DIRECTORY, else the user's data folder)",
        example="/var/lib/fpd",
    )
    key_file: Path | None = key(
        None,
        "key that encrypts stored secrets, made at the first start (default: data_dir/fpd.key)",
        example="/var/lib/fpd/fpd.key",
    )
    http: Http = field(default_factory=Http)
    database: Database = field(default_factory=Database)
    mqtt: Mqtt = field(default_factory=Mqtt)
    oscp: Oscp = field(default_factory=Oscp)
    measurements: Measurements = field(default_factory=Measurements)
    retention: Retention = field(default_factory=Retention)
    health: Health = field(default_factory=Health)
    control: Control = field(default_factory=Control)
    devices: tuple[Device, ...] = field(
        default=(), metadata={"why": "the devices that fpd drives", "key": "device"}
    )
    platforms: tuple[AnyPlatform, ...] = field(
        default=(), metadata={"why": "the platforms that fpd reads", "key": "platform"}
    )
    log: Log = field(default_factory=Log)

    @property
    def public_url(self) -> str:
        """Where peers reach us, without a trailing slash."""
        if self.http.public_url is not None:
            return self.http.public_url.rstrip("/")
        scheme = "https" if self.http.tls_cert else "http"
        return f"{scheme}://{self.http.listen}"
