"""What the daemon counts, for Prometheus; one registry per process, none global."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_LATENCIES_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """Every series of fpd. Labels are few and bounded: never a token, an address or a free text."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        # doors
        self.requests = Counter(
            "fpd_http_requests", "HTTP requests answered", ["route", "status"], registry=registry
        )
        self.request_s = Histogram(
            "fpd_http_request_seconds",
            "Time to answer",
            ["route"],
            registry=registry,
            buckets=_LATENCIES_S,
        )
        self._answers: dict[tuple[str, int], tuple[Counter, Histogram]] = {}
        self.dropped = Counter(
            "fpd_http_connections_dropped",
            "Connections closed for their slowness (late) or to make room (full)",
            ["reason"],
            registry=registry,
        )
        # protocol
        self.messages_in = Counter(
            "fpd_oscp_messages_received", "OSCP messages accepted", ["operation"], registry=registry
        )
        self.messages_out = Counter(
            "fpd_oscp_messages_sent",
            "OSCP messages tried",
            ["operation", "outcome"],
            registry=registry,
        )
        self.message_s = Histogram(
            "fpd_oscp_message_seconds",
            "Time a peer took to answer",
            ["operation"],
            registry=registry,
            buckets=_LATENCIES_S,
        )
        self.heartbeat_late_s = Histogram(
            "fpd_heartbeat_late_seconds",
            "How late heartbeats to peers leave",
            registry=registry,
            buckets=_LATENCIES_S,
        )
        self.links = Gauge("fpd_peer_links", "Peers by link state", ["link"], registry=registry)
        self.outbox = Gauge("fpd_outbox_pending", "Messages still owed to peers", registry=registry)
        # datum
        self.datum_in = Counter(
            "fpd_datum_received", "Datum taken in", ["door", "outcome"], registry=registry
        )
        self.publications = Counter(
            "fpd_mqtt_published", "MQTT messages acknowledged by the broker", registry=registry
        )
        self.unpublished = Counter(
            "fpd_mqtt_dropped",
            "MQTT messages dropped because they waited too long (old) or were too many (many)",
            ["reason"],
            registry=registry,
        )
        self.measurements = Counter(
            "fpd_measurement_periods",
            "Measurement periods closed",
            ["audience", "outcome"],
            registry=registry,
        )
        self.streams = Gauge(
            "fpd_streams", "Datum streams by health", ["health"], registry=registry
        )
        # control
        self.commands = Counter(
            "fpd_device_commands", "Commands to devices", ["device", "outcome"], registry=registry
        )
        self.device_reading_at = Gauge(
            "fpd_device_reading_timestamp_seconds",
            "Time of a device's last reading",
            ["device"],
            registry=registry,
        )
        self.compliance_errors = Counter(
            "fpd_compliance_errors",
            "Blocks of forecasts that providers were told cannot be kept",
            ["reason"],
            registry=registry,
        )
        self.limit_breaches = Counter(
            "fpd_limit_breaches",
            "Measured violations of the envelope in force",
            ["group", "direction"],
            registry=registry,
        )
        self.discarded = Counter(
            "fpd_device_values_discarded",
            "Values of devices that cannot be true (no number, negative, far above the most)",
            ["device"],
            registry=registry,
        )
        self.account_requests = Gauge(
            "fpd_device_account_requests",
            "Requests of the day to a device service, counted against its quota",
            ["account"],
            registry=registry,
        )
        self.platform_polls = Counter(
            "fpd_platform_polls", "Polls of platforms", ["platform", "outcome"], registry=registry
        )
        self.platform_poll_s = Histogram(
            "fpd_platform_poll_seconds",
            "Time that polls took",
            ["platform"],
            registry=registry,
            buckets=_LATENCIES_S,
        )
        self.platform_datum = Counter(
            "fpd_platform_datum",
            "Datum that polls brought, and values out of limits",
            ["platform", "outcome"],
            registry=registry,
        )
        # process
        self.up = Gauge("fpd_up", "1 while what is named can be used", ["part"], registry=registry)
        self.passes = Counter("fpd_loop_passes", "Passes of the loops", ["loop"], registry=registry)

    def answered(self, route: str, status: int, took_s: float) -> None:
        """Count an answer. Labels are looked up once: that costs more than to count."""
        series = self._answers.get((route, status))
        if series is None:
            series = self.requests.labels(route, str(status)), self.request_s.labels(route)
            self._answers[route, status] = series
        count, seconds = series
        count.inc()
        seconds.observe(took_s)
