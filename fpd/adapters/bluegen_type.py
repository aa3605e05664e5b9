"""What a BlueGen fuel cell is to the rest of fpd."""

from __future__ import annotations

from typing import Final
from zoneinfo import ZoneInfo

from fpd.adapters.bluegen import Bluegen
from fpd.adapters.device import DeviceType
from fpd.config import BluegenDevice
from fpd.config_key import Together
from fpd.domain.control.ability import Weekly
from fpd.domain.control.ticks import Anchor, Semantics, Week


def weekly(device: BluegenDevice) -> Weekly:
    """Return how the unit reads a profile."""
    return Weekly(
        week=Week(Anchor(device.week_anchor), ZoneInfo(device.week_tz)),
        semantics=Semantics(device.profile_semantics),
        base_w=device.base_power_w,
        stays=not device.revert_on_stop,
    )


_KEY_OF_CIPHERTEXT: Final = Together(
    frozenset({"password_mode", "key_issued_on"}),
    "key_issued_on beside a stored_ciphertext (fpd bluegen encrypt prints both)",
    lambda cell: cell["password_mode"] != "stored_ciphertext" or cell["key_issued_on"] is not None,
)
TYPE: Final = DeviceType(
    keys=BluegenDevice, adapter=Bluegen, ability=weekly, together=(_KEY_OF_CIPHERTEXT,)
)
