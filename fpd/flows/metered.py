"""What a group takes now, as its meter says or the assets that stand in for one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal

from fpd.flows.control_settings import Settings
from fpd.flows.steered import Measured
from fpd.store.control import Latest, Property

_LOST_METER = timedelta(seconds=180)
_MOST_W = Decimal(10**12)  # anybody may publish a datum; beyond this it is nonsense


def measured(
    settings: Settings,
    latest: Mapping[Property, Latest],
    parts: Sequence[tuple[Property, Decimal]],
    *,
    now: datetime,
    patience: timedelta,
    began_at: datetime | None,
) -> Measured:
    """Return what the group takes; a meter without fresh value counts as not known.

    `parts` measure the group together (`properties_of`). `patience`: how old a measurement may be;
    `began_at`: when somebody began to listen.

    Interpretation: of assets that stand in for a meter, one that was never measured takes
    nothing, and one that has fallen silent makes the sum unknown. Without a fresh measurement
    the worst is assumed for three minutes; then the meter is lost, and devices rest rather
    than spend their energy on a guess.
    """
    if settings.flexible:
        return Measured(watts=Decimal(0), detail="capacity scope Flexible")
    found = [(latest.get(property_), factor) for property_, factor in parts]
    heard = [(one, factor) for one, factor in found if one is not None]
    silent = any(now - one.at > patience for one, _ in heard)
    at_meter = settings.meter is not None
    if silent or (at_meter and not heard):
        since = max(
            filter(None, (min((one.at for one, _ in heard), default=None), began_at)), default=now
        )
        lost = now - since > max(_LOST_METER, 2 * patience)
        detail = "the meter is lost" if lost else "assumed: no fresh measurement"
        return Measured(watts=None, at_meter=at_meter, detail=detail, lost=lost)
    watts = sum((one.value * factor for one, factor in heard), Decimal(0))
    return Measured(
        watts=min(max(watts, -_MOST_W), _MOST_W),
        at=max((one.at for one, _ in heard), default=None),
        at_meter=at_meter,
    )
