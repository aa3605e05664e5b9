"""SolarNetwork's request signatures, scheme SNWS2: what is signed, with which keys, and when.

Source: SolarNetwork's wiki, "SolarNet API authentication scheme V2", and what its public client
`solarnetwork-api-core` 3.x sends. Values in, values out: nothing here waits or tells the time.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import quote, urlsplit

from fpd.errors import FpdError

SKEW: Final = timedelta(minutes=15)
KEY_DAYS: Final = 7
"""A signing key is good for its day and the six days after it."""

Pairs = Sequence[tuple[str, str]]

_TOKEN_ID = re.compile("[A-Za-z0-9]{20}")
_SIGNATURE = re.compile("[0-9A-Fa-f]{64}")
_HEADER_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")
_HEX_MD5 = re.compile("[0-9A-Fa-f]{32}")
_ALWAYS: Final = ("content-type", "content-md5", "digest")
_OUR_NAMES: Final = "x-sn-"
# RFC 3230 and 5843, by the names of hashlib.
_DIGESTS: Final = {"md5": "md5", "sha": "sha1", "sha-256": "sha256", "sha-512": "sha512"}
_DEFAULT_PORTS: Final = (":80", ":443")


class Wrong(FpdError):
    """A signature is not accepted; the text is for the log, not for the sender."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What an Authorization header claims. `names`: the signed headers, lower case, sorted."""

    token_id: str
    names: tuple[str, ...]
    signature: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a request says. `headers` has all values of each, by its name in lower case.

    `path` is as sent, `query` decoded. `form`: the fields of a body that is a form, else None.
    """

    method: str
    path: str
    query: Pairs
    headers: Mapping[str, Sequence[str]]
    body: bytes = b""
    form: Pairs | None = None


def read(credential: str) -> Claim:
    """Read what follows the scheme's name. Raises Wrong."""
    parts = [part.strip().partition("=") for part in credential.split(",")]
    said = {name: value for name, _, value in parts}
    if len(parts) != 3 or set(said) != {"Credential", "SignedHeaders", "Signature"}:
        raise Wrong("expected Credential, SignedHeaders and Signature")
    names = said["SignedHeaders"].lower().split(";")
    if len(set(names)) < len(names) or not all(map(_HEADER_NAME.fullmatch, names)):
        raise Wrong("SignedHeaders: expected names")
    if not (_TOKEN_ID.fullmatch(said["Credential"]) and _SIGNATURE.fullmatch(said["Signature"])):
        raise Wrong("expected a token id of 20 characters and 64 hexadecimal digits")
    return Claim(said["Credential"], tuple(sorted(names)), said["Signature"].lower())


def signed_at(claim: Claim, headers: Mapping[str, Sequence[str]], *, now: datetime) -> datetime:
    """Return when the request was signed: its X-SN-Date, else its Date.

    Raises Wrong when that is not `SKEW` around now, or a header that has to be signed is not.
    Interpretation: a signed header that comes twice is refused, because readers choose
    differently between its values.
    """
    date = "x-sn-date" if "x-sn-date" in headers else "date"
    needed = {"host", date, *(name for name in _ALWAYS if name in headers)}
    needed |= {name for name in headers if name.startswith(_OUR_NAMES)}
    if not needed <= set(claim.names):
        raise Wrong(f"not signed: {', '.join(sorted(needed - set(claim.names)))}")
    if "host" not in headers:
        raise Wrong("host: missing")
    for name in claim.names:
        if len(headers.get(name, ())) > 1:
            raise Wrong(f"{name}: comes more than once")
    at = _instant(_value(headers, date))
    if abs(now - at) > SKEW:
        raise Wrong(f"{date}: too far from our clock")
    return at


def _instant(text: str) -> datetime:
    try:
        at = parsedate_to_datetime(text)
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        raise Wrong("the date is none of RFC 1123") from None


