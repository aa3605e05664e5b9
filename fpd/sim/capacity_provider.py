"""A simulated Capacity Provider: registers, shakes hands, sends limits, takes measurements."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from http import HTTPStatus

from fpd.sim.answers import wrong
from fpd.sim.journal import Clock
from fpd.sim.peer import Message, Peer
from fpd.sim.peer_options import PeerOptions, PeerQuirks

_PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0)
_ACKNOWLEDGE_WITHIN_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityProviderOptions(PeerOptions):
    """What a Capacity Provider can be told."""


class CapacityProvider(Peer[PeerQuirks]):
    """The grid operator's side (operations 1, 4, 7, 12, 14, 19-22 of the reference)."""

    role = "capacity-provider"
    segment = "cp"

    def __init__(self, options: CapacityProviderOptions, *, clock: Clock) -> None:
        super().__init__(options, clock=clock, quirks=PeerQuirks)
        self.receivers |= {
            ("POST", "adjust_group_capacity_forecast"): self._receive_wish,
            ("POST", "group_capacity_compliance_error"): self._receive_compliance_error,
        }

    async def connect(self) -> None:
        """Register, if not yet done, and shake hands until that is acknowledged."""
        await super().connect()
        for pause_s in _PAUSES_S:
            if self.link.state not in ("registered", "online"):
                return
            outcome, acknowledged = await self.shake_hands(_ACKNOWLEDGE_WITHIN_S, attempts=None)
            repeatable = outcome.accepted or outcome.status == HTTPStatus.FORBIDDEN
            if acknowledged or not repeatable:
                return
            await asyncio.sleep(pause_s)

    async def link_refused(self) -> None:
        await self.fp.handshake()

    def _receive_wish(self, message: Message) -> None:
        """Take an AdjustGroupCapacityForecast: a request only; nothing is granted (4.4.2)."""

    def _receive_compliance_error(self, message: Message) -> None:
        if message.correlation_id not in self.link.forecasts:
            raise wrong(
                HTTPStatus.BAD_REQUEST,
                "X-Correlation-ID shall be the X-Request-ID of an UpdateGroupCapacityForecast",
            )
