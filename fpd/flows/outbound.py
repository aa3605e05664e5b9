"""One message of ours to one peer, tried once."""

from __future__ import annotations

import time

from fpd.errors import Misconfigured
from fpd.flows.context import Context
from fpd.oscp.client import Answer, Call


async def send(
    context: Context,
    *,
    base_url: str,
    token_sealed: bytes | None,
    operation: str,
    request_id: str,
    correlation_id: str | None = None,
    body: bytes,
    body_sealed: bool = False,
) -> Answer:
    """Open what is sealed, send it, count it. A secret that does not open is an Answer too."""
    vault = context.vault
    started_s = time.monotonic()
    try:
        call = Call(
            base_url=base_url,
            operation=operation,
            token=None if token_sealed is None else vault.unseal(token_sealed).decode(),
            request_id=request_id,
            correlation_id=correlation_id,
            body=vault.unseal(body) if body_sealed else body,
        )
    except Misconfigured as error:
        answer = Answer(None, str(error))
    else:
        answer = await context.peers.send(call)
    context.metrics.messages_out.labels(operation, answer.verdict.value).inc()
    context.metrics.message_s.labels(operation).observe(time.monotonic() - started_s)
    return answer
