"""Units as the platform writes them, as far as it converts between them."""

from __future__ import annotations

_PREFIXES = {"k": 1e3, "M": 1e6, "": 1.0}
_BASES = {"Wh": "Wh", "varh": "varh", "VArh": "varh", "W": "W", "V": "V", "A": "A"}


def _known(unit: str) -> tuple[str, float] | None:
    for base, dimension in sorted(_BASES.items(), key=lambda pair: -len(pair[0])):
        if unit.endswith(base) and unit.removesuffix(base) in _PREFIXES:
            return dimension, _PREFIXES[unit.removesuffix(base)]
    return None


def factor(unit: str, wanted: str) -> float | None:
    """Return what a value is multiplied with; None where one is not the other.

    >>> factor("Wh", "kWh"), factor("VArh", "kvarh"), factor("Wh", "W")
    (0.001, 0.001, None)
    """
    if unit == wanted:
        return 1.0
    have, want = _known(unit), _known(wanted)
    if have is None or want is None or have[0] != want[0]:
        return None
    return have[1] / want[1]
