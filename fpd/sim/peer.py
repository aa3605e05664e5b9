"""What a simulated Capacity Provider and Capacity Optimizer have in common: an OSCP 2.0 peer.

It takes the reference at its word: what the Flexibility Provider does wrong is refused with the
status that the reference names and logged as `invalid`.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, ClassVar, Generic, TypeVar

import aiohttp
import msgspec
from aiohttp import web

from fpd.sim import oscp_rules, peer_actions
from fpd.sim.answers import Refusal, wrong
from fpd.sim.fp_client import FpClient, Outcome
from fpd.sim.journal import Clock
from fpd.sim.link import load, save
from fpd.sim.peer_options import PeerOptions, PeerQuirks
from fpd.sim.simulator import Simulator

P = TypeVar("P", bound=PeerQuirks)

# Sent a little more often than asked, so that a late one does no harm.
_HEARTBEAT_SHARE = 0.8
_REMEMBERED_REQUESTS = 10_000
_REPLY_WITHIN_S = 30.0
_BEFORE_HANDSHAKE = frozenset({"register", "handshake", "handshake_acknowledge"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message of the FP that passed the checks that all messages share."""

    request: web.Request
    operation: str
    request_id: str
    correlation_id: str
    token: str
    body: Any


Receive = Callable[[Message], None]


