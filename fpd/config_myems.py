"""The keys of [[platform]]: energy platforms that are read, and whose streams are which."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fpd.config_key import key, required


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformStream:
    """One value of the platform → one property of a datum stream.

    `meter` alone is its register, `meter` and `point` a point of it with its history, `point`
    alone a latest value without a time, the others energy per hour.
    """

    meter: int | None = key(None, "id of the meter", minimum=1, example=6)
    point: int | None = key(
        None, "id of the point, of that meter or by itself", minimum=1, example=14
    )
    virtual_meter: int | None = key(
        None, "id of a virtual meter: energy per hour", minimum=1, example=1, instead=True
    )
    offline_meter: int | None = key(
        None, "id of an offline meter: energy per hour", minimum=1, example=1, instead=True
    )
    hourly: bool = key(False, "with meter: the platform's energy per hour, not the register")
    mqtt: bool = key(False, "with point: taken from mqtt_prefix, not asked for")
    user_id: int = key(1, "owner of the datum stream", minimum=1)
    node_id: int = required("node of the datum stream", minimum=1, example=1)
    source_id: str = required("source of the datum stream", example="/site/battery")
    property_name: str | None = key(
        None,
        "what it is called in the datum (default: by its unit)",
        key="property",
        example="watts",
    )
    property_class: Literal["i", "a", "s"] | None = key(
        None, "instantaneous, accumulating, status (default: by its unit)", key="class", example="i"
    )
    unit: str | None = key(
        None, "its unit as the platform writes it; refused when that changes", example="kW"
    )
    multiplier: float | None = key(
        None, "what W, Wh, … are of its unit (default: by its unit)", example=1000.0
    )
    low: float | None = key(
        None, "lower values are dropped and counted, in the platform's unit", example=0.0
    )
    high: float | None = key(
        None, "higher values are dropped and counted, in the platform's unit", example=1000.0
    )

    @property
    def job(self) -> str:
        """The poll that brings it."""
        if self.virtual_meter is not None:
            return f"virtualmeter/{self.virtual_meter}"
        if self.offline_meter is not None:
            return f"offlinemeter/{self.offline_meter}"
        if self.mqtt:
            return "mqtt"
        if self.meter is None:
            return "points"
        return f"hourly/{self.meter}" if self.hourly else f"meter/{self.meter}"

    @property
    def key(self) -> tuple[int, int, str]:
        """What names the datum stream (decision D4)."""
        return self.user_id, self.node_id, self.source_id.lstrip("/")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformListener:
    """What the platform is shown of one capacity group; each part is on its own."""

    group_id: int = required("the capacity group", minimum=1, example=1)
    schedules_of: str | None = key(
        None,
        "whose schedules show the blocks of its forecasts",
        form="owner of schedules",
        example="energystoragecontainers/1",
    )
    peak_type: Literal["toppeak", "onpeak", "midpeak", "offpeak", "deep"] = key(
        "onpeak", "as what they are shown"
    )
    event_command_id: int | None = key(
        None, "command that is sent 1 while a forecast holds, else 0", minimum=1, example=4
    )
    offline_meter: int | None = key(
        None,
        "offline meter that is told each day's energy of node_id, source_id",
        minimum=1,
        example=1,
    )
    user_id: int = key(1, "owner of that datum stream", minimum=1)
    node_id: int | None = key(None, "its node", minimum=1, example=1)
    source_id: str | None = key(None, "its source", example="/site/battery")
    property_name: str = key("wattHours", "its register, Wh", key="property")


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """What every platform has."""

    name: str = required("what it is called; unique", example="site")
    type: str = required("myems or reengen")
    base_url: str = required(
        "address of its API",
        schemes=("http", "https"),
        example="http://myems.example.org/api",
    )
    ca_file: Path | None = key(
        None, "certificate authority of the API (PEM)", readable=True, example="/etc/fpd/ca.crt"
    )
    poll_s: float = key(60.0, "seconds between polls; at least what it acquires in", minimum=0.1)
    max_requests: int = key(2, "requests under way at once", minimum=1, maximum=16)


@dataclass(frozen=True, slots=True, kw_only=True)
class MyemsPlatform(Platform):
    api_key: str | None = key(
        None, "API key: enough to read (default: the account)", secret=True, example="change-me"
    )
    username: str | None = key(None, "administrator: for what an API key may not", example="fpd")
    password: str | None = key(None, "its password", secret=True, example="change-me")
    utc_offset: str = key("+08:00", "MyEMS's utc_offset, without daylight saving", form="offset")
    backfill_days: float = key(
        7.0, "how far back a gap is filled (metertrend); 0: never", minimum=0, maximum=400
    )
    mqtt_prefix: str = key(
        "myems/point/", "topics of values by MQTT: this and the point's id; see [[mqtt.subscribe]]"
    )
    stream: tuple[PlatformStream, ...] = key((), "what is read, and into which stream it goes")
    listener: tuple[PlatformListener, ...] = key((), "what it is shown of capacity groups")
