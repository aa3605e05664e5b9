"""Service properties: OAuth credentials, extra headers, custom URL paths, and whatever else.

Source: the SolarUser OSCP API, "service properties" of providers and optimizers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from fpd.errors import Malformed
from fpd.flows.manage.fields import MOST, Site, storable
from fpd.flows.manage.refusals import Fault, Invalid
from fpd.oscp import dialects
from fpd.oscp.guard import check_url
from fpd.store.service_props import (
    CLIENT_ID,
    CLIENT_SECRET,
    HEADERS,
    MASK,
    TOKEN_URL,
    URL_PATHS,
    is_credential,
)

_LONGEST_TEXT: Final = 4096
_LONGEST_SUBJECT: Final = 512
_MOST_BYTES: Final = 65_536
_DEEPEST: Final = 8

_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


@dataclass(frozen=True, slots=True)
class ServiceProps:
    """Kept in the order given, with masks and, as None, a client secret that is to go."""

    def read(self, given: Any, site: Site) -> dict[str, Any]:
        if not isinstance(given, dict):
            raise Malformed("expected an object")
        kept: dict[str, Any] = {}
        faults: list[Fault] = []
        for name, value in given.items():
            try:
                if value is not None:
                    kept[storable(name)] = KNOWN.get(name, _anything)(value, site)
                    dialects.check(name, kept[name])
                elif name == CLIENT_SECRET:
                    kept[name] = None
            except Malformed as error:
                faults.append(Fault(name, str(error)))
        if faults:
            raise Invalid(faults)
        if len(msgspec.json.encode(kept)) > _MOST_BYTES:
            raise Malformed(f"expected at most {_MOST_BYTES} bytes")
        return kept

    def show(self, kept: Mapping[str, Any] | str) -> dict[str, Any] | None:
        return dict(msgspec.json.decode(kept) if isinstance(kept, str) else kept) or None


def _text(given: Any, site: Site) -> str:
    if not isinstance(given, str) or not given.strip() or len(given) > _LONGEST_TEXT:
        raise Malformed(f"expected a text of at most {_LONGEST_TEXT} characters")
    return storable(given)


def _subject(given: Any, site: Site) -> str:
    """Return an identity that an index can hold."""
    subject = _text(given, site)
    if len(subject) > _LONGEST_SUBJECT:
        raise Malformed(f"expected a text of at most {_LONGEST_SUBJECT} characters")
    return subject


def _token_url(given: Any, site: Site) -> str:
    """Return the URL as given: a token endpoint may have a query, and its slash may matter."""
    url = _text(given, site)
    check_url(
        url.partition("?")[0],
        require_https=site.oscp.require_https,
        allowed_networks=site.oscp.allowed_networks,
    )
    if "#" in url:
        raise Malformed("a URL with a fragment is refused")
    return url


def _headers(given: Any, site: Site) -> dict[str, str]:
    headers = _texts(given)
    seen: set[str] = set()
    for name, value in headers.items():
        folded = name.lower()
        if not _HEADER_NAME.fullmatch(name) or folded in dialects.FRAMING:
            raise Malformed(f"{name!r} is no header that can be added")
        if folded in seen:
            raise Malformed(f"{name} is given twice")
        if not value.isprintable():
            raise Malformed(f"{name}: expected printable characters")
        if value == MASK and is_credential(name) and folded not in site.masked:
            raise Malformed(f"{name}: there is no stored value that {MASK} could keep")
        seen.add(folded)
    return headers


def _url_paths(given: Any, site: Site) -> dict[str, str]:
    paths = _texts(given)
    for name, path in paths.items():
        if name not in dialects.PATH_NAMES:
            raise Malformed(f"{name!r} is none of {', '.join(dialects.PATH_NAMES)}")
        # Appended to the base URL: without the slash it could continue the host's name.
        if not path.startswith("/") or not path.isprintable() or " " in path:
            raise Malformed(f"{name}: expected a path that starts with /")
    return paths


def _texts(given: Any) -> dict[str, str]:
    """Return an object's values as texts; numbers and truth values as JSON writes them."""
    if not isinstance(given, dict):
        raise Malformed("expected an object")
    texts = {}
    for name, value in given.items():
        if isinstance(value, dict | list):
            raise Malformed(f"{name}: expected a text")
        if value is not None:
            text = value if isinstance(value, str) else _as_json(value)
            texts[storable(name)] = storable(text)
    return texts


def _as_json(value: float) -> str:
    return msgspec.json.encode(_anything(value, None)).decode()


def _anything(given: Any, site: Site | None, depth: int = 1) -> Any:
    """Return any JSON value that can be stored and given back."""
    if depth > _DEEPEST:
        raise Malformed(f"expected at most {_DEEPEST} levels")
    match given:
        case str():
            storable(given)
        case dict():
            for name, value in given.items():
                storable(name)
                _anything(value, site, depth + 1)
        case list():
            for value in given:
                _anything(value, site, depth + 1)
        case int() | float() if not -MOST <= given <= MOST:
            raise Malformed("a number is out of range")
    return given


KNOWN: Final[Mapping[str, Callable[[Any, Site], Any]]] = {
    TOKEN_URL: _token_url,
    CLIENT_ID: _text,
    CLIENT_SECRET: _text,
    "oauth-scope": _text,
    "jwt-subject": _subject,
    HEADERS: _headers,
    URL_PATHS: _url_paths,
}
