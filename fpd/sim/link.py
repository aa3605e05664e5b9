"""What a simulated peer knows about its link to the Flexibility Provider, and keeps on disk."""

from __future__ import annotations

import os
import secrets
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import msgspec

from fpd.errors import Misconfigured
from fpd.sim.journal import iso, last_four

State = Literal["unregistered", "registering", "registered", "online"]
_REMEMBERED = 500


class Link(msgspec.Struct, kw_only=True):
    """Tokens, agreed settings and what is outstanding.

    `outbound_token` is what we show the FP, `inbound_token` what the FP must show us;
    `previous_inbound_token` lives on until the new one has been used. `first_token_used_up`:
    the token that we gave the FP to register with is dead. `send_interval_s` is how often the
    FP wants our heartbeats, None for never; `offline_mode_at` is the FP's deadline. The lists
    hold the request ids of messages whose answers must name them.
    """

    state: State = "unregistered"
    fp_url: str = ""
    outbound_token: str = ""
    inbound_token: str = ""
    previous_inbound_token: str = ""
    send_interval_s: float | None = None
    offline_mode_at: datetime | None = None
    wanted_by_fp: tuple[str, ...] = ()
    first_token_used_up: bool = False
    registers: list[str] = msgspec.field(default_factory=list)
    handshakes: list[str] = msgspec.field(default_factory=list)
    forecasts: list[str] = msgspec.field(default_factory=list)

    def rotate(self) -> str:
        """Issue the token that the FP has to use from now on."""
        self.previous_inbound_token = self.inbound_token
        self.inbound_token = secrets.token_urlsafe(36)
        return self.inbound_token

    def offline(self, now: datetime) -> bool:
        """Tell whether the FP let its own deadline pass."""
        return self.offline_mode_at is not None and now >= self.offline_mode_at

    def shown(self) -> dict[str, Any]:
        """Return the link for `/_sim/state`, tokens shortened."""
        return {
            "fp_url": self.fp_url,
            "outbound_token": last_four(self.outbound_token),
            "inbound_token": last_four(self.inbound_token),
            "send_interval_s": self.send_interval_s,
            "offline_mode_at": iso(self.offline_mode_at),
            "measurements_wanted_by_fp": self.wanted_by_fp,
        }


_decoder = msgspec.json.Decoder(Link)


def remember(ids: list[str], request_id: str) -> None:
    """Note the id of a message whose answer will name it."""
    ids.append(request_id)
    del ids[:-_REMEMBERED]


def load(file: str) -> Link:
    """Return the link as it was kept in `file`, a new one when there is none."""
    path = Path(file)
    if not file or not path.exists():
        return Link()
    try:
        return _decoder.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError) as error:
        raise Misconfigured(f"{path}: not the state of a simulated peer: {error}") from error


def save(link: Link, file: str) -> None:
    """Keep `link`, tokens included, readable by its owner only; never half a file."""
    if not file:
        return
    path = Path(file)
    written = path.with_name(f"{path.name}.new")
    descriptor = os.open(written, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as open_file:
        open_file.write(msgspec.json.encode(link))
    written.replace(path)
