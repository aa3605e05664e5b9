"""What the simulated OSCP peers can be told, and how they can misbehave."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from fpd.sim.quirks import Quirks
from fpd.sim.simulator import Options, option


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerOptions(Options):
    fp_url: str = option("", "OSCP base URL of the Flexibility Provider; empty: wait for it")
    token: str = option("", "first token, given to us by the Flexibility Provider", secret=True)
    issued_token: str = option(
        "", "first token that we gave the Flexibility Provider, when it registers", secret=True
    )
    base_path: str = option("", "path of our OSCP base URL (default /oscp/<role>/2.0)")
    public_url: str = option("", "OSCP base URL to tell the Flexibility Provider")
    heartbeat_interval: float = option(60.0, "seconds between the heartbeats we ask for; 0: none")
    measurement_configuration: tuple[Literal["CONTINUOUS", "INTERMITTENT"], ...] = option(
        ("CONTINUOUS",), "asked for in the handshake; may be repeated"
    )
    connect: bool = option(True, "register (and shake hands) at the start, when --fp-url is given")
    state: str = option("", "file that keeps the tokens over a restart")


class PeerQuirks(Quirks, frozen=True, kw_only=True, forbid_unknown_fields=True):
    stop_heartbeats: Annotated[bool, Meta(description="send no heartbeats")] = False
    heartbeat_k: Annotated[
        float, Meta(gt=0, description="offline_mode_at = now + this many intervals")
    ] = 3.0
    no_heartbeat_endpoint: Annotated[bool, Meta(description="answer heartbeats with 404")] = False
    no_correlation: Annotated[
        bool, Meta(description="leave X-Correlation-ID out of our answering messages")
    ] = False
    empty_ack: Annotated[bool, Meta(description="acknowledge a handshake with {}")] = False
    no_ack: Annotated[bool, Meta(description="accept a handshake and never acknowledge it")] = False
    refuse_ack: Annotated[bool, Meta(description="answer a HandshakeAcknowledge with 400")] = False
    refuse_handshake: Annotated[bool, Meta(description="answer a Handshake with 400")] = False
    bare_handshake: Annotated[
        bool, Meta(description="send the behaviour without its required_behaviour wrapper")
    ] = False
    no_reply_register: Annotated[
        bool, Meta(description="accept a registration and never register back")
    ] = False
    strict_offline: Annotated[
        bool, Meta(description="once the FP was offline refuse all but a handshake (403)")
    ] = False
    no_rehandshake: Annotated[
        bool, Meta(description="do not shake hands again when the FP refuses our heartbeat")
    ] = False
