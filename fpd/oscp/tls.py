"""Whom we trust and who we are when we call peers over TLS."""

from __future__ import annotations

import ssl

from fpd.config import Oscp
from fpd.errors import Misconfigured


def of_peers(settings: Oscp) -> ssl.SSLContext:
    """Return the TLS side of calls to peers: `oscp.ca_file` alone is trusted when it is given.

    Raises Misconfigured when a file cannot be used.
    """
    return _context(settings, only_own_authority=True)


def of_issuers(settings: Oscp) -> ssl.SSLContext:
    """The same for token endpoints and keys, which often live with a public cloud: the system's
    authorities are trusted beside `oscp.ca_file`.
    """
    return _context(settings, only_own_authority=False)


def _context(settings: Oscp, *, only_own_authority: bool) -> ssl.SSLContext:
    try:
        given = settings.ca_file
        own = str(given) if given is not None and only_own_authority else None
        context = ssl.create_default_context(cafile=own)
        if given is not None and not only_own_authority:
            context.load_verify_locations(cafile=str(given))
    except (OSError, ssl.SSLError) as error:
        raise Misconfigured(f"oscp.ca_file {settings.ca_file}: {error}") from error
    if settings.client_cert is not None:
        try:
            context.load_cert_chain(settings.client_cert, settings.client_key)
        except (OSError, ssl.SSLError) as error:
            raise Misconfigured(f"oscp.client_cert {settings.client_cert}: {error}") from error
    return context
