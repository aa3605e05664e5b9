"""What a device can do when it is told: all that control wants to know about its type.

Sign: at the device's own door, delivered to the site is positive (discharge, generation), taken
from it negative (charge, load). Powers are whole W.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from fpd.domain.control.setpoint import Battery
from fpd.domain.control.ticks import Anchor, Semantics, Week
from fpd.domain.units import Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """Follows a setpoint at once, and what it delivers or takes is energy that it stores.

    What it is told must be holdable for `sustain_s`; a change of at most `deadband_w` is not
    worth a command. `spread`: must it last until a limit ends, too? For a mere wish it goes on in a
    direction for `dwell_s`. `phases` that it is connected to; empty: equally to all of them.
    """

    battery: Battery
    deadband_w: int = 50
    sustain_s: int = 900
    dwell_s: float = 60.0
    spread: bool = True
    phases: tuple[Phase, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Adjustable:
    """Follows a setpoint at once and stores nothing: a load that can be curtailed, a generator.

    It can be told anything from `least_w` to `most_w`; left to itself it does `rest_w`, which
    lies between. A heater of 3 kW: -3000, 0, and -3000.
    """

    least_w: int
    most_w: int
    rest_w: int
    deadband_w: int = 50
    phases: tuple[Phase, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Weekly:
    """Follows a weekly profile; without limits it delivers `base_w` (None: its most).

    `stays`: it goes on with the profile when nobody is there to change it.
    """

    week: Week
    semantics: Semantics
    base_w: int | None = None
    stays: bool = True

    def folded(self) -> Weekly:
        """Return it as one of which nobody knows on which day its week begins."""
        return replace(self, week=replace(self.week, anchor=Anchor.UNKNOWN))


Ability = Storage | Adjustable | Weekly
