"""Whoever speaks nonsense at any door gets a refusal, and nobody else notices."""

from __future__ import annotations

import asyncio
import json
import random
import time
import zlib
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.daemon import MANAGE, Daemon, MakeDaemon, make_site
from support.messages import forecast
from support.peer import RecordingPeer

FORECAST = "update_group_capacity_forecast"
NO_LIMITS = "rate_per_token_s = 1000000\nrate_burst = 1000000\nfailed_auth_per_min = 1000000"
SEEDS: dict[str, Any] = {
    "POST register": {
        "token": "t",
        "version_url": [{"version": "2.0", "base_url": "http://10.0.0.1/x"}],
    },
    "PUT register": {
        "token": "t",
        "version_url": [{"version": "2.0", "base_url": "http://10.0.0.1/x"}],
    },
    "POST handshake": {"required_behaviour": {"heartbeat_interval": 60}},
    "POST handshake_acknowledge": {"required_behaviour": {"heartbeat_interval": 60}},
    "POST heartbeat": {"offline_mode_at": "2099-01-01T00:00:00Z"},
    f"POST {FORECAST}": forecast(),
    "POST adjust_group_capacity_forecast": forecast(),
    "POST group_capacity_compliance_error": {
        "message": "no",
        "forecasted_blocks": forecast()["forecasted_blocks"],
    },
}
ODD = [
    b"", b" ", b"{", b"[]", b"null", b"1", b'""', b"\xef\xbb\xbf{}", b"\xff\xfe{\x00}\x00",
    b"[" * 100_000, b'{"a":' * 5_000, b'{"a":' * 40 + b"1" + b"}" * 40,
    b'{"a": 1, "a": 2}', b'{"a": NaN}', b'{"a": -Infinity}', b'{"a": 1e999}',
    b'{"a": ' + b"9" * 5_000 + b"}", b'{"a": "\\ud800"}', b'{"a": "\\udc00\\ud800"}',
    b'{"a": "\xff"}', b'{"a": "\x00"}', b'{"a": "\\u0000"}', b'{"\\ud800": 1, "\\ud800": 2}',
    b"{" + b'"a":1,' * 1000 + b'"a":1}', b'{"offline_mode_at": "2026-02-30T00:00:00Z"}',
    b'{"offline_mode_at": "0000-00-00T00:00:00Z"}', b'{"offline_mode_at": 1e308}',
]  # fmt: skip
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["\0", "a\0", "2.0", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z", "ALL"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture
async def daemon(make_daemon: MakeDaemon, database_url: str) -> Daemon:
    daemon = make_daemon(database_url)
    text = daemon.config.read_text()
    daemon.config.write_text(text.replace("[database]", f"{NO_LIMITS}\n[database]"))
    await daemon.start()
    await daemon.log_in()
    return daemon


@st.composite
def mutated(draw: st.DrawFn) -> tuple[str, bytes]:
    """A door, and a good body for it of which one place was replaced by anything."""
    door = draw(st.sampled_from(sorted(SEEDS)))
    body = json.loads(json.dumps(SEEDS[door]))
    place, key = body, draw(st.sampled_from(sorted(body)))
    while isinstance(place[key], dict | list) and place[key] and draw(st.booleans()):
        place = place[key]
        names = sorted(place) if isinstance(place, dict) else list(range(len(place)))
        key = draw(st.sampled_from(names))
    place[key] = draw(JSON)
    raw = json.dumps(body).encode()
    if draw(st.booleans()):
        at = draw(st.integers(0, len(raw)))
        raw = raw[:at] + draw(st.binary(max_size=6)) + raw[at + draw(st.integers(0, 3)) :]
    return door, raw


async def online(daemon: Daemon, cp: RecordingPeer, co: RecordingPeer) -> tuple[str, str]:
    site = await make_site(daemon)
    co_token = await co.registers(daemon.url, site.optimizer_token)
    await co.acknowledges(daemon.url, co_token)
    cp_token = await cp.registers(daemon.url, site.provider_token)
    await cp.shakes_hands(daemon.url, cp_token)
    return cp_token, co_token


async def test_no_body_breaks_a_door(daemon: Daemon) -> None:
    """Raw bytes and mutated messages of a peer that is online; afterwards it still is."""
    async with RecordingPeer("cp") as cp, RecordingPeer("co") as co:
        tokens = dict(zip(("cp", "co"), await online(daemon, cp, co), strict=True))
        loop = asyncio.get_running_loop()
        seen: set[int] = set()

        async def say(who: str, door: str, body: bytes, **headers: str) -> None:
            method, operation = door.split()
            peer = cp if who == "cp" else co
            status, said, told = await peer.says(
                daemon.url, operation, body, token=tokens[who], method=method, **headers
            )
            assert status < 500 or status == 501, (door, body[:500], said)
            assert status == 204 or list(said) == ["message"], (door, body[:500], said)
            # With a Content-Encoding that is not known, the request never gets beyond its head.
            assert "X-Correlation-ID" in told or headers == {"Content_Encoding": "br"}
            assert told["Server"] == "fpd"
            seen.add(status)

        for door in SEEDS:
            for body in ODD:
                await say("cp", door, body)
        bomb = zlib.compress(b" " * 50_000_000)
        await say("cp", f"POST {FORECAST}", bomb, Content_Encoding="deflate")
        await say("cp", f"POST {FORECAST}", b"nonsense", Content_Encoding="gzip")
        await say("cp", f"POST {FORECAST}", b"{}", Content_Encoding="br")
        await say("cp", f"POST {FORECAST}", b"{}", Content_Type="application/xml")
        assert {400, 413, 415} <= seen

        @settings(
            max_examples=200, deadline=None, derandomize=True, suppress_health_check=[*HealthCheck]
        )
        @given(who=st.sampled_from(["cp", "co"]), said=mutated())
        def hold(who: str, said: tuple[str, bytes]) -> None:
            asyncio.run_coroutine_threadsafe(say(who, *said), loop).result(20)

        await asyncio.to_thread(hold)
        # Mutations may have ended the link honestly; it must be as good as ever.
        for operation, body in (("handshake", {}), (FORECAST, forecast(7))):
            status, told, _ = await cp.says(daemon.url, operation, body, token=tokens["cp"])
            assert status == 204, told
        assert daemon.alive and "request.failed" not in daemon.log.read_text()


REQUEST = (
    b"POST /oscp/fp/2.0/heartbeat HTTP/1.1\r\nHost: x\r\nAuthorization: Token abc\r\n"
    b"X-Request-ID: r-1\r\nContent-Type: application/json\r\n%b\r\n\r\n%b"
)
RAW = [
    REQUEST % (b"Content-Length: 5", b"{}"),
    REQUEST % (b"Content-Length: 2", b"{}{}{}{}"),
    REQUEST % (b"Content-Length: -1", b"{}"),
    REQUEST % (b"Content-Length: 99999999999999999999", b"{}"),
    REQUEST % (b"Transfer-Encoding: chunked", b"2\r\n{}\r\n0\r\nX-Trailer: a\r\n\r\n"),
    REQUEST % (b"Transfer-Encoding: chunked", b"zz\r\n{}\r\n0\r\n\r\n"),
    REQUEST % (b"Transfer-Encoding: chunked", b"FFFFFFFFFFFFFFFF\r\n{}"),
    REQUEST % (b"Transfer-Encoding: gzip, chunked", b"0\r\n\r\n"),
    REQUEST % (b"Expect: 100-continue\r\nContent-Length: 2", b"{}"),
    REQUEST % (b"Expect: 100-continue\r\nContent-Length: 999999999", b""),
    REQUEST % (b"Expect: the-impossible\r\nContent-Length: 2", b"{}"),
    REQUEST % (b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 2", b"{}"),
    REQUEST % (b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: a", b"PRI"),
    REQUEST.replace(b"HTTP/1.1", b"HTTP/1.0") % (b"Content-Length: 2", b"{}"),
    REQUEST.replace(b"Host: x\r\n", b"") % (b"Content-Length: 2", b"{}"),
    REQUEST.replace(b"Host: x", b"Host: [::1") % (b"Content-Length: 2", b"{}"),
    REQUEST.replace(b"Token abc", b"Token \xff\xfe") % (b"Content-Length: 2", b"{}"),
    REQUEST.replace(b"r-1", b"\xff") % (b"Content-Length: 2", b"{}"),
    REQUEST.replace(b"r-1", b"r" * 5000) % (b"Content-Length: 2", b"{}"),
    REQUEST.replace(b"application/json", b";;;=\xff") % (b"Content-Length: 2", b"{}"),
    REQUEST % (b"X: y\r\n" * 120 + b"Content-Length: 2", b"{}"),
    REQUEST % (b"X: y\r\n" * 5000 + b"Content-Length: 2", b"{}"),
    b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 200,
    b"GET //healthz HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET http://[ HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET http://x:99999/ HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /%ff%00/../..// HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /?%zz=%ff&&&=;[ HTTP/1.1\r\nHost: x:y:z\r\n\r\n",
    b"GET /dashboard/..%2f..%2fserver.py HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /solaruser/api/v1/sec/user/oscp/assets/%E2%82 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"TRACE / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"\r\n" * 1000,
    b"\0" * 1000,
]  # fmt: skip


async def spoken(url: str, said: bytes, *, quiet_s: float = 0.4) -> bytes:
    """Return what is answered until the daemon closes or falls silent."""
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    told = b""
    try:
        writer.write(said)
        while part := await asyncio.wait_for(reader.read(65_536), quiet_s if told else 3 * quiet_s):
            told += part
    except (TimeoutError, ConnectionResetError, BrokenPipeError):
        pass
    finally:
        writer.close()
    return told


async def test_nothing_on_the_wire_breaks_http(daemon: Daemon) -> None:
    chance = random.Random(5)
    said = list(RAW)
    for _ in range(200):
        raw = bytearray(chance.choice(RAW)[:3000])
        for _ in range(chance.randint(1, 6)):
            at = chance.randrange(len(raw) + 1)
            raw[at : at + chance.randint(0, 3)] = chance.randbytes(chance.randint(0, 4))
        said.append(bytes(raw))
    for start in range(0, len(said), 80):
        some = said[start : start + 80]
        for raw, told in zip(
            some, await asyncio.gather(*(spoken(daemon.url, raw) for raw in some)), strict=True
        ):
            # Answers have no body that could look like the head of another.
            statuses = [
                int(part[:3]) for part in told.split(b"HTTP/1.1 ")[1:] if part[:3].isdigit()
            ]
            assert all(status < 500 for status in statuses), (raw[:300], told[:300])
            assert b"aiohttp" not in told and b"Python" not in told
    await daemon.answers("/healthz")
    log = daemon.log.read_text()
    assert "request.failed" not in log and "Traceback" not in log and "Error handling" not in log


async def test_expectations_are_answered_like_everything(daemon: Daemon) -> None:
    for expect, length, status, invited in (
        ("100-continue", 2, 403, True),
        ("the-impossible", 2, 417, False),
        ("100-continue", 10**9, 413, False),
    ):
        raw = REQUEST % (f"Expect: {expect}\r\nContent-Length: {length}".encode(), b"")
        told = await spoken(daemon.url, raw)
        assert told.startswith(b"HTTP/1.1 100 ") == invited
        head, _, body = told[told.rindex(b"HTTP/1.1 ") :].partition(b"\r\n\r\n")
        assert int(head.split()[1]) == status
        assert b"X-Correlation-ID: r-1" in head and list(json.loads(body)) == ["message"]
        if not invited:  # below /solaruser/ in its own shape
            raw = raw.replace(b"/oscp/fp/2.0/heartbeat", f"{MANAGE}/assets".encode())
            told = await spoken(daemon.url, raw)
            said = json.loads(told.partition(b"\r\n\r\n")[2])
            assert list(said) == ["success", "code", "message", "errors"]
            assert told.startswith(b"HTTP/1.1 %d " % status)
    daemon.hang_up()  # no certificate to be read again, and no reason to end
    await daemon.answers("/readyz")


def many(count: int) -> bytes:
    start = datetime.now(UTC).replace(microsecond=0)
    edges = [(start + timedelta(minutes=n)).isoformat() for n in range(count + 1)]
    blocks = [
        {"capacity": n % 50, "phase": "ALL", "unit": "KW", "start_time": a, "end_time": b}
        for n, (a, b) in enumerate(pairwise(edges))
    ]
    return json.dumps(forecast(forecasted_blocks=blocks)).encode()


async def test_many_blocks_are_taken_and_too_many_are_not(daemon: Daemon) -> None:
    async with RecordingPeer("cp") as cp, RecordingPeer("co") as co:
        token, co_token = await online(daemon, cp, co)
        began = time.monotonic()
        status, said, _ = await cp.says(daemon.url, FORECAST, many(10_000), token=token)
        assert status == 204, said
        assert time.monotonic() - began < 5
        forwarded = await co.hears(FORECAST)
        assert len(forwarded.body["forecasted_blocks"]) == 10_000
        for peer, door, its in (
            (cp, FORECAST, token),
            (co, "adjust_group_capacity_forecast", co_token),
        ):
            status, said, _ = await peer.says(daemon.url, door, many(10_001), token=its)
            assert (status, "10000" in said["message"]) == (413, True), said


async def test_an_address_without_credentials_has_a_rate_too(
    make_daemon: MakeDaemon, database_url: str
) -> None:
    daemon = make_daemon(database_url)
    text = daemon.config.read_text()
    daemon.config.write_text(
        text.replace("[database]", "rate_per_token_s = 0.1\nrate_burst = 20\n[database]")
    )
    await daemon.start()
    async with aiohttp.ClientSession() as session:

        async def ask(path: str, **headers: str) -> tuple[int, Any]:
            async with session.get(daemon.url + path, headers=headers) as answer:
                return answer.status, await answer.json(content_type=None)

        api = "/solaruser/api/v1/sec/user/oscp/settings"
        paths = ["/openapi.json", "/nothing", "/api/v1/status", api, "/nothing/too"]
        answers = [await ask(path) for path in paths * 6]
        statuses = [status for status, _ in answers]
        assert statuses.index(429) <= 20 and set(statuses[20:]) == {429}
        assert answers[-1][1]["message"] and answers[-2][1]["success"] is False
        assert (await ask("/healthz"))[0] == 200
        await daemon.log_in()
        assert (await ask(api, Authorization=f"Bearer {daemon.bearer}"))[0] == 200
