"""Which addresses a peer may name: a URL from outside must not open a door inside (SSRF).

The text of the URL is judged when it is received, the addresses behind its name at every
connect, after name resolution, so that a name cannot be re-pointed later.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Sequence

from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from fpd.errors import Malformed

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Where IPv6 addresses are given out for the public; multicast, NAT64, mapped, unique local and
# everything reserved lie elsewhere.
_PUBLIC_V6 = ipaddress.ip_network("2000::/3")
# 6to4 and its relays, Teredo: they lead to an IPv4 address that only somebody on the way knows.
_TUNNELS = (
    ipaddress.ip_network("2002::/16"),
    ipaddress.ip_network("2001::/32"),
    ipaddress.ip_network("192.88.99.0/24"),
)
_NAT64 = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))
# Of a name as it is looked up, and of a last label that makes an IPv4 address of the whole.
_NAME = re.compile(r"(?=.{1,253}\.?$)([a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}\.?", re.ASCII)
_NUMERIC = re.compile(r"(.*\.)?(\d+|0x[0-9a-f]*)\.?", re.ASCII)


def allowed(address: Address, networks: Sequence[Network]) -> bool:
    """Whether peers may live at `address`: a public one, or one in a listed network.

    An address that wraps an IPv4 one may live where that may be listed; a mapped one is that one.
    """
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    for known in (address, _wrapped(address)):
        if known is not None and any(known in network for network in networks):
            return True
    if isinstance(address, ipaddress.IPv6Address) and address not in _PUBLIC_V6:
        return False
    if any(address in network for network in _TUNNELS):
        return False
    return address.is_global and not address.is_multicast


def _wrapped(address: Address) -> Address | None:
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if any(address in network for network in _NAT64):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.sixtofour


def check_url(url: str, *, require_https: bool, allowed_networks: Sequence[Network]) -> str:
    """Return `url` normalised: scheme and host in lower case, no trailing slash (decision M2).

    Raises Malformed, naming what is wrong: scheme, user info, query, fragment, or a literal
    address in which no peer may live. Names are not resolved here.
    """
    try:
        parsed = URL(url.strip())
        host, port = parsed.raw_host, parsed.port
    except ValueError as error:
        raise Malformed(f"not a URL: {error}") from None
    if parsed.scheme not in (("https",) if require_https else ("https", "http")) or not host:
        raise Malformed("expected an absolute https:// URL" + ("" if require_https else " or http"))
    if parsed.user is not None or parsed.password is not None or "@" in url.split("/", 3)[2]:
        raise Malformed("a URL with user information is refused")
    if parsed.query_string or "?" in url or "#" in url:
        raise Malformed("a URL with a query or fragment is refused")
    if not port:
        raise Malformed("the port is not usable")
    literal = _literal(host)
    if literal is None and (_NAME.fullmatch(host) is None or _NUMERIC.fullmatch(host)):
        raise Malformed(f"{host} is no name of a host")
    if literal is not None and not allowed(literal, allowed_networks):
        raise Malformed(f"the address {host} is not allowed (oscp.allowed_networks)")
    return str(parsed).rstrip("/")


def _literal(host: str) -> Address | None:
    host = host.strip("[]").partition("%")[0].removesuffix(".")
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    try:
        # 127.1, 0x7f000001 and 2130706433 are addresses too, to everybody who connects.
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except OSError:
        return None


class GuardedResolver(AbstractResolver):
    """Resolves names and hands on only addresses in which peers may live."""

    def __init__(self, inner: AbstractResolver, networks: Sequence[Network]) -> None:
        self._inner = inner
        self._networks = networks

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Raises OSError when no allowed address is behind `host`."""
        results = await self._inner.resolve(host, port, family)
        kept = [
            result
            for result in results
            if allowed(ipaddress.ip_address(result["host"].split("%")[0]), self._networks)
        ]
        if not kept:
            raise OSError(f"{host} resolves to no allowed address (oscp.allowed_networks)")
        return kept

    async def close(self) -> None:
        await self._inner.close()
