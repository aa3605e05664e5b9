"""What Reengen's units are in ours: `definition.unit.code` is always read (devices §3.3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

_PREFIXES: Final[Mapping[str, str]] = {
    "": "1",
    "m": "0.001",
    "k": "1000",
    "M": "1000000",
    "G": "1000000000",
}
_BASES: Final = ("Wh", "varh", "VAh", "W", "var", "VA", "V", "A", "Hz")
_EXACT: Final[Mapping[str, tuple[str, str]]] = {
    f"{prefix}{base}": (base, factor) for base in _BASES for prefix, factor in _PREFIXES.items()
} | {
    "%": ("%", "1"),
    "°C": ("°C", "1"),
    "C": ("°C", "1"),
    "m3": ("m³", "1"),
    "m³": ("m³", "1"),
    "l": ("m³", "0.001"),
    "L": ("m³", "0.001"),
}
# In any other case only what can mean nothing else: "MWH" may be milli or mega.
_ANY_CASE: Final[Mapping[str, tuple[str, str]]] = {
    name.lower(): known for name, known in _EXACT.items() if name[0] not in "mM" or name == "m³"
}

# What an aggregate of a measurement is asked for in, if nobody says.
USUAL: Final[Mapping[str, str]] = {
    "activeEnergy": "Wh",
    "reactiveEnergy": "VArh",
    "capacitiveEnergy": "VArh",
    "inductiveReactiveEnergy": "VArh",
    "activePower": "W",
    "voltage": "V",
    "current": "A",
}


@dataclass(frozen=True, slots=True)
class Unit:
    """A value in it times `factor` is in `base`: Wh, varh, W, V, A, …"""

    base: str
    factor: Decimal


def unit(code: str | None) -> Unit | None:
    """Return what a unit is, None for one that we do not know.

    >>> unit("kWh"), unit("KVARH"), unit("mwh")
    (Unit(base='Wh', factor=Decimal('1000')), Unit(base='varh', factor=Decimal('1000')), None)
    """
    text = (code or "").strip()
    found = _EXACT.get(text) or _ANY_CASE.get(text.lower())
    return None if found is None else Unit(found[0], Decimal(found[1]))


def factor(code: str | None, wanted: str | None) -> Decimal | None:
    """Return what a value in `code` is multiplied with to be in `wanted` (None: in its base).

    None where one is not the other. A value without a unit counts as being in the one wanted.

    >>> factor("kWh", None), factor("Wh", "kWh"), factor("Wh", "W"), factor(None, "kWh")
    (Decimal('1000'), Decimal('0.001'), None, Decimal('1'))
    """
    if code is None or not code.strip() or code == wanted:
        return None if wanted is None else Decimal(1)
    have, want = unit(code), unit(code if wanted is None else wanted)
    if have is None or want is None or have.base != want.base:
        return None
    return have.factor if wanted is None else have.factor / want.factor


_NAMES: Final[Mapping[tuple[str, str], str]] = {
    ("activeEnergy", "import"): "wattHours",
    ("activeEnergy", "export"): "wattHoursReverse",
    ("activeEnergy", "produced"): "wattHoursProduced",
    ("reactiveEnergy", "import"): "varHours",
    ("reactiveEnergy", "export"): "varHoursReverse",
    ("inductiveReactiveEnergy", "import"): "varHoursInductive",
    ("capacitiveEnergy", "export"): "varHoursCapacitive",
}
_PHASED: Final = {"activePower": "watts", "voltage": "voltage", "current": "current"}


def property_of(definition: str, variant: str, index: int) -> str:
    """Return what a measurement is called in a datum if the configuration does not say.

    >>> property_of("activeEnergy", "import", 1), property_of("voltage", "phase", 2)
    ('wattHours', 'voltage_b')
    >>> property_of("activePower", "import", 1), property_of("flow", "import", 1)
    ('watts', 'flow')
    """
    known = _NAMES.get((definition, variant)) or _PHASED.get(definition) or definition
    if definition in _PHASED and variant == "phase" and 1 <= index <= 3:
        return f"{known}_{'abc'[index - 1]}"
    return known


def is_register(definition: str) -> bool:
    """Tell whether a measurement counts up: the registers of energies do."""
    return definition.lower().endswith("energy")
