"""The customer's account at the BlueGen web service: login, tokens, keys, quota."""

from __future__ import annotations

import base64
import hmac
import secrets
from datetime import datetime
from typing import Any, Literal

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA1

from fpd.sim.bluegen_errors import no
from fpd.sim.journal import Clock

_ATTEMPTS, _SUSPENDED_AFTER = 5, 10
_HEADER = {"typ": "JWT", "alg": "HS256"}


class Account:
    """One customer. Every time here is the real one: `speed` does not touch it."""

    def __init__(self, username: str, password: str, *, token_life_s: float, clock: Clock) -> None:
        self._username = username
        self._password = password
        self._token_life_s = token_life_s
        self._clock = clock
        self._secret = secrets.token_bytes(32)
        self._failures = 0
        self._key: rsa.RSAPrivateKey | None = None
        self._issued_on: datetime | None = None
        self._day, self._requests = "", 0

    @property
    def requests_today(self) -> int:
        return self._requests

    @property
    def issued_on(self) -> datetime | None:
        """When the public key was made; None while nobody has asked for it."""
        return self._issued_on

    def count_request(self, quota: int) -> None:
        """Count towards the day's quota (UTC; 0 is none) and refuse what goes beyond it."""
        today = self._clock().strftime("%Y-%m-%d")
        if today != self._day:
            self._day, self._requests = today, 0
        self._requests += 1
        if quota and self._requests > quota:
            raise no("Number of requests per day exceeded")

    def login(self, username: Any, password: Any, *, plain_allowed: bool = True) -> str:
        """Return a token, valid for an hour unless configured otherwise."""
        if self._failures >= _SUSPENDED_AFTER:
            raise no("Account suspended")
        if self._failures >= _ATTEMPTS:
            self._failures += 1
            raise no("Too many attempts")
        if username != self._username or not self._is_password(password, plain_allowed):
            self._failures += 1
            raise no("Bad Credentials")
        self._failures = 0
        return self._issue()

    def suspend(self) -> None:
        """Refuse every login until unlocked."""
        self._failures = _SUSPENDED_AFTER

    def unlock(self) -> None:
        """Forget failed logins."""
        self._failures = 0

    def expire_tokens(self) -> None:
        """Make every token issued so far a bad one."""
        self._secret = secrets.token_bytes(32)

    def verify(self, authorization: str) -> None:
        """Refuse what is not `Bearer` with a token of ours that is still valid."""
        scheme, _, token = authorization.partition(" ")
        signed, _, signature = token.rpartition(".")
        if scheme != "Bearer" or not signed:
            raise no("Bad Token", invalid="Authorization must be: Bearer <token>")
        if not hmac.compare_digest(signature.encode(), self._sign(signed).encode()):
            raise no("Bad Token")
        claims = msgspec.json.decode(_unbase64(signed.partition(".")[2]))
        if self._clock().timestamp() >= claims["exp"]:
            raise no("Bad Token")

    def public_key(self, form: Literal["pem", "der"] = "pem") -> str:
        """Return the key to encrypt the password with: base64 of a PEM or DER."""
        encoding = serialization.Encoding.PEM if form == "pem" else serialization.Encoding.DER
        key = self._private_key().public_key()
        raw = key.public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)
        return base64.b64encode(raw).decode()

    def rotate_key(self) -> None:
        """Make a new key pair at the next request for it; passwords encrypted before are void."""
        self._key = None

    def _private_key(self) -> rsa.RSAPrivateKey:
        if self._key is None:
            self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
            self._issued_on = self._clock()
        return self._key

    def _is_password(self, given: Any, plain_allowed: bool) -> bool:
        if not isinstance(given, str):
            return False
        plain = [given.encode()] if plain_allowed else []
        return any(
            hmac.compare_digest(candidate, self._password.encode())
            for candidate in (*plain, *self._decrypted(given))
        )

    def _decrypted(self, given: str) -> list[bytes]:
        """Read a password that was encrypted with our key, under either padding."""
        if self._key is None:
            return []
        oaep = padding.OAEP(padding.MGF1(SHA1()), SHA1(), None)
        found = []
        for scheme in (padding.PKCS1v15(), oaep):
            try:
                found.append(self._key.decrypt(base64.b64decode(given, validate=True), scheme))
            except ValueError:
                continue
        return found

    def _issue(self) -> str:
        now = int(self._clock().timestamp())
        claims = {
            "iat": now,
            "jti": secrets.token_hex(7),
            "iss": "fpd-sim-bluegen",
            "nbf": now,
            "exp": now + int(self._token_life_s),
            "data": {"userId": "1", "userName": self._username},
        }
        signed = ".".join(_base64(msgspec.json.encode(part)) for part in (_HEADER, claims))
        return f"{signed}.{self._sign(signed)}"

    def _sign(self, signed: str) -> str:
        return _base64(hmac.digest(self._secret, signed.encode(), "sha256"))


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _unbase64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