def check(claim: Claim, said: Said, *, at: datetime, secret: bytes, hosts: Sequence[str]) -> None:
    """Raise Wrong unless `secret` signed just this request at `at`, towards one of `hosts`.

    Digests of the body that were signed with it have to be right, too.
    """
    signature = bytes.fromhex(claim.signature)
    keys = signing_keys(secret, at)
    texts = [text_to_sign(one, at) for one in canonical_requests(said, claim.names, hosts)]
    # No short cut: how long it takes tells nothing.
    found = [hmac.compare_digest(signature, _hmac(key, text)) for text in texts for key in keys]
    if True not in found:
        raise Wrong("the signature is that of another request or secret")
    if "digest" in said.headers and not _is_digest(_value(said.headers, "digest"), said.body):
        raise Wrong("Digest: not that of the body")
    if "content-md5" in said.headers and not _is_md5(
        _value(said.headers, "content-md5"), said.body
    ):
        raise Wrong("Content-MD5: not that of the body")


def canonical_requests(said: Said, names: Sequence[str], hosts: Sequence[str]) -> list[bytes]:
    """Return the request in the one form that is signed, towards each host."""
    parameters = [*said.query, *(said.form or ())]
    # As JavaScript sorts: by the names alone, by UTF-16 code units.
    parameters.sort(key=lambda pair: pair[0].encode("utf-16-be", "surrogatepass"))
    query = "&".join(f"{_escaped(name)}={_escaped(value)}" for name, value in parameters)
    digest = hashlib.sha256(said.body if said.form is None else b"").hexdigest()
    found = []
    for host in hosts:
        values = {**{name: _value(said.headers, name) for name in names}, "host": host}
        headers = [f"{name}:{values[name]}" for name in names]
        lines = [said.method, said.path, query, *headers, ";".join(names), digest]
        found.append("\n".join(lines).encode("utf-8", "surrogateescape"))
    return found


def text_to_sign(canonical: bytes, at: datetime) -> bytes:
    """Return what is signed with the key of a day."""
    digest = hashlib.sha256(canonical).hexdigest()
    return f"SNWS2-HMAC-SHA256\n{at:%Y%m%dT%H%M%SZ}\n{digest}".encode()


def signing_keys(secret: bytes, at: datetime) -> tuple[bytes, ...]:
    """Return the keys that are good on the day of `at`: that day's and those before it."""
    days = (at - timedelta(days=age) for age in range(KEY_DAYS))
    return tuple(
        _hmac(_hmac(b"SNWS2" + secret, f"{day:%Y%m%d}".encode()), b"snws2_request") for day in days
    )


def hosts(received: str, public_url: str | None) -> tuple[str, ...]:
    """Return what the sender may have taken for our host.

    That is the Host received or, behind a proxy, the one of our public URL, each with or without
    its port or a default one. Interpretation: `solarnetwork-datum-loader` signs the name of the
    host alone, whatever the port; which of them it meant protects nobody.
    """
    known = [received] if public_url is None else [received, urlsplit(public_url).netloc]
    found: list[str] = []
    for host in known:
        bare = re.sub(r":\d+$", "", host)
        found.append(host)
        if bare != host:
            found.append(bare)
        else:
            found += [host + port for port in _DEFAULT_PORTS]
    return tuple(dict.fromkeys(found))


def _value(headers: Mapping[str, Sequence[str]], name: str) -> str:
    """Return a header's value; one that is signed though it is absent counts as empty."""
    return next(iter(headers.get(name, ())), "").strip()


def _escaped(text: str) -> str:
    return quote(text, safe="", errors="surrogateescape")


def _hmac(key: bytes, text: bytes) -> bytes:
    return hmac.digest(key, text, "sha256")


def _is_digest(header: str, body: bytes) -> bool:
    """Tell whether every digest that we know, and there has to be one, is that of the body."""
    told = {
        (_DIGESTS[name.strip().lower()], value.strip())
        for name, _, value in (part.partition("=") for part in header.split(","))
        if name.strip().lower() in _DIGESTS
    }
    right = {name: _base64_digest(name, body) for name, _ in told}
    return bool(told) and all(value == right[name] for name, value in told)


def _is_md5(header: str, body: bytes) -> bool:
    """Interpretation: hexadecimal is taken beside RFC 1864's base64, as SolarNetwork does."""
    if _HEX_MD5.fullmatch(header):
        return header.lower() == hashlib.md5(body, usedforsecurity=False).hexdigest()
    return header == _base64_digest("md5", body)


def _base64_digest(name: str, body: bytes) -> str:
    return base64.b64encode(hashlib.new(name, body, usedforsecurity=False).digest()).decode()
