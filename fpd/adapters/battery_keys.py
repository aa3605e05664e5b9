"""The keys of a battery in the configuration, and what its operator should know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from fpd.adapters.cautions import KEEPS_IT_IN_MANUAL_MODE, KEEPS_ITS_SETPOINT
from fpd.adapters.storage_keys import SOC_IN_ORDER, StorageDevice
from fpd.config_key import Together, key


@dataclass(frozen=True, slots=True, kw_only=True)
class BatteryDevice(StorageDevice):
    api: Literal["v1", "v2", "auto"] = key(
        "v1", "v1: port 8080 without token; v2: Auth-Token; auto: whichever answers"
    )
    token: str | None = key(None, "Auth-Token of api v2", secret=True, example="change-me")
    rest: Literal["saved", "mode2", "idle"] = key(
        "saved", "api v2, given back: in the mode it had, in self-consumption, or standing still"
    )


TOGETHER: Final = (
    SOC_IN_ORDER,
    Together(
        frozenset({"api", "token"}),
        "a token beside api v2",
        lambda battery: battery["api"] != "v2" or battery["token"] is not None,
    ),
)


def cautions(device: BatteryDevice) -> list[str]:
    """Return what the operator should know: against a dead machine nothing here can help."""
    return [KEEPS_IT_IN_MANUAL_MODE if device.api == "v2" else KEEPS_ITS_SETPOINT]
