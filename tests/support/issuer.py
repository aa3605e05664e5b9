"""An authorization server over real HTTP: it grants tokens, and publishes keys for its own."""

from __future__ import annotations

import base64
import time
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, RSAKey

Key = RSAKey | ECKey


@dataclass
class Issuer:
    """`answers` are (status, body) for the next token requests, then tokens are granted.

    `requests` are the token requests as (client, headers, form); `key_requests` counts those for
    keys, of which `keys` are published. While `down`, every request is a 503.
    """

    life_s: float = 3600
    client: tuple[str, str] = ("client-123", "Secret.123")
    answers: list[tuple[int, Any]] = field(default_factory=list)
    requests: list[tuple[str, dict[str, str], dict[str, str]]] = field(default_factory=list)
    keys: list[Key] = field(default_factory=list)
    key_requests: int = 0
    down: bool = False

    async def __aenter__(self) -> Issuer:
        app = web.Application()
        app.router.add_post("/token", self._grant)
        app.router.add_get("/.well-known/jwks.json", self._publish)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    @property
    def token_url(self) -> str:
        return f"{self.url}/token"

    async def _grant(self, request: web.Request) -> web.Response:
        scheme, _, credential = request.headers.get("Authorization", "").partition(" ")
        client = base64.b64decode(credential).decode() if scheme == "Basic" else ""
        headers = {name.lower(): value for name, value in request.headers.items()}
        form = {name: str(value) for name, value in (await request.post()).items()}
        self.requests.append((client, headers, form))
        if self.answers:
            status, body = self.answers.pop(0)
            if isinstance(body, str):
                return web.Response(status=status, text=body)
            return web.json_response(body, status=status)
        if client != ":".join(self.client):
            return web.json_response({"error": "invalid_client"}, status=401)
        return web.json_response(
            {
                "access_token": f"access-{len(self.requests)}",
                "token_type": "Bearer",
                "expires_in": self.life_s,
            }
        )

    async def _publish(self, request: web.Request) -> web.Response:
        self.key_requests += 1
        if self.down:
            return web.Response(status=503)
        return web.json_response(KeySet(list(self.keys)).as_dict(private=False))

    def signs(self, key: Key | None = None, alg: str = "RS256", **claims: Any) -> str:
        """Return a token as this issuer would give it; a claim given as None is left out."""
        key = key or self.keys[0]
        whole = {
            "iss": self.url,
            "sub": "lines-co",
            "exp": int(time.time()) + 60,
            "iat": int(time.time()),
            **claims,
        }
        whole = {name: value for name, value in whole.items() if value is not None}
        return jwt.encode({"alg": alg, "kid": key.kid}, whole, key, algorithms=[alg])


def rsa_key(kid: str) -> RSAKey:
    return RSAKey.generate_key(2048, {"kid": kid})


def ec_key(kid: str) -> ECKey:
    return ECKey.generate_key("P-256", {"kid": kid})
