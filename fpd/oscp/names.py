"""The addresses behind peers' names, found so that no name can hold up another.

A name server that does not answer keeps a thread of the system's resolver for many seconds. So
what is known is used at once and asked for anew beside, a name that could not be found waits
before it is asked for again, and such names share a few threads of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp.abc import AbstractResolver, ResolveResult

_FRESH_S = 30.0
_STALE_S = 600.0
_PAUSE_S = 10.0
_LONGEST_PAUSE_S = 300.0
_MOST_KNOWN = 20_000
_LANES = (64, 8)  # threads for names in good standing, and for those that failed last time

_Key = tuple[str, int, socket.AddressFamily]
Found = list[ResolveResult]


@dataclass(slots=True)
class _Name:
    """`found` None: never. `asked_s` is monotonic. `failures`: in a row."""

    found: Found | None = None
    found_s: float = 0.0
    asked_s: float = 0.0
    failures: int = 0
    reason: str = ""

    @property
    def pause_s(self) -> float:
        return min(_PAUSE_S * 2.0 ** min(self.failures - 1, 10), _LONGEST_PAUSE_S)


class Names(AbstractResolver):
    """Resolves names with the system's resolver (hosts file, DNS) and remembers them."""

    def __init__(self, look_up: Callable[[str, int, int], Found] | None = None) -> None:
        """`look_up`: what asks, in a thread; the system if None."""
        self._look_up = look_up or _system
        self._known: dict[_Key, _Name] = {}
        self._flights: dict[_Key, asyncio.Task[None]] = {}
        self._lanes = [asyncio.Semaphore(threads) for threads in _LANES]

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> Found:
        """Return its addresses. Raises OSError when there are none, or none were found of late."""
        key, now_s = (host, port, family), time.monotonic()
        name = self._known.get(key)
        if name is None:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            name = self._known[key] = _Name()
        if name.failures and now_s - name.asked_s < name.pause_s:
            pass
        elif name.found is None or now_s - name.found_s > _FRESH_S:
            self._ask(key, name)
        if name.found is not None and now_s - name.found_s < _STALE_S:
            return name.found
        flight = self._flights.get(key)
        if flight is not None:
            await asyncio.shield(flight)
        if name.failures or name.found is None:
            raise OSError(f"{host} cannot be resolved: {name.reason}")
        return name.found

    async def close(self) -> None:
        """Wait for nobody: the threads end when the system's resolver lets them."""
        flights = tuple(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    def _ask(self, key: _Key, name: _Name) -> None:
        if key not in self._flights:
            flight = asyncio.create_task(self._fly(key, name), name=f"resolve {key[0]}")
            self._flights[key] = flight
            flight.add_done_callback(lambda _: self._flights.pop(key, None))

    async def _fly(self, key: _Key, name: _Name) -> None:
        async with self._lanes[1 if name.failures else 0]:
            try:
                found = await _in_thread(self._look_up, *key)
            except (OSError, UnicodeError) as error:
                name.failures += 1
                name.reason = str(error)
            else:
                name.found, name.found_s, name.failures = found, time.monotonic(), 0
            name.asked_s = time.monotonic()


async def _in_thread(
    look_up: Callable[[str, int, int], Found], host: str, port: int, family: int
) -> Found:
    """Run it in a thread that nobody waits for at the end of the process."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Found] = loop.create_future()

    def tell(found: Found | None, error: Exception | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(found or [])

    def ask() -> None:
        found, fault = None, None
        try:
            found = look_up(host, port, family)
        except (OSError, UnicodeError) as error:
            fault = error
        with contextlib.suppress(RuntimeError):  # the event loop has gone
            loop.call_soon_threadsafe(tell, found, fault)

    threading.Thread(target=ask, name=f"resolve {host}", daemon=True).start()
    return await future


def _system(host: str, port: int, family: int) -> Found:
    infos = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, family=family, flags=socket.AI_ADDRCONFIG
    )
    return [
        ResolveResult(
            hostname=host,
            host=str(address[0]),
            port=int(address[1]),
            family=kind,
            proto=proto,
            flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
        )
        for kind, _, proto, _, address in infos
    ]
