"""Signs requests as SolarNetwork's public client does, from its description alone."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import format_datetime
from urllib.parse import quote


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is sent; `signed` names headers beside host, the date and those that must be.

    `key_day` None: that of `at`. `hashed`: what the body counts as, None: the body itself.
    """

    token_id: str
    secret: str
    at: datetime
    host: str
    path: str
    method: str = "GET"
    query: Sequence[tuple[str, str]] = ()
    body: bytes = b""
    headers: Mapping[str, str] | None = None
    signed: Sequence[str] = ()
    date_header: str = "X-SN-Date"
    key_day: datetime | None = None
    hashed: bytes | None = None

    def with_digest(self) -> Request:
        digest = base64.b64encode(hashlib.sha256(self.body).digest()).decode()
        return replace(self, headers={**(self.headers or {}), "Digest": f"sha-256={digest}"})

    def sent_headers(self) -> dict[str, str]:
        """Return the headers to send, Host apart."""
        date = format_datetime(self.at.astimezone(UTC), usegmt=True)
        sent = {**(self.headers or {}), self.date_header: date}
        needed = {name.lower() for name in sent} & {"content-type", "content-md5", "digest"}
        names = sorted({"host", self.date_header.lower(), *needed, *self.signed})
        values = {name.lower(): value for name, value in {**sent, "Host": self.host}.items()}
        pairs = sorted(self.query, key=lambda pair: pair[0])
        lines = [
            self.method,
            self.path,
            "&".join(f"{_encoded(name)}={_encoded(value)}" for name, value in pairs),
            *(f"{name}:{values.get(name, '').strip()}" for name in names),
            ";".join(names),
            hashlib.sha256(self.body if self.hashed is None else self.hashed).hexdigest(),
        ]
        canonical = hashlib.sha256("\n".join(lines).encode()).hexdigest()
        text = f"SNWS2-HMAC-SHA256\n{self.at:%Y%m%dT%H%M%SZ}\n{canonical}"
        day = f"{self.key_day or self.at:%Y%m%d}"
        key = _hmac(_hmac(f"SNWS2{self.secret}".encode(), day), "snws2_request")
        signature = _hmac(key, text).hex()
        return {
            **sent,
            "Authorization": f"SNWS2 Credential={self.token_id},SignedHeaders={';'.join(names)},"
            f"Signature={signature}",
        }


def _encoded(text: str) -> str:
    return quote(text, safe="-_.~")


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()
