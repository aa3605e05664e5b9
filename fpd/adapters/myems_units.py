"""What MyEMS's free-text units mean (reference: myems §5.2): property, class and multiplier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

Class = Literal["i", "a", "s"]


@dataclass(frozen=True, slots=True)
class Meaning:
    """A value in MyEMS times `multiplier` is `name`, instantaneous, accumulating or status."""

    name: str
    kind: Class
    multiplier: Decimal


_UNITS: Mapping[str, tuple[str, Class, str]] = {
    "W": ("watts", "i", "1"),
    "kW": ("watts", "i", "1000"),
    "MW": ("watts", "i", "1000000"),
    "Wh": ("wattHours", "a", "1"),
    "kWh": ("wattHours", "a", "1000"),
    "MWh": ("wattHours", "a", "1000000"),
    "%": ("soc", "i", "1"),
    "V": ("voltage", "i", "1"),
    "kV": ("voltage", "i", "1000"),
    "A": ("current", "i", "1"),
    "Hz": ("frequency", "i", "1"),
    "℃": ("temp", "i", "1"),
    "°C": ("temp", "i", "1"),
}
# Spellings that can mean nothing else; "mW" could be meant, so case counts elsewhere.
_SPELLINGS = {
    "w": "W",
    "KW": "kW",
    "kw": "kW",
    "Kw": "kW",
    "wh": "Wh",
    "WH": "Wh",
    "KWH": "kWh",
    "KWh": "kWh",
    "kwh": "kWh",
    "kW.h": "kWh",
    "kW·h": "kWh",
    "MWH": "MWh",
}


def meaning(unit: str | None) -> Meaning | None:
    """Return what a unit means, None for one that we do not know.

    >>> meaning("kWh")
    Meaning(name='wattHours', kind='a', multiplier=Decimal('1000'))
    """
    text = (unit or "").strip()
    found = _UNITS.get(_SPELLINGS.get(text, text))
    return None if found is None else Meaning(found[0], found[1], Decimal(found[2]))
