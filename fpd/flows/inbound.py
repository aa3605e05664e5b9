"""What every inbound message has in common: who said it, and that it counts once."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime

from psycopg import AsyncConnection

from fpd.errors import Forbidden, Malformed
from fpd.flows.context import Context
from fpd.oscp.dialects import STRICT, Dialect
from fpd.store import inbox, peers


@dataclass(frozen=True, slots=True, kw_only=True)
class Inbound:
    """One authenticated request of a peer. `operation` is verb and wire name.

    `body` is in standard form already; `dialect` tells what else is different with this peer.
    `assumed_sha256`: the hash of a token that is to be judged yet.
    """

    peer_id: int
    operation: str
    request_id: str
    correlation_id: str | None
    body: bytes
    dialect: Dialect = STRICT
    assumed_sha256: bytes | None = field(default=None, repr=False)

    @property
    def noted_as(self) -> str:
        """The id under which the message counts once.

        Where an id may come again with other content, that is another message.
        """
        if not self.dialect.lenient_request_id:
            return self.request_id
        return f"{self.request_id} {hashlib.sha256(self.body).hexdigest()}"


@contextlib.asynccontextmanager
async def once(
    context: Context, conn: AsyncConnection, inbound: Inbound, now: datetime
) -> AsyncIterator[peers.Peer | None]:
    """Lend the peer, locked, if the message is new; None if the very same was accepted before.

    Raises Malformed when the request id came before with something else, Forbidden when the
    peer has gone. A refusal inside the block rolls the note back with everything else, so the
    peer may say it again when it may.
    """
    peer = await peers.hear(conn, peer_id=inbound.peer_id, now=now)
    if peer is None or not peer.enabled:
        raise Forbidden("this peer is disabled")
    new = await inbox.accept(
        conn,
        peer_id=inbound.peer_id,
        request_id=inbound.noted_as,
        operation=inbound.operation,
        body=inbound.body,
        now=now,
    )
    if new is None:
        raise Malformed("X-Request-ID reused with other content")
    yield peer if new else None
    if new:
        context.metrics.messages_in.labels(inbound.operation.split()[-1]).inc()
