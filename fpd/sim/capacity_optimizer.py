"""A simulated Capacity Optimizer: takes forecasts and asset data, returns optimum forecasts."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any

from msgspec import Meta

from fpd.sim.answers import wrong
from fpd.sim.journal import Clock
from fpd.sim.peer import Message, Peer
from fpd.sim.peer_options import PeerOptions, PeerQuirks

_LIMITS = ("CONSUMPTION", "GENERATION")


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityOptimizerOptions(PeerOptions):
    """What a Capacity Optimizer can be told."""


class CapacityOptimizerQuirks(PeerQuirks, frozen=True, kw_only=True, forbid_unknown_fields=True):
    answers_optimum: Annotated[
        bool, Meta(description="answer each CONSUMPTION and GENERATION forecast with an OPTIMUM")
    ] = True
    optimum_share: Annotated[
        float, Meta(ge=0, description="the optimum is this share of each block's capacity")
    ] = 0.5


class CapacityOptimizer(Peer[CapacityOptimizerQuirks]):
    """The optimiser's side (operations 3, 6, 9, 11, 16, 18, 21, 22 of the reference)."""

    role = "capacity-optimizer"
    segment = "co"

    def __init__(self, options: CapacityOptimizerOptions, *, clock: Clock) -> None:
        super().__init__(options, clock=clock, quirks=CapacityOptimizerQuirks)
        self.receivers |= {
            ("POST", "handshake"): self.receive_handshake,
            ("POST", "update_group_capacity_forecast"): self._receive_forecast,
        }

    def _receive_forecast(self, message: Message) -> None:
        if message.body["type"] == "OPTIMUM":
            raise wrong(HTTPStatus.BAD_REQUEST, "OPTIMUM forecasts come from us")
        if self.quirks.answers_optimum and message.body["type"] in _LIMITS:
            self.after_answer(message.request, self._send_optimum(message.body, message.request_id))

    async def _send_optimum(self, limits: dict[str, Any], request_id: str) -> None:
        share = self.quirks.optimum_share
        blocks = [
            {**block, "capacity": block["capacity"] * share}
            for block in limits["forecasted_blocks"]
        ]
        await self.fp.forecast(
            {"group_id": limits["group_id"], "type": "OPTIMUM", "forecasted_blocks": blocks},
            correlation_id=request_id,
        )
