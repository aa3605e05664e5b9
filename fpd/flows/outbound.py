"""One message of ours to one peer, in its dialect, tried once."""

from __future__ import annotations

import time
from dataclasses import replace

from fpd.errors import Misconfigured
from fpd.flows.context import Context
from fpd.oscp import dialects, messages, wording
from fpd.oscp.client import Answer, Call
from fpd.store.reach import Reach
from fpd.store.service_props import join_secrets

# Shorter values are words that an answer may hold by itself.
_SHORTEST_SECRET = 6
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
    within_s: float | None = None,
) -> Answer:
    """Open what is sealed, send it, count it. A secret that does not open is an Answer too.

    What the peer says of it is told without the secrets in it: some repeat what they refuse.

    `operation` is the wire name, or "unregister" for DELETE register. `within_s`: what it may
    take at most, if less than any message.
    """
    started_s, sent_at = time.monotonic(), context.clock()
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
        answer = await context.peers.send(call, within_s=within_s)
        answer = replace(answer, detail=_without_secrets(answer.detail, call, body_sealed))
    context.metrics.messages_out.labels(operation, answer.verdict.value).inc()
    context.metrics.message_s.labels(operation).observe(time.monotonic() - started_s)
    return replace(answer, sent_at=sent_at)


def _without_secrets(detail: str | None, call: Call, body_sealed: bool) -> str | None:
    """Return what a peer said without our credentials, shortened or not."""
    if detail is None:
        return None
    secrets = [call.token, *call.headers.values()]
    if call.credentials is not None:
        secrets.append(call.credentials.client_secret)
    if body_sealed:
        secrets.append(messages.decode(call.body, messages.Register).token)
    for secret in secrets:
        if secret and len(secret) >= _SHORTEST_SECRET:
            detail = detail.replace(secret, "***")
    return detail


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
        heartbeat=operation == "heartbeat",
        token=None if token is None else vault.recall(token).decode(),
        credentials=access.credentials,
        request_id=request_id,
        correlation_id=correlation_id,
        body=wording.spoken(body, dialect, operation=name),
        headers=access.headers,
    )
