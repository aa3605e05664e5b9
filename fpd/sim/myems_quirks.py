"""What a simulated MyEMS can be told at its start, and what it can do wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta, field

from fpd.sim.mqtt_link import MqttOptions
from fpd.sim.quirks import Quirks
from fpd.sim.simulator import option


@dataclass(frozen=True, slots=True, kw_only=True)
class MyEmsOptions(MqttOptions):
    mqtt_url: str = option("", "its broker (mqtt://…): commands and values go there; empty: none")
    utc_offset: str = option("+08:00", "the server's fixed offset")
    interval_s: float = option(5.0, "seconds between acquired rows")
    lag_s: float = option(0.0, "seconds from a command to what the device does")
    history_h: float = option(2.0, "hours of rows before the start")
    publish_s: float = option(0.0, "publish all values so often, as the MQTT publisher does; 0: no")
    session_s: float = option(28_800.0, "life of a session, from its login")
    api_key: str = option("fpd-key", "the API key that is known", secret=True)
    password: str = option("!MyEMS1", "of administrator, readonly and operator", secret=True)


class MyEmsQuirks(Quirks, frozen=True, kw_only=True, forbid_unknown_fields=True):
    version: Annotated[str, Meta(description="what /version names")] = "6.7.0"
    utc_offset: Annotated[
        str | None, Meta(description="another offset than the one at the start")
    ] = None
    database_down: Annotated[bool, Meta(description="500, or 200 and nothing in it")] = False
    swallows: Annotated[
        tuple[str, ...], Meta(description="200, an empty body and nothing done, on paths with this")
    ] = ()
    api_key_expired: Annotated[bool, Meta(description="the API key has expired")] = False
    demoted: Annotated[bool, Meta(description="the administrator may only read")] = False
    broker: Annotated[
        Literal["ok", "down", "refuses"],
        Meta(description="down: MQTT_CONNECTION_ERROR; refuses: success, and nothing delivered"),
    ] = "ok"
    ignores_commands: Annotated[bool, Meta(description="the device does nothing")] = False
    clamp_kw: Annotated[float | None, Meta(description="most that the battery does")] = None
    acquisition_stopped: Annotated[bool, Meta(description="no new rows come")] = False
    absent: Annotated[tuple[int, ...], Meta(description="points not in pointrealtime")] = ()
    absent_once: Annotated[int, Meta(description="a point that one answer lacks")] = 0
    ahead_s: Annotated[float, Meta(description="stamps lie so far in the future")] = 0.0
    empty_arrays: Annotated[bool, Meta(description="meterrealtime has names and no rows")] = False
    null_meter: Annotated[bool, Meta(description="meterrealtime has nulls for a meter")] = False
    no_trend: Annotated[tuple[int, ...], Meta(description="points with is_trend = false")] = ()
    units: Annotated[
        dict[str, str], Meta(description="units of points that were edited, by id")
    ] = field(default_factory=dict)
    names: Annotated[dict[str, str], Meta(description="names of points, by id")] = field(
        default_factory=dict
    )
    values: Annotated[
        dict[str, float], Meta(description="values of points that stand in for the real ones")
    ] = field(default_factory=dict)
    text_point: Annotated[bool, Meta(description="meter 6 has a TEXT point, id 24")] = False
    hourly_zero: Annotated[bool, Meta(description="hourly energy was never computed")] = False
    stale_trend: Annotated[bool, Meta(description="metertrend comes from a cache")] = False
