"""Outside systems behind one shape: what can be read, what can be told, what they can do.

A new type of devices is one module, with what `fpd.adapters.device.DeviceType` wants to know,
and one line in `TYPES`; nothing else asks what type a device is of.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final

from fpd.adapters import battery, bluegen_type, myems, reengen
from fpd.adapters.device import Adapter, DeviceType, Wiring
from fpd.config import Device
from fpd.domain.control.ability import Ability

TYPES: Final[dict[str, DeviceType[Any]]] = {
    "bluegen": bluegen_type.TYPE,
    "battery": battery.TYPE,
    "myems": myems.TYPE,
    "reengen": reengen.TYPE,
}


def build(devices: Iterable[Device], wiring: Wiring) -> dict[str, Adapter]:
    """Return the adapter of each configured device by its name. Raises Misconfigured."""
    return {device.name: TYPES[device.type].adapter(device, wiring) for device in devices}


@lru_cache(maxsize=4096)
def ability(device: Device) -> Ability:
    """Return what a configured device can do."""
    return TYPES[device.type].ability(device)
