"""Service properties of a peer: what may be shown is stored as given, credentials are sealed.

Secret are the OAuth client secret, which is never shown, and the values of headers whose names
sound like a credential, which are shown as a mask (decision M7).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from fpd.store.vault import Vault

CLIENT_ID = "oauth-client-id"
CLIENT_SECRET = "oauth-client-secret"
TOKEN_URL = "oauth-token-url"
HEADERS = "http-headers"
URL_PATHS = "url-paths"
MASK = "***"

_CREDENTIAL_WORDS = ("auth", "key", "token", "secret", "password", "cookie")


def is_credential(header: str) -> bool:
    """Tell whether the value of a header of this name is kept secret."""
    return any(word in header.lower() for word in _CREDENTIAL_WORDS)


def masked_headers(shown: Mapping[str, Any] | None) -> frozenset[str]:
    """Return the names, in lower case, of the headers whose values are sealed."""
    headers = (shown or {}).get(HEADERS) or {}
    return frozenset(name.lower() for name in headers if is_credential(name))


def split_secrets(
    given: Mapping[str, Any] | None, *, kept: bytes | None, vault: Vault
) -> tuple[dict[str, Any] | None, bytes | None]:
    """Return what may be shown of `given` and, sealed, the rest.

    `kept` are the sealed secrets so far: a mask keeps a header's, and a client secret that is
    not mentioned stays as long as the client id is given; given as None it goes. `given` None
    deletes everything.
    """
    if given is None:
        return None, None
    before = _unsealed(kept, vault)
    shown = {name: value for name, value in given.items() if name != CLIENT_SECRET}
    secrets: dict[str, Any] = {}
    client_secret = given.get(CLIENT_SECRET)
    if CLIENT_SECRET not in given and CLIENT_ID in given:
        client_secret = before.get(CLIENT_SECRET)
    if client_secret is not None:
        secrets[CLIENT_SECRET] = client_secret
    headers = given.get(HEADERS) or {}
    hidden = {name.lower(): value for name, value in headers.items() if is_credential(name)}
    if hidden:
        old = before.get(HEADERS, {})
        # A mask without a value, as an import leaves it, is none: nothing is sent in its place.
        secrets[HEADERS] = {
            name: old[name] if value == MASK else value
            for name, value in hidden.items()
            if value != MASK or name in old
        }
        shown[HEADERS] = {
            name: MASK if is_credential(name) else value for name, value in headers.items()
        }
    return shown, vault.seal(msgspec.json.encode(secrets)) if any(secrets.values()) else None


def join_secrets(
    service_props: Mapping[str, Any] | None, secrets_sealed: bytes | None, vault: Vault
) -> dict[str, Any]:
    """Return the service properties of a peer in full, for speaking to it; never to be shown.

    Raises Misconfigured when the secrets do not open with this vault.
    """
    secrets = _unsealed(secrets_sealed, vault)
    joined = dict(service_props or {})
    if CLIENT_SECRET in secrets:
        joined[CLIENT_SECRET] = secrets[CLIENT_SECRET]
    if HEADERS in joined:
        hidden = secrets.get(HEADERS, {})
        joined[HEADERS] = {
            name: hidden.get(name.lower(), value)
            for name, value in joined[HEADERS].items()
            if not is_credential(name) or name.lower() in hidden
        }
    return joined


def missing_secrets(service_props: Mapping[str, Any] | None) -> list[str]:
    """Return the names of the secrets that belong to what is shown."""
    shown = service_props or {}
    headers = [name for name in shown.get(HEADERS) or {} if is_credential(name)]
    return ([CLIENT_SECRET] if CLIENT_ID in shown else []) + headers


def same_secrets(one: bytes | None, other: bytes | None, vault: Vault) -> bool:
    """Tell whether two seals hold the same; each sealing looks different."""
    return _unsealed(one, vault) == _unsealed(other, vault)


def _unsealed(sealed: bytes | None, vault: Vault) -> dict[str, Any]:
    if sealed is None:
        return {}
    secrets: dict[str, Any] = msgspec.json.decode(vault.recall(sealed))
    return secrets
