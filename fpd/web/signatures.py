"""Who signed a request: SolarNetwork's scheme SNWS2 (decision M12).

Whatever is wrong, the sender hears one and the same sentence.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Final

import structlog
from aiohttp import web

from fpd.errors import Malformed, Unauthenticated
from fpd.flows.context import Context
from fpd.store import accounts
from fpd.web import snws2
from fpd.web.body import LARGE, form_fields, is_form, whole_body
from fpd.web.keys import CONTEXT

log = structlog.get_logger()

REFUSAL: Final = "Authorization: the signature is not accepted"


async def signer(request: web.Request, credential: str) -> accounts.Bearer:
    """Return whose token signed the request. Raises Unauthenticated, and what reading raises."""
    claimed: str | None = None
    try:
        claim = snws2.read(credential)
        claimed = claim.token_id
        return await _judged(request, claim)
    except (snws2.Wrong, Malformed) as error:
        log.debug("signature.refused", token=claimed, reason=str(error))
        raise Unauthenticated(REFUSAL, claimed=claimed) from None


async def _judged(request: web.Request, claim: snws2.Claim) -> accounts.Bearer:
    """Judge what costs little first: the body is read only if it can matter."""
    context = request.app[CONTEXT]
    now = context.clock()
    headers = {name.lower(): request.headers.getall(name) for name in request.headers}
    at = snws2.signed_at(claim, headers, now=now)
    async with context.db.connection() as conn:
        token = await accounts.find_signer(conn, id=claim.token_id)
    if token is None:
        raise snws2.Wrong("the token is unknown or revoked")
    body = await whole_body(request)
    judge = partial(
        _judge,
        request,
        claim,
        at=at,
        headers=headers,
        body=body,
        secret=context.vault.recall(token.secret_sealed),
        hosts=snws2.hosts(headers["host"][0], context.config.http.public_url),
    )
    if len(body) > LARGE:
        await asyncio.to_thread(judge)
    else:
        judge()
    await _note_use(context, token, now)
    return accounts.Bearer(token.user_id, token.token_id, token.admin)


def _judge(
    request: web.Request,
    claim: snws2.Claim,
    *,
    at: datetime,
    headers: dict[str, list[str]],
    body: bytes,
    secret: bytes,
    hosts: Sequence[str],
) -> None:
    said = snws2.Said(
        method=request.method,
        path=request.rel_url.raw_path,
        query=list(request.query.items()),
        headers=headers,
        body=body,
        form=form_fields(body) if is_form(request) else None,
    )
    snws2.check(claim, said, at=at, secret=secret, hosts=hosts)


async def _note_use(context: Context, token: accounts.Signer, now: datetime) -> None:
    if token.last_used_at is None or token.last_used_at <= now - accounts.NOTED_EVERY:
        async with context.db.connection() as conn:
            await accounts.note_use(conn, id=token.token_id, now=now)
