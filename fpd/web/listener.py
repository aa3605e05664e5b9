"""The one listening socket: its TLS, its limits, and certificates that are renewed under way."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import ssl
from collections.abc import AsyncIterator

import structlog
from aiohttp import web

from fpd.config import Http
from fpd.errors import Misconfigured
from fpd.metrics import Metrics
from fpd.web.connections import Connections

log = structlog.get_logger()

_BACKLOG = 1024
_HANDSHAKE_S = 10.0
_LOOK_S = 10.0
# For the database, the broker, peers and devices; peers may take 512 at once.
_OTHER_FILES = 640


@contextlib.asynccontextmanager
async def listening(
    app: web.Application, http: Http, metrics: Metrics
) -> AsyncIterator[Certificate | None]:
    """Serve `app`; lend the certificate if there is one. Raises Misconfigured."""
    certificate = Certificate(http) if http.tls_cert else None
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=10.0, handle_signals=False)
    await runner.setup()
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(runner.cleanup)
        assert runner.server is not None
        most = min(http.max_connections, max(_files() - _OTHER_FILES, 64))
        connections = Connections(
            runner.server,
            metrics,
            most=most,
            most_of_address=min(http.max_connections_per_address, most),
        )
        try:
            server = await asyncio.get_running_loop().create_server(
                connections,
                http.host or None,
                http.port,
                backlog=_BACKLOG,
                ssl=None if certificate is None else certificate.context,
                ssl_handshake_timeout=None if certificate is None else _HANDSHAKE_S,
            )
        except OSError as error:
            raise Misconfigured(f"http.listen {http.listen}: {error.strerror or error}") from error
        stack.callback(server.close)
        yield certificate


def _files() -> int:
    """Return how many files we may have open, having asked for as many as are granted."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return 65536 if soft == resource.RLIM_INFINITY else soft


class Certificate:
    """Who we are over TLS, and whose certificates we want to see."""

    def __init__(self, http: Http) -> None:
        self._http = http
        self.context = _context(http)
        self._seen = self._state()
        self._told = asyncio.Event()

    def look(self) -> None:
        """Have the files read again now, as after SIGHUP."""
        self._told.set()

    async def watch(self) -> None:
        """Load the certificate and its key anew whenever they have changed.

        Connections that are open stay as they are. Files that do not go together are left alone
        until they do: a renewal writes one after the other.
        """
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await self._told.wait()
            state = self._state()
            if state == self._seen and not self._told.is_set():
                continue
            self._told.clear()
            self._seen = state
            self._reload()

    def _reload(self) -> None:
        http = self._http
        try:
            _context(http)
            assert http.tls_cert is not None
            self.context.load_cert_chain(http.tls_cert, http.tls_key)
        except (Misconfigured, OSError, ssl.SSLError) as error:
            log.warning("certificate.unusable", reason=str(error))
        else:
            log.info("certificate.loaded")

    def _state(self) -> tuple[object, ...]:
        state: list[object] = []
        for path in (self._http.tls_cert, self._http.tls_key):
            try:
                found = path.stat() if path is not None else None
            except OSError:
                found = None
            state.append((found.st_mtime_ns, found.st_ino, found.st_size) if found else None)
        return tuple(state)


def _context(http: Http) -> ssl.SSLContext:
    """Return the server's side of TLS. Raises Misconfigured when a file cannot be used."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    assert http.tls_cert is not None
    try:
        context.load_cert_chain(http.tls_cert, http.tls_key, password=_no_password)
    except (OSError, ssl.SSLError, ValueError) as error:
        raise Misconfigured(f"http.tls_cert {http.tls_cert}: {error}") from error
    if http.tls_client_ca is not None:
        try:
            context.load_verify_locations(cafile=http.tls_client_ca)
        except (OSError, ssl.SSLError) as error:
            raise Misconfigured(f"http.tls_client_ca {http.tls_client_ca}: {error}") from error
        required = http.tls_client_auth == "required"
        context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
    return context


def _no_password() -> str:
    """A daemon cannot ask for one; left alone OpenSSL would, on the terminal."""
    raise ValueError("the private key is encrypted")
