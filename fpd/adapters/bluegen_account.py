"""One customer account of the BlueGen web service: logged in when needed, by one task at a time.

The units of an account share it, and with it the login, the day's quota and every stop
(reference: devices §1.1, §1.2, §1.9, §1.10).
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime, parsedate_to_datetime
from typing import Any, TypeVar

import structlog

from fpd.adapters.bluegen_errors import Kind, Refusal, classify, named
from fpd.adapters.bluegen_password import encrypted
from fpd.adapters.bluegen_quota import Quota, Tries
from fpd.adapters.device import Clock, Ledger, Tally, Unreachable, Wiring
from fpd.adapters.http import CLOUD_TIMEOUT_S, DeviceHttp, Reply
from fpd.config import BluegenDevice
from fpd.domain import bluegen_answers
from fpd.domain.lenient import mapping
from fpd.errors import Malformed

log = structlog.get_logger()

T = TypeVar("T")

_REFUSED_TWICE_S = 15 * 60.0
_TOO_MANY_ATTEMPTS_S = 6 * 3600.0
_UNTIL_RESTART_S = 30 * 86400.0
_AFTER_RESTART_S = 15 * 60.0
_QUOTA_PROBE_S = 3600.0
_KEY_AGAIN_S = _EULA_AGAIN_S = _LOGIN_AGAIN_S = 3600.0
_SKEW_TOLD_S = 30.0
MOST_SKEW_S, CLOCK_AGAIN_S = 300.0, 300.0
_LOGIN, _BAD_REQUEST = "login", 400


@dataclass(frozen=True, slots=True)
class _Block:
    """Nothing is asked from `since` on before `until`."""

    kind: Kind
    reason: str
    since: datetime
    until: datetime

    def noted(self) -> dict[str, str]:
        return {
            "kind": self.kind.value,
            "reason": self.reason,
            "since": self.since.isoformat(),
            "until": self.until.isoformat(),
        }


class Account:
    """Sends requests as the customer. Raises Refusal, Stopped or Unreachable; returns the rest."""

    def __init__(
        self, device: BluegenDevice, http: DeviceHttp, clock: Clock, ledger: Ledger | None = None
    ) -> None:
        self.eula_accepted = True
        self.skew_s = 0.0
        self.name = f"{device.username}@{device.base_url}"
        self.quota = Quota(
            clock, configured=device.quota_per_day, reset_hour=device.quota_reset_hour
        )
        self._tries = Tries(clock, self.quota)
        self._device = device
        self._http = http
        self._clock = clock
        self._ledger = ledger
        self._recalled = ledger is None
        self._logging_in = asyncio.Lock()
        self._token: str | None = None
        self._renew_at = 0.0
        self._block: _Block | None = None

    async def get(self, path: str, read: Callable[[Any], T]) -> T:
        """Ask and return what `read` makes of the answer; Unreachable if it can make nothing."""
        body = (await self._as_customer("GET", path, b"")).json(lenient=True)
        try:
            return read(body)
        except Malformed as error:
            raise Unreachable(f"{path}: {error}") from None

    async def post(self, path: str, payload: Any) -> Reply:
        return await self._as_customer("POST", path, _encoded(payload))

    async def put(self, path: str) -> Reply:
        return await self._as_customer("PUT", path, b"")

    async def delete(self, path: str) -> Reply:
        return await self._as_customer("DELETE", path, b"")

    async def public_key(self) -> tuple[str, str]:
        """Ask for the key that passwords are encrypted with, and when it was issued."""
        reply = await self._send("GET", "/customer/pubkey", b"", None)
        await self._judged(reply, "pubkey")
        try:
            return bluegen_answers.public_key(reply.json())
        except Malformed as error:
            raise Unreachable(str(error)) from None

    async def _as_customer(self, method: str, path: str, body: bytes) -> Reply:
        """Send with a token; one that is refused is renewed once (class A)."""
        token = await self._ready()
        reply = await self._send(method, path, body, token)
        if not reply.ok and classify(reply.status, reply.text)[0] is Kind.RELOGIN:
            self._tries.failed()
            if self._token == token:
                self._token = None
            reply = await self._send(method, path, body, await self._logged_in())
        return await self._judged(reply, f"{method} {path}")

    async def has_agreed(self) -> bool:
        """Tell whether the customer has agreed to the EULA, as the last login said."""
        await self._ready()
        return self.eula_accepted

    async def _ready(self) -> str:
        """Return a token to send with. Raises DeviceFault while nothing is to be sent."""
        await self.recall()
        await self._check_block()
        self._tries.check()
        return await self._logged_in()

    async def _logged_in(self) -> str:
        """Return a token that is valid for a while. Whoever comes meanwhile waits and shares it."""
        async with self._logging_in:
            if self._token is None or asyncio.get_running_loop().time() >= self._renew_at:
                await self._check_block()
                await self._log_in()
            assert self._token is not None
            return self._token

    async def _log_in(self) -> None:
        credentials = {"username": self._device.username, "password": await self._password()}
        reply = await self._send("POST", "/customer/login", _encoded(credentials), None)
        await self._judged(reply, _LOGIN)
        received = asyncio.get_running_loop().time()
        try:
            login = bluegen_answers.login(reply.json(), now=self._clock())
        except Malformed as error:
            if named(reply.text):
                # Refused, though with a status that says otherwise.
                await self._judged(replace(reply, status=_BAD_REQUEST), _LOGIN)
            raise Unreachable(str(error)) from None
        life_s = self._device.token_default_s if login.life_s is None else login.life_s
        self._token = login.token
        # A token shorter than the margin is used for half its life, not renewed at each request.
        self._renew_at = received + max(life_s - self._device.token_margin_s, life_s / 2)
        if not login.eula_accepted:
            # Only a login tells that the customer has agreed meanwhile.
            self._renew_at = min(self._renew_at, received + _EULA_AGAIN_S)
        self.eula_accepted = login.eula_accepted
        self._compare_clocks(login.issued_at)
        log.info("bluegen.logged_in", life_s=life_s, eula_accepted=login.eula_accepted)

    async def _password(self) -> str:
        """Return what is sent as the password. The key is asked for before each login, as seed 000
        wants it; a stored ciphertext that was made with another key is never sent.
        """
        device = self._device
        if device.password_mode == "plain":
            return device.password
        key, issued_on = await self.public_key()
        if device.password_mode == "stored_ciphertext":
            if issued_on != device.key_issued_on:
                reason = (
                    f"needs_password: the service's key was issued on {issued_on}, the stored "
                    f"password belongs to that of {device.key_issued_on}: run fpd bluegen encrypt"
                )
                # No stop to remember: no login was refused, and the configuration may be mended.
                raise Refusal(Kind.ACCOUNT, reason, retry_s=_KEY_AGAIN_S)
            return device.password
        try:
            return encrypted(device.password, key, device.rsa_padding)
        except Malformed as error:
            raise Unreachable(str(error)) from None

    async def _send(self, method: str, path: str, body: bytes, token: str | None) -> Reply:
        total = None
        if self._ledger is not None:
            total = await self._ledger.count(self.name, day=self.quota.day)
        self.quota.count(total)
        headers = {
            "Accept": "application/json",
            "Date": format_datetime(self._clock().astimezone(UTC), usegmt=True),
        }
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        if method in ("POST", "PUT"):
            headers["Content-Type"] = "application/json"
        if method == "POST" and self._device.send_content_md5:
            digest = hashlib.md5(body, usedforsecurity=False).digest()
            headers["Content-MD5"] = base64.b64encode(digest).decode()
        try:
            reply = await self._http.request(method, path, headers=headers, body=body)
        except Unreachable:
            self._tries.failed()
            raise
        self._compare_clocks(_date(reply.date))
        if classify(reply.status, reply.text)[0] is Kind.QUOTA:
            if self._block is None or self._block.kind is not Kind.QUOTA:
                self.quota.used_up()
            await self._stop_for_quota(reply)
        return reply

    async def _judged(self, reply: Reply, what: str) -> Reply:
        """Return a success; raise what a refusal means, and remember it if it is the account's."""
        kind, said = classify(reply.status, reply.text)
        match kind:
            case Kind.DONE:
                self._tries.succeeded()
                return reply
            case Kind.LATER:
                self._tries.failed()
                raise Unreachable(said)
            case Kind.BUG | Kind.STOP if abs(self.skew_s) > MOST_SKEW_S:
                # Dates that are wrong are refused, whatever that is called.
                raise Refusal(kind, f"{said}: {self.skew}", retry_s=CLOCK_AGAIN_S)
            case Kind.RELOGIN | Kind.BUG | Kind.STOP if what == _LOGIN:
                # Interpretation: a login that is refused without a documented name may count as
                # a wrong password, so it is not tried as often as a request.
                raise await self._stop(kind, f"{said} at login", _LOGIN_AGAIN_S)
            case Kind.RELOGIN:
                raise await self._stop(kind, f"{said} again after a new login", _REFUSED_TWICE_S)
            case Kind.ACCOUNT:
                reason = f"{said}: look at the account, then fpd bluegen unlock"
                raise await self._stop(kind, reason, _UNTIL_RESTART_S)
            case Kind.ATTEMPTS:
                raise await self._stop(kind, said, _TOO_MANY_ATTEMPTS_S)
            case Kind.QUOTA:
                raise self._refused_by_block()
        if kind is Kind.BUG:
            log.error("bluegen.request_refused", request=what, reason=said)
        raise Refusal(kind, said)

    async def _stop(self, kind: Kind, reason: str, pause_s: float) -> Refusal:
        now = self._clock()
        self._block = _Block(kind, reason, now, now + timedelta(seconds=pause_s))
        if kind is not Kind.QUOTA:
            self._token = None
        log.warning("bluegen.account_stopped", reason=reason, pause_s=round(pause_s))
        await self._note()
        return Refusal(kind, reason, retry_s=pause_s)

    async def _stop_for_quota(self, reply: Reply) -> None:
        """Wait for the next hour or the next day's quota, whatever is nearer."""
        reason = f"quota_exhausted: {classify(reply.status, reply.text)[1]}"
        await self._stop(Kind.QUOTA, reason, min(_QUOTA_PROBE_S, self.quota.until_renewed_s()))

    async def _check_block(self) -> None:
        """Keep quiet while the account is stopped: every further try makes it worse."""
        if self._block is None:
            return
        if self._clock() < self._block.until:
            if not await self._is_unlocked():
                raise self._refused_by_block()
            self._block = None
            return
        if self._block.kind is Kind.QUOTA:
            await self._probe_quota()
        self._block = None
        await self._note()

    async def _is_unlocked(self) -> bool:
        """Tell whether an operator has lifted the stop meanwhile, by a command beside us."""
        tally = await self._relearned()
        return tally is not None and bool(tally.notes) and tally.notes.get("stop") is None

    async def spares_telemetry(self) -> bool:
        """Tell whether the day's quota leaves anything for telemetry; an operator may have lifted
        what was learned of it.
        """
        if not self.quota.telemetry:
            await self._relearned()
        return self.quota.telemetry

    async def _relearned(self) -> Tally | None:
        tally = None if self._ledger is None else await self._ledger.recall(self.name)
        if tally is not None:
            self._learn(tally)
        return tally

    async def _probe_quota(self) -> None:
        """Ask once for what needs no login, since logins count too. Raises Refusal if used up."""
        reply = await self._send("GET", "/customer/pubkey", b"", None)
        if classify(reply.status, reply.text)[0] is Kind.QUOTA:
            raise self._refused_by_block()
        if self._block is not None and self.quota.day_of(self._block.since) == self.quota.day:
            self.quota.learned = None  # it was renewed at another time than we thought

    def _refused_by_block(self) -> Refusal:
        assert self._block is not None
        left_s = (self._block.until - self._clock()).total_seconds()
        return Refusal(self._block.kind, self._block.reason, retry_s=max(left_s, 1.0))

    async def recall(self) -> None:
        """Take up what an earlier run has left: the day's count, the learned quota, a stop.

        Interpretation: whoever starts us again has looked at the account, so a stop for good ends
        15 min after it began; not before, since a daemon that is restarted over and over would
        lock the account.
        """
        if self._recalled or self._ledger is None:
            return
        tally = await self._ledger.recall(self.name)
        if tally is None or self._recalled:
            return
        self._recalled = True
        self.quota.recall(tally.day, tally.requests)
        self._learn(tally)
        self._block = self._block or _block(mapping(tally.notes.get("stop")))

    def _learn(self, tally: Tally) -> None:
        learned = tally.notes.get("learned")
        self.quota.learned = learned if isinstance(learned, int) else None

    async def _note(self) -> None:
        if self._ledger is None:
            return
        stop = None if self._block is None else self._block.noted()
        await self._ledger.note(self.name, {"learned": self.quota.learned, "stop": stop})

    async def unlock(self) -> None:
        """Forget a stop, and what a used-up quota has taught: an operator has looked."""
        await self.recall()
        self.quota.learned = self._block = None
        await self._note()

    @property
    def stopped(self) -> str | None:
        """Why nothing is asked now, None if it is."""
        return None if self._block is None else self._block.reason

    @property
    def skew(self) -> str:
        """How far the clocks are apart, in words."""
        return f"our clock is {self.skew_s:.0f} s off the service's"

    def _compare_clocks(self, theirs: datetime | None) -> None:
        """Note how far our clock is ahead of the service's: a wrong one would shift the week."""
        if theirs is None:
            return
        before, self.skew_s = self.skew_s, (self._clock() - theirs).total_seconds()
        if abs(self.skew_s) > _SKEW_TOLD_S >= abs(before):
            log.warning("bluegen.clock_differs", seconds=round(self.skew_s))


