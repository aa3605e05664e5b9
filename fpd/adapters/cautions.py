"""What the operators of several types of devices should know."""

from typing import Final

KEEPS_ITS_SETPOINT: Final = (
    "keeps its last setpoint for ever: let systemd run `fpd release --after-stop` when the "
    "daemon ends (ExecStopPost in systemd/fpd.service); against a dead machine choose limits "
    "(soc_min, the …_w) so that a setpoint that stays is harmless, or run `fpd release` "
    "elsewhere too"
)
