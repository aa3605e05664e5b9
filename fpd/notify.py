"""What systemd is told: ready, alive, stopping (sd_notify(3)); nothing when it did not start us."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping


class Notifier:
    """Sends states to the socket that systemd named in the environment."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watchdog_us = environ.get("WATCHDOG_USEC", "")
        self._for_us = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())

    @property
    def watchdog_s(self) -> float | None:
        """How often systemd wants to hear that we are alive; None when it does not ask."""
        if not self._address or not self._for_us or not self._watchdog_us.isdigit():
            return None
        return int(self._watchdog_us) / 1e6

    def tell(self, state: str) -> None:
        """Send one state, such as "READY=1". Nobody may be listening."""
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.setblocking(False)
            try:
                channel.sendto(state.encode(), self._address)
            except OSError:
                # systemd then misses one of many signs of life, and acts on its own time-out.
                return
