"""A peer must not be able to point us at ourselves or at our neighbours."""

import ipaddress
import socket

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from fpd.errors import Malformed
from fpd.oscp.guard import GuardedResolver, allowed, check_url

LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
     "0.0.0.0", "224.0.0.1", "255.255.255.255", "::1", "fe80::1", "fd00::1", "::ffff:127.0.0.1",
     "64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::1", "2002:7f00:1::", "2002:808:808::1",
     "2001::1", "ff02::1", "::127.0.0.1", "fec0::1", "fd00:ec2::254", "192.88.99.1", "240.0.0.1"],
)  # fmt: skip
def test_no_peer_lives_inside(address: str) -> None:
    assert not allowed(ipaddress.ip_address(address), ())


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_peers_live_in_public(address: str) -> None:
    assert allowed(ipaddress.ip_address(address), ())


def test_a_listed_network_is_allowed_and_its_neighbour_is_not() -> None:
    assert allowed(ipaddress.ip_address("127.0.0.1"), LOOPBACK)
    assert allowed(ipaddress.ip_address("::ffff:127.0.0.1"), LOOPBACK)
    assert not allowed(ipaddress.ip_address("10.0.0.1"), LOOPBACK)
    nat64 = ipaddress.ip_address("64:ff9b::10.0.0.1")
    assert allowed(nat64, (ipaddress.ip_network("10.0.0.0/8"),))
    assert allowed(nat64, (ipaddress.ip_network("64:ff9b::/96"),))
    assert not allowed(nat64, LOOPBACK)


def test_urls_are_normalised() -> None:
    url = check_url("HTTPS://CP.Example.COM/oscp/cp/2.0/", require_https=True, allowed_networks=())
    assert url == "https://cp.example.com/oscp/cp/2.0"
    for given, normal in (
        ("https://bücher.example./x", "https://xn--bcher-kva.example./x"),
        ("https://CP_1.example:08443/", "https://cp_1.example:8443"),
        ("https://[2606:4700::1111]:443/x", "https://[2606:4700::1111]/x"),
    ):
        assert check_url(given, require_https=True, allowed_networks=()) == normal


@pytest.mark.parametrize(
    "url",
    ["http://cp.example", "ftp://cp.example", "cp.example", "/oscp/cp", "https://", "",
     "https://user:secret@cp.example", "https://cp.example/?a=1", "https://cp.example/#x",
     "https://127.0.0.1", "https://[::1]:8080", "https://2130706433/", "https://0x7f.1/",
     "https://127.0.0.1.", "https://2130706433.", "https://017700000001", "https://0/",
     "https://１２７.0.0.1/", "https://127。0。0。1/", "https://%31%32%37.0.0.1/", "https://@cp.example",
     "https://cp.example\\@127.0.0.1/", "https://cp .example/", "https://a%00b/", "https://a..b/",
     "https://999.1.1.1/", "https://08.8.8.8/", f"https://{'a' * 300}/", "https://[::1%25lo]/",
     "https://127.1/x", "https://[::ffff:10.0.0.1]/", "https://cp.example:0", "https://a:99999"],
)  # fmt: skip
def test_urls_that_open_a_door_inside_are_refused(url: str) -> None:
    with pytest.raises(Malformed):
        check_url(url, require_https=True, allowed_networks=())


class _Names(AbstractResolver):
    def __init__(self, *addresses: str) -> None:
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host=a, port=port, family=socket.AF_INET, proto=0, flags=0)
            for a in self._addresses
        ]

    async def close(self) -> None: ...


async def test_a_name_is_judged_by_what_it_resolves_to() -> None:
    resolver = GuardedResolver(_Names("10.0.0.1", "8.8.8.8"), ())
    assert [r["host"] for r in await resolver.resolve("peer.example")] == ["8.8.8.8"]
    with pytest.raises(OSError, match="no allowed address"):
        await GuardedResolver(_Names("127.0.0.1"), ()).resolve("peer.example")
