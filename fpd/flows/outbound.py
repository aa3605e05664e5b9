"""One message of ours to one peer, in its dialect, tried once."""

from __future__ import annotations

import time

from fpd.errors import Misconfigured
from fpd.flows.context import Context
from fpd.oscp import dialects, wording
from fpd.oscp.client import Answer, Call
from fpd.store.reach import Reach
from fpd.store.service_props import join_secrets

_METHODS = {"unregister": ("DELETE", "register")}


async def send(
    context: Context,
    peer: Reach,
    *,
    operation: str,
    request_id: str,
    correlation_id: str | None = None,
    body: bytes,
    body_sealed: bool = False,
) -> Answer:
    """Open what is sealed, send it, count it. A secret that does not open is an Answer too.

    `operation` is the wire name, or "unregister" for DELETE register.
    """
    started_s = time.monotonic()
    try:
        call = _call(
            context,
            peer,
            operation=operation,
            request_id=request_id,
            correlation_id=correlation_id,
            body=context.vault.unseal(body) if body_sealed else body,
        )
    except Misconfigured as error:
        answer = Answer(None, str(error))
    else:
        answer = await context.peers.send(call)
    context.metrics.messages_out.labels(operation, answer.verdict.value).inc()
    context.metrics.message_s.labels(operation).observe(time.monotonic() - started_s)
    return answer


def _call(
    context: Context,
    peer: Reach,
    *,
    operation: str,
    request_id: str,
    correlation_id: str | None,
    body: bytes,
) -> Call:
    """Raises Misconfigured when a secret does not open."""
    method, name = _METHODS.get(operation, ("POST", operation))
    dialect, access, vault = dialects.read(peer.service_props), dialects.PLAIN, context.vault
    if peer.service_props:
        access = dialects.read_access(join_secrets(peer.service_props, peer.secrets_sealed, vault))
    token = peer.outbound_token_sealed
    return Call(
        base_url=peer.base_url,
        path=dialect.path(name),
        method=method,
        token=None if token is None else vault.recall(token).decode(),
        credentials=access.credentials,
        request_id=request_id,
        correlation_id=correlation_id,
        body=wording.spoken(body, dialect, operation=name),
        headers=access.headers,
    )
