"""How a peer is reached: what every message to it needs beside what it says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """`service_props` are as shown; `secrets_sealed` and the token open with the vault."""

    peer_id: int
    base_url: str
    outbound_token_sealed: bytes | None
    service_props: Mapping[str, Any] | None
    secrets_sealed: bytes | None
