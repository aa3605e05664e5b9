"""Outside systems behind one shape: what can be read, what can be told.

A new device type is one module with a class and one line in `_FACTORIES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from fpd.adapters.battery import Battery
from fpd.adapters.bluegen import Bluegen
from fpd.adapters.device import Adapter, Wiring
from fpd.config import BatteryDevice, BluegenDevice

_FACTORIES: dict[str, Callable[[Any, Wiring], Adapter]] = {
    "bluegen": Bluegen,
    "battery": Battery,
}


def build(devices: Iterable[BluegenDevice | BatteryDevice], wiring: Wiring) -> dict[str, Adapter]:
    """Return the adapter of each configured device by its name. Raises Misconfigured."""
    return {device.name: _FACTORIES[device.type](device, wiring) for device in devices}
