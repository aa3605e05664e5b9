"""What is sent as the password: as it is, or encrypted with the service's key (seed 000, 3.3.2).

Interpretation: neither the key's form nor the padding is documented. The key is read as PEM or
DER, each also in base64; the padding is a setting (reference: devices §1.2).
"""

from __future__ import annotations

import base64
import binascii
from typing import Literal

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.serialization import (
    load_der_public_key,
    load_pem_public_key,
)

from fpd.errors import Malformed

Padding = Literal["pkcs1v15", "oaep_sha1"]


def encrypted(password: str, key: str, scheme: Padding) -> str:
    """Return the password encrypted with the key, in base64. Raises Malformed.

    OAEP uses SHA-1 since nothing else is named by what public clients of such services do.
    """
    public = _public_key(key)
    how: padding.AsymmetricPadding = padding.PKCS1v15()
    if scheme == "oaep_sha1":
        how = padding.OAEP(padding.MGF1(SHA1()), SHA1(), None)
    try:
        return base64.b64encode(public.encrypt(password.encode(), how)).decode()
    except ValueError:
        raise Malformed("the password is too long for the service's key") from None


def _public_key(text: str) -> rsa.RSAPublicKey:
    try:
        raw = text.encode() if "BEGIN" in text else base64.b64decode(text)
        key = load_pem_public_key(raw) if b"BEGIN" in raw else load_der_public_key(raw)
    except (ValueError, TypeError, binascii.Error):
        raise Malformed("the service's public key cannot be read") from None
    if not isinstance(key, rsa.RSAPublicKey):
        raise Malformed("the service's public key is not an RSA key")
    return key
