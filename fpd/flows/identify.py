"""Who sends a request: OSCP's token, or a bearer token of the issuer that we trust."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from fpd.errors import Forbidden, Unauthenticated
from fpd.flows.context import Context
from fpd.flows.lately import Lately
from fpd.flows.registration import sha256
from fpd.flows.together import Together
from fpd.oscp import dialects, headers
from fpd.oscp.dialects import Dialect
from fpd.store import senders
from fpd.store.senders import Bearer

log = structlog.get_logger()

_LATELY_S = 1.0  # so long a changed dialect may go unnoticed; the token itself is judged each time


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """The peer behind a request; equal when it is the same peer. `base_url` as configured.

    `assumed_sha256`: the token was good a moment ago, and is to be judged with the message.
    """

    peer_id: int
    base_url: str | None = field(compare=False)
    dialect: Dialect = field(compare=False)
    assumed_sha256: bytes | None = field(compare=False, default=None)


class Tokens:
    """Looks tokens up; requests that come at the same time share the trip."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._together = Together("tokens", self._find, spawn=context.spawn)
        self._lately: Lately[Bearer] = Lately(_LATELY_S, steady=context.steady)

    def lately(self, token: str) -> tuple[bytes, Bearer] | None:
        """Return whose token this was a moment ago, None if it was not asked for."""
        digest = sha256(token)
        bearer = self._lately.find(digest)
        return None if bearer is None else (digest, bearer)

    async def bearer(self, token: str) -> Bearer:
        """Return whose OSCP token this is; the first use of a new one ends the old ones."""
        digest = sha256(token)
        bearer = await self._together.ask(digest)
        if bearer is None:
            raise Forbidden("the token is not known or no longer valid")
        if bearer.enabled and bearer.offered:
            async with self._context.db.connection() as conn:
                await senders.settle_token(conn, sha256=digest)
        else:
            self._lately.keep(digest, bearer)
        return bearer

    async def _find(self, sha256s: Sequence[bytes]) -> list[Bearer | None]:
        async with self._context.db.connection() as conn:
            now = self._context.clock()
            found = await senders.find_by_tokens(conn, sha256s=set(sha256s), now=now)
        return [found.get(digest) for digest in sha256s]


async def identify(
    context: Context,
    tokens: Tokens,
    request_headers: Mapping[str, str],
    *,
    may_assume: bool = False,
) -> Sender:
    """Return the peer that a request's Authorization proves.

    `may_assume`: who takes the message judges a token that was good a moment ago.

    Raises Unauthenticated when there is none of a kind that we take (decision P13), Forbidden
    when it proves nobody, Unavailable when it cannot be judged now.
    """
    scheme, credential = headers.credential(request_headers)
    digest: bytes | None = None
    if scheme == "token" and may_assume and (known := tokens.lately(credential)):
        digest, bearer = known
    elif scheme == "token":
        bearer = await tokens.bearer(credential)
    elif scheme == "bearer" and context.issuer is not None:
        bearer = await _by_issuer(context, credential)
    else:
        raise Unauthenticated("Authorization: expected 'Token <token>'")
    if not bearer.enabled:
        raise Forbidden("this peer is disabled")
    return Sender(
        peer_id=bearer.peer_id,
        base_url=bearer.base_url,
        dialect=dialects.read(bearer.service_props),
        assumed_sha256=digest,
    )


async def _by_issuer(context: Context, token: str) -> Bearer:
    assert context.issuer is not None
    names = await context.issuer.subjects(token, now=context.clock())
    async with context.db.connection() as conn:
        bearers = await senders.find_by_subject(conn, names=names)
    if len(bearers) > 1:
        log.warning("bearer.ambiguous", peers=[bearer.peer_id for bearer in bearers])
    if len(bearers) != 1:
        raise Forbidden("the bearer token belongs to no peer")
    return bearers[0]
