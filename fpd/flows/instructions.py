"""A user has an optimizer say something to a group's provider: SolarNetwork's `OSCP_v20`.

The operator of an optimizer without OSCP of its own speaks through us: what it says is judged and
owed as if the optimizer had sent it, without a link to the optimizer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import structlog
from psycopg import AsyncConnection

from fpd.errors import FpdError, Malformed, Unknown
from fpd.flows import relay
from fpd.flows.blocks import checked_blocks
from fpd.flows.context import Context
from fpd.flows.inbound import Inbound
from fpd.oscp import messages
from fpd.oscp.headers import new_request_id
from fpd.store import entities, forecasts
from fpd.store import instructions as store
from fpd.store.db import retried
from fpd.store.forecasts import Addressee
from fpd.store.outbox import PassedOn

log = structlog.get_logger()

TOPIC: Final = "OSCP_v20"

Message = messages.AdjustGroupCapacityForecast | messages.GroupCapacityComplianceError

_ACTIONS: Final[Mapping[str, type[Message]]] = {
    "AdjustGroupCapacityForecast": messages.AdjustGroupCapacityForecast,
    "GroupCapacityComplianceError": messages.GroupCapacityComplianceError,
}
_LONGEST: Final = 255
_LONGEST_ERROR: Final = 500
_LONGEST_ID: Final = 18


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """What is to be said: `body` in the name of `optimizer_id` about the group `identifier`.

    `correlation_id` names the forecast that it answers, None: none.
    """

    action: str
    optimizer_id: int
    identifier: str
    body: bytes
    correlation_id: str | None


def read(parameters: Sequence[tuple[str, str]]) -> Instruction:
    """Return what parameters instruct; those of the same name are parts of one text.

    Raises Malformed. Interpretation: parameters that we do not know are left alone.
    """
    texts: dict[str, list[str]] = {}
    for name, value in parameters:
        texts.setdefault(name, []).append(value)
    said = {name: "".join(parts) for name, parts in texts.items()}
    action = _text(said, "action", "OSCP action")
    if action not in _ACTIONS:
        raise Malformed(f"action: expected one of {', '.join(_ACTIONS)}")
    optimizer_id = _text(said, "coId", "capacity optimizer ID")
    if not (optimizer_id.isascii() and optimizer_id.isdecimal()) or len(optimizer_id) > _LONGEST_ID:
        raise Malformed("coId: invalid capacity optimizer ID")
    identifier = _text(said, "cgIdentifier", "group identifier")
    if not said.get("msg"):
        raise Malformed("msg: missing OSCP message")
    correlation_id = _text(said, "correlationId", "") if said.get("correlationId") else None
    return Instruction(
        action=action,
        optimizer_id=int(optimizer_id),
        identifier=identifier,
        body=said["msg"].encode("utf-8", "surrogatepass"),  # then it is no JSON
        correlation_id=correlation_id,
    )


def _text(said: Mapping[str, str], name: str, what: str) -> str:
    text = said.get(name, "")
    if not text:
        raise Malformed(f"{name}: missing {what}")
    if len(text) > _LONGEST or not text.isprintable():
        raise Malformed(f"{name}: expected at most {_LONGEST} printable characters")
    return text


@retried
async def owe(context: Context, *, user_id: int, instruction: Instruction) -> int:
    """Owe the group's provider what is to be said; return the instruction's id.

    Raises Malformed, Unknown and TooLarge when it cannot be said.
    """
    now = context.clock()
    inbound = Inbound(
        peer_id=instruction.optimizer_id,
        operation=f"POST {instruction.action}",
        request_id=new_request_id(),
        correlation_id=instruction.correlation_id,
        body=instruction.body,
    )
    message = messages.decode(instruction.body, _ACTIONS[instruction.action])
    blocks = await checked_blocks(message.forecasted_blocks or ())
    async with context.db.transaction() as conn:
        group = await _group(conn, user_id, instruction, now)
        answered = await _answered(conn, inbound, group, instruction.identifier)
        if isinstance(message, messages.AdjustGroupCapacityForecast):
            if message.group_id != instruction.identifier:
                raise Malformed("group_id: differs from cgIdentifier")
            request_id = await relay.owe_wish(
                conn, inbound, message, group, answered=answered, blocks=blocks, now=now
            )
        elif answered is not None:
            request_id = await relay.owe_error(
                conn, inbound, message, group, answered=answered, blocks=blocks, now=now
            )
        else:
            raise Malformed("correlationId: missing; nothing else says which forecast is meant")
        receiver_id = group.provider_id if answered is None else answered.sender_id
        id = await store.add(
            conn, user_id=user_id, receiver_id=receiver_id, request_id=request_id, now=now
        )
    context.bells.delivery()
    log.info("instruction.owed", id=id, action=instruction.action, peer=receiver_id)
    return id


async def _group(
    conn: AsyncConnection, user_id: int, instruction: Instruction, now: datetime
) -> Addressee:
    """Return the group that is spoken of. Raises Unknown for what the user has not or disabled."""
    optimizer = await entities.find(
        conn, entities.OPTIMIZERS, user_id=user_id, id=instruction.optimizer_id
    )
    if optimizer is None or not optimizer["enabled"]:
        raise Unknown("coId: unknown capacity optimizer")
    group = await relay.group_of(conn, instruction.optimizer_id, instruction.identifier, now)
    if not await entities.exists(conn, entities.GROUPS, user_id=user_id, id=group.group_id):
        raise Unknown("cgIdentifier: the group has just gone")
    provider = await entities.find(conn, entities.PROVIDERS, user_id=user_id, id=group.provider_id)
    if provider is None or not provider["enabled"]:
        raise Unknown("cgIdentifier: the group's capacity provider is disabled")
    if provider["base_url"] is None:
        raise Unknown("cgIdentifier: the group's capacity provider has not registered")
    return group


async def _answered(
    conn: AsyncConnection, inbound: Inbound, group: Addressee, identifier: str
) -> PassedOn | None:
    """Return the forecast that is answered, None when none is named. Raises Unknown.

    Interpretation: the operator may name it as the optimizer was sent it or, because an optimizer
    without a base URL is sent nothing, as the provider did.
    """
    if inbound.correlation_id is None:
        return None
    answered = await relay.answered_forecast(conn, inbound)
    if answered is not None and answered.group_id == group.group_id:
        return answered
    if await forecasts.was_sent(
        conn,
        group_id=group.group_id,
        peer_id=group.provider_id,
        request_id=inbound.correlation_id,
    ):
        return PassedOn(
            group_id=group.group_id,
            identifier=identifier,
            sender_id=group.provider_id,
            sender_request_id=inbound.correlation_id,
        )
    raise Unknown("correlationId: no forecast of this group")


async def decline(context: Context, *, user_id: int, error: FpdError) -> int:
    """Note that an instruction cannot be followed; return its id."""
    told = str(error)[:_LONGEST_ERROR].encode("utf-8", "backslashreplace").decode()
    async with context.db.connection() as conn:
        return await store.decline(
            conn, user_id=user_id, error=told.replace("\0", ""), now=context.clock()
        )