def _block(noted: Mapping[str, Any]) -> _Block | None:
    try:
        kind, since = Kind(noted["kind"]), datetime.fromisoformat(noted["since"])
        until = datetime.fromisoformat(noted["until"])
    except (KeyError, TypeError, ValueError):
        return None
    if kind is Kind.ACCOUNT:
        until = min(until, since + timedelta(seconds=_AFTER_RESTART_S))
    return _Block(kind, str(noted.get("reason")), since, until)


def _date(header: str | None) -> datetime | None:
    try:
        return parsedate_to_datetime(header or "").astimezone(UTC)
    except (TypeError, ValueError):
        return None


def _encoded(payload: Any) -> bytes:
    """Serialise once: the bytes that are hashed are the bytes that are sent."""
    return json.dumps(payload, separators=(",", ":")).encode()


def account_of(device: BluegenDevice, wiring: Wiring) -> Account:
    """Return the login that this unit shares with the customer's other units."""
    key = (device.base_url, device.username)
    if key not in wiring.accounts:
        http = DeviceHttp(
            wiring.session,
            device.base_url,
            timeout_s=CLOUD_TIMEOUT_S,
            ca_file=device.ca_file,
            steady=wiring.steady,
        )
        wiring.accounts[key] = Account(device, http, wiring.clock, wiring.ledger)
    account: Account = wiring.accounts[key]
    return account
