"""What every flow may use: wired once in `fpd.app`, handed around explicitly."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from fpd.config import Config
from fpd.flows.holder import own
from fpd.flows.promises import Promises
from fpd.metrics import Metrics
from fpd.mqtt.client import MqttClient
from fpd.oscp.auth import Issuer
from fpd.oscp.client import PeerClient
from fpd.store.db import Database
from fpd.store.vault import Vault


class Spawn(Protocol):
    """Starts work that the app owns: awaited at the end, and a bug in it ends the process."""

    def __call__(self, work: Coroutine[Any, Any, None], *, name: str) -> None: ...


@dataclass(slots=True)
class Bells:
    """Which loop to ring when something was owed to it. Set by the app; until then silent."""

    delivery: Callable[[], None] = field(default=lambda: None)
    settling: Callable[[], None] = field(default=lambda: None)
    publishing: Callable[[], None] = field(default=lambda: None)
    measuring: Callable[[], None] = field(default=lambda: None)
    control: Callable[[], None] = field(default=lambda: None)
    heartbeats: Callable[[], None] = field(default=lambda: None)
    platforms: Callable[[], None] = field(default=lambda: None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """`issuer` None: bearer tokens are not accepted from peers.

    `clock` tells the time, `steady` (s) how much of it has passed, whoever sets the clock.
    `holder` names this process to others that work on the same database.
    """

    config: Config
    clock: Callable[[], datetime]
    db: Database
    vault: Vault
    metrics: Metrics
    peers: PeerClient
    mqtt: MqttClient
    spawn: Spawn
    bells: Bells = field(default_factory=Bells)
    issuer: Issuer | None = None
    steady: Callable[[], float] = time.monotonic
    holder: str = field(default_factory=own)
    tenants: dict[tuple[str, str], Any] = field(default_factory=dict)
    promises: Promises = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "promises", Promises(self.clock, steady=self.steady))
