"""Secrets at rest: Fernet (AES-128-CBC with HMAC), one key in a file of mode 0600."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections import OrderedDict
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken

from fpd.errors import Misconfigured

_MOST_REMEMBERED = 10_000


class Vault:
    """Seals what must be read again; what need only be compared is hashed instead."""

    def __init__(self, key: bytes) -> None:
        self._fernet = Fernet(key)
        self._key = key
        self._opened: OrderedDict[bytes, bytes] = OrderedDict()

    @classmethod
    def open(cls, path: Path) -> Vault:
        """Use the key in `path`, made on first use. Raises Misconfigured if it is unusable."""
        if not path.exists():
            _create(path)
        try:
            return cls(path.read_bytes().strip())
        except (OSError, ValueError) as error:
            raise Misconfigured(f"{path}: not a usable key file: {error}") from error

    def seal(self, secret: str | bytes) -> bytes:
        """Encrypt."""
        return self._fernet.encrypt(secret.encode() if isinstance(secret, str) else secret)

    def unseal(self, sealed: bytes) -> bytes:
        """Decrypt. Raises Misconfigured when another key was used."""
        try:
            return self._fernet.decrypt(bytes(sealed))
        except InvalidToken:
            raise Misconfigured(
                "a stored secret does not open with this key file: was it replaced?"
            ) from None

    def mark(self, secret: str) -> str:
        """Return what shows whether a secret has changed, and nothing else without the key."""
        return hmac.new(self._key, secret.encode(), hashlib.sha256).hexdigest()

    def recall(self, sealed: bytes) -> bytes:
        """Decrypt what is wanted again and again, such as a peer's token, only the first time.

        Remembered by what it was sealed as, so another secret is never mistaken for it.
        """
        sealed = bytes(sealed)
        secret = self._opened.get(sealed)
        if secret is None:
            secret = self._opened[sealed] = self.unseal(sealed)
        self._opened.move_to_end(sealed)
        if len(self._opened) > _MOST_REMEMBERED:
            self._opened.popitem(last=False)
        return secret


def _create(path: Path) -> None:
    """Write a new key so that a crash leaves either no file or a whole one."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(descriptor, Fernet.generate_key() + b"\n")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    try:
        os.link(draft, path)  # fails if another process was first: its key counts
    except FileExistsError:
        pass
    finally:
        draft.unlink()