class Peer(Simulator[P], Generic[P]):
    """Server and client of one role; subclasses add the operations of theirs to `receivers`."""

    segment: ClassVar[str]

    def __init__(self, options: PeerOptions, *, clock: Clock, quirks: type[P]) -> None:
        super().__init__(options, clock=clock, quirks=quirks)
        self.options = options
        self.link = load(options.state)
        self.link.fp_url = self.link.fp_url or options.fp_url.rstrip("/")
        self.received: Counter[str] = Counter()
        self.fp: FpClient
        self._base_path = options.base_path or f"/oscp/{self.segment}/2.0"
        self._seen: OrderedDict[str, bytes] = OrderedDict()
        self.receivers: dict[tuple[str, str], Receive] = {
            ("POST", "register"): self._receive_register,
            ("PUT", "register"): self._receive_update,
            ("DELETE", "register"): self._receive_unregister,
            ("POST", "handshake_acknowledge"): self._receive_acknowledge,
            ("POST", "heartbeat"): self._receive_heartbeat,
            ("POST", "update_group_measurements"): self._receive_measurements,
            ("POST", "update_asset_measurements"): self._receive_measurements,
        }
        self.actions = peer_actions.actions(self)

    def routes(self) -> Iterable[web.AbstractRouteDef]:
        return (web.route("*", f"{self._base_path}/{{operation}}", self._serve),)

    @property
    def own_url(self) -> str:
        return self.options.public_url.rstrip("/") or f"{self.url}{self._base_path}"

    def state(self) -> dict[str, Any]:
        offline = self.link.state == "online" and self.link.offline(self.clock())
        return {
            "role": self.role,
            "base_url": self.own_url,
            "link": "offline" if offline else self.link.state,
            **self.link.shown(),
            "received": dict(self.received),
            "sent": dict(self.fp.sent),
            "forecasts": self.link.forecasts[-20:],
        }

    async def begin(self) -> None:
        self.fp = FpClient(
            link=self.link,
            journal=self.journal,
            clock=self.clock,
            options=self.options,
            quirks=lambda: self.quirks,
            own_url=lambda: self.own_url,
            changed=self._changed,
            session=aiohttp.ClientSession(),
            sent=Counter(),
        )
        self.spawn(self._keep_alive())
        if self.options.connect and self.link.fp_url:
            self.spawn(self.connect())

    async def end(self) -> None:
        await self.fp.session.close()

    async def connect(self) -> None:
        """Register unless that was done in an earlier life."""
        if self.link.state in ("unregistered", "registering") and self.options.token:
            await self.fp.register(self.options.token, self.link.fp_url, attempts=None)
            await self.changes.until(lambda: self.link.state == "registered", _REPLY_WITHIN_S)

    async def shake_hands(
        self, within_s: float, *, attempts: int | None = 1
    ) -> tuple[Outcome, bool]:
        """Send a Handshake; return the FP's answer and whether its acknowledge came in time."""
        before = self.received["handshake_acknowledge"]
        outcome = await self.fp.handshake(attempts=attempts)
        acknowledged = outcome.accepted and await self.changes.until(
            lambda: self.received["handshake_acknowledge"] > before, within_s
        )
        return outcome, acknowledged

    async def link_refused(self) -> None:
        """Do what a peer does whose heartbeat the FP no longer takes."""

    def _changed(self) -> None:
        save(self.link, self.options.state)
        self.changes.notify()

    async def _keep_alive(self) -> None:
        while True:
            await self.changes.until(self._beats)
            interval_s = self.link.send_interval_s or 0.0
            outcome = await self.fp.heartbeat()
            if outcome.status in (401, 403) and not self.quirks.no_rehandshake:
                await self.link_refused()
            await self._pause(interval_s)

    async def _pause(self, interval_s: float) -> None:
        await self.changes.until(
            lambda: self.link.send_interval_s != interval_s, _HEARTBEAT_SHARE * interval_s
        )

    def _beats(self) -> bool:
        return (
            self.link.state == "online"
            and bool(self.link.send_interval_s)
            and not self.quirks.stop_heartbeats
        )

    async def _serve(self, request: web.Request) -> web.Response:
        operation = request.match_info["operation"]
        receive = self._receiver(request.method, operation)
        token = self._authenticated(request, operation)
        request_id = request.headers.get("X-Request-ID", "")
        if not 0 < len(request_id) <= 255:
            raise wrong(HTTPStatus.BAD_REQUEST, "X-Request-ID is required, at most 255 characters")
        content = await request.read()
        digest = hashlib.sha256(f"{request.method} {operation}\n".encode() + content).digest()
        if not self._is_repetition(request_id, digest):
            self._refuse_before_handshake(operation)
            message = Message(
                request=request,
                operation=operation,
                request_id=request_id,
                correlation_id=request.headers.get("X-Correlation-ID", ""),
                token=token,
                body=self._read(request, operation, content),
            )
            receive(message)
            self.received[operation] += 1
            self._note(request_id, digest)
            self._changed()
        return web.Response(status=HTTPStatus.NO_CONTENT)

    def _receiver(self, method: str, operation: str) -> Receive:
        if operation == "heartbeat" and self.quirks.no_heartbeat_endpoint:
            raise Refusal(HTTPStatus.NOT_FOUND, "no heartbeat endpoint")
        receive = self.receivers.get((method, operation))
        if receive is None:
            raise wrong(HTTPStatus.NOT_FOUND, f"a {self.role} does not serve {method} {operation}")
        return receive

    def _authenticated(self, request: web.Request, operation: str) -> str:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Token" or not token:
            raise wrong(HTTPStatus.UNAUTHORIZED, "Authorization must be: Token <token>")
        known = [self.link.inbound_token, self.link.previous_inbound_token]
        if (request.method, operation) == ("POST", "register") and not (
            self.link.first_token_used_up
        ):
            known.append(self.options.issued_token)
        if not any(secrets.compare_digest(token.encode(), k.encode()) for k in known if k):
            raise wrong(HTTPStatus.FORBIDDEN, "unknown token")
        if token == self.link.inbound_token:
            self.link.previous_inbound_token = ""
            self.link.first_token_used_up = bool(self.options.issued_token)
        return token

    def _is_repetition(self, request_id: str, digest: bytes) -> bool:
        seen = self._seen.get(request_id)
        if seen is not None and seen != digest:
            raise wrong(HTTPStatus.BAD_REQUEST, "X-Request-ID reused for another message")
        return seen is not None

    def _note(self, request_id: str, digest: bytes) -> None:
        self._seen[request_id] = digest
        if len(self._seen) > _REMEMBERED_REQUESTS:
            self._seen.popitem(last=False)

    def _refuse_before_handshake(self, operation: str) -> None:
        if operation in _BEFORE_HANDSHAKE:
            return
        if self.link.state != "online":
            raise wrong(HTTPStatus.FORBIDDEN, f"{operation} before the handshake")
        if self.quirks.strict_offline and self.link.offline(self.clock()):
            raise wrong(HTTPStatus.FORBIDDEN, f"{operation} while offline: handshake first")

    def _read(self, request: web.Request, operation: str, content: bytes) -> Any:
        if request.method == "DELETE" and not content:
            return None
        if request.content_type != "application/json":
            raise wrong(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Content-Type must be application/json")
        try:
            body = msgspec.json.decode(content)
        except msgspec.DecodeError as error:
            raise wrong(HTTPStatus.BAD_REQUEST, f"not JSON: {error}") from error
        found = oscp_rules.problems(operation, body)
        if found:
            raise Refusal(HTTPStatus.BAD_REQUEST, "; ".join(found), invalid=tuple(found))
        return body

    def _receive_register(self, message: Message) -> None:
        """Take the FP's reply to our Register, or its own Register when it starts (2.1)."""
        link, base_url = self.link, _base_url(message.body)
        replies = link.state == "registering" and message.token == link.inbound_token
        if replies and message.correlation_id not in link.registers[-1:]:
            raise wrong(
                HTTPStatus.BAD_REQUEST, "X-Correlation-ID must name the Register that this answers"
            )
        if replies and len(message.body["version_url"]) != 1:
            raise wrong(HTTPStatus.BAD_REQUEST, "the reply must name the one selected version")
        link.outbound_token, link.fp_url = message.body["token"], base_url
        link.state = "registered" if replies else "registering"
        if not replies and not self.quirks.no_reply_register:
            self.after_answer(message.request, self._reply_register(message.request_id))

    async def _reply_register(self, request_id: str) -> None:
        outcome = await self.fp.reply_register(request_id)
        if outcome.accepted and self.options.connect:
            await self.connect()

    def _receive_update(self, message: Message) -> None:
        self.link.outbound_token = message.body["token"]
        self.link.fp_url = _base_url(message.body)
        self.link.state = "registered"

    def _receive_unregister(self, message: Message) -> None:
        self.link.state = "unregistered"
        self.link.outbound_token = self.link.inbound_token = self.link.previous_inbound_token = ""
        self.link.offline_mode_at = self.link.send_interval_s = None

    def receive_handshake(self, message: Message) -> None:
        """Take what the FP requires and owe it our acknowledge (2.2)."""
        if self.quirks.refuse_handshake:
            raise Refusal(HTTPStatus.BAD_REQUEST, "these preferences are not for us")
        self._agree(message.body)
        if not self.quirks.no_ack:
            self.after_answer(message.request, _ignoring(self.fp.acknowledge, message.request_id))

    def _receive_acknowledge(self, message: Message) -> None:
        if self.quirks.refuse_ack:
            raise Refusal(HTTPStatus.BAD_REQUEST, "these preferences are not for us")
        if message.correlation_id not in self.link.handshakes:
            raise wrong(HTTPStatus.BAD_REQUEST, "X-Correlation-ID must name a Handshake of ours")
        self._agree(message.body)
        self.link.state = "online"

    def _agree(self, body: dict[str, Any]) -> None:
        behaviour = body.get("required_behaviour", {})
        self.link.send_interval_s = behaviour.get("heartbeat_interval")
        self.link.wanted_by_fp = tuple(behaviour.get("measurement_configuration", ()))
        self.link.offline_mode_at = None

    def _receive_heartbeat(self, message: Message) -> None:
        deadline = oscp_rules.read_instant(message.body["offline_mode_at"])
        if deadline is None or deadline <= self.clock():
            raise wrong(HTTPStatus.BAD_REQUEST, "offline_mode_at must lie in the future")
        self.link.offline_mode_at = deadline

    def _receive_measurements(self, message: Message) -> None:
        if "INTERMITTENT" in self.options.measurement_configuration:
            missing = oscp_rules.without_initial_time(message.body)
            if missing:
                raise Refusal(HTTPStatus.BAD_REQUEST, "; ".join(missing), invalid=tuple(missing))


def _base_url(body: dict[str, Any]) -> str:
    for offered in body["version_url"]:
        if offered["version"] == "2.0":
            return str(offered["base_url"]).rstrip("/")
    raise wrong(HTTPStatus.NOT_IMPLEMENTED, "no common OSCP version: we speak 2.0")


def _ignoring(
    send: Callable[[str], Awaitable[Outcome]], request_id: str
) -> Coroutine[Any, Any, None]:
    async def sending() -> None:
        await send(request_id)

    return sending()
