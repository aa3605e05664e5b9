"""The keys of a [[platform]] of type reengen: what is read, and what it is told of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fpd.config_key import key, required
from fpd.config_myems import Platform

REENGEN_URL = "https://api.reengen.com/api/do/"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReengenStream:
    """One measurement of a point → one property of a datum stream."""

    point: str = required("code of the point", example="xFabrikaTrafo6")
    definition: str = key("activeEnergy", "what is measured: activeEnergy, activePower, voltage, …")
    variant: str = key("import", "import, export, produced or phase")
    index: int = key(1, "which of several, such as the phases of a voltage", minimum=0)
    function: Literal["sum", "avg", "max", "min"] | None = key(
        None, "an aggregate of each resolution (default: the raw rows)", example="avg"
    )
    resolution: Literal["fifteenmin", "hour", "day"] = key("fifteenmin", "of an aggregate")
    column: Literal["original", "value"] | None = key(
        None,
        "of raw rows: the register or the value (default: the register of energies)",
        example="value",
    )
    unit: str | None = key(
        None,
        "unit in the datum (default: Wh, varh, W, V, … as the platform's unit says)",
        example="Wh",
    )
    property_name: str | None = key(
        None,
        "what it is called in the datum (default: by what is measured)",
        key="property",
        example="wattHours",
    )
    user_id: int = key(1, "owner of the datum stream", minimum=1)
    node_id: int = required("node of the datum stream", minimum=1, example=1)
    source_id: str = required("source of the datum stream", example="/site/transformer")

    @property
    def job(self) -> str:
        """The poll that brings it."""
        return f"{self.resolution}/{self.point}" if self.function else f"raw/{self.point}"

    @property
    def key(self) -> tuple[int, int, str]:
        """What names the datum stream (decision D4)."""
        return self.user_id, self.node_id, self.source_id.lstrip("/")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReengenListen:
    """Something of ours that the platform is told: a value imported as a point's, or a flag."""

    of: Literal["datum", "import-limit", "export-limit", "setpoint", "forecast"] = required(
        "what it is told of", example="import-limit"
    )
    group: str | None = key(
        None, "capacity group: of limits and forecasts, its identifier", example="north"
    )
    device: str | None = key(None, "device: of setpoints, its name", example="battery-1")
    user_id: int = key(1, "owner of the group or the datum stream", minimum=1)
    node_id: int | None = key(None, "of datum: node of the stream", minimum=1, example=1)
    source_id: str | None = key(None, "of datum: source of the stream", example="/site/meter")
    property_name: str | None = key(
        None, "of datum: which property", key="property", example="watts"
    )
    point: str = required("code of the point that gets it", example="xFabrikaDepo")
    definition: str = key("activePower", "under which definition it is imported")
    variant: str = key("import", "and which variant")
    index: int = key(1, "and which index", minimum=0)
    multiplier: float = key(1.0, "what W, Wh, … are multiplied with")
    no_limit: float | None = key(
        None, "what is imported where there is no limit (default: nothing)", example=100000.0
    )
    flag: str = key("fpd-forecast", "of forecasts: type of the row in the data-science table")

    @property
    def job(self) -> str:
        """The poll that tells of it."""
        subject = self.group or self.device or f"{self.node_id}/{self.source_id}"
        target = f"{self.point}/{self.definition}/{self.variant}/{self.index}"
        return f"listen/{self.of}/{subject}/{target}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReengenPlatform(Platform):
    name: str = required("what it is called; unique", example="factory")
    base_url: str = key(REENGEN_URL, "address of its API", schemes=("http", "https"))
    tenant: str = required("name of the tenant", example="tenant")
    user: str = required("who logs in", example="fpd")
    password: str = required("its password", secret=True, example="change-me")
    tz: str = key("Europe/Istanbul", "the tenant's time zone", form="zone")
    poll_s: float = key(300.0, "seconds between polls", minimum=0.1)
    max_requests: int = key(1, "polls at once; requests are one at a time", minimum=1, maximum=1)
    overlap_s: float = key(
        7200.0, "what late or corrected rows are looked for in", minimum=0, maximum=604_800
    )
    min_interval_s: float = key(1.0, "from one request to the next", minimum=0, maximum=60)
    timeout_s: float = key(10.0, "how long an answer may take", minimum=0.1, maximum=60)
    backfill_days: float = key(7.0, "how far back is read at first", minimum=0, maximum=4000)
    listen_s: float = key(60.0, "how often it is looked for news to tell", minimum=0.1)
    stream: tuple[ReengenStream, ...] = key((), "what is read, and into which stream it goes")
    listen: tuple[ReengenListen, ...] = key((), "what the platform is told of; nothing by itself")
