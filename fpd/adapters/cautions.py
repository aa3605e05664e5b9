"""What the operators of several types of devices should know."""

from typing import Final

_LET_IT_GO: Final = (
    "let systemd run `fpd release --after-stop` when the daemon ends (ExecStopPost in "
    "systemd/fpd.service); against a dead machine choose limits (soc_min, the …_w) so that a "
    "setpoint that stays is harmless, or run `fpd release` elsewhere too"
)
KEEPS_ITS_SETPOINT: Final = f"keeps its last setpoint for ever: {_LET_IT_GO}"
KEEPS_IT_IN_MANUAL_MODE: Final = (
    "keeps its last setpoint in manual mode, unless its firmware ends it by itself: " + _LET_IT_GO
)
