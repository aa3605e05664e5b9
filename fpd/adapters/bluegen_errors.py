"""A refusal of the BlueGen service as a fault of the device (reference: devices §1.9)."""

from __future__ import annotations

from fpd.adapters.device import DeviceFault, Health
from fpd.domain.bluegen_errors import Kind, classify, named

__all__ = ["Kind", "Refusal", "classify", "named"]

_HEALTH = {Kind.LATER: Health.UNAVAILABLE, Kind.QUOTA: Health.RATIONED}


class Refusal(DeviceFault):
    """The service said no; `kind` says what that means."""

    def __init__(self, kind: Kind, message: str, *, retry_s: float | None = None) -> None:
        super().__init__(message, retry_s=retry_s)
        self.kind = kind
        self.health = _HEALTH.get(kind, Health.STOPPED)
