"""The control door that every simulator has beside its own: log, quirks, state, actions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from aiohttp import web

from fpd.errors import FpdError, Malformed
from fpd.sim.answers import reply
from fpd.sim.journal import Filter

if TYPE_CHECKING:
    from fpd.sim.simulator import Handler, Simulator

PREFIX = "/_sim/"
_MAX_WAIT_S = 300.0
_T = TypeVar("_T")
_D = TypeVar("_D")


def routes(simulator: Simulator[Any]) -> Iterable[web.RouteDef]:
    """Return the routes of `simulator`'s control door."""
    door = ControlDoor(simulator)
    return [
        web.get(f"{PREFIX}log", _told(door.log)),
        web.get(f"{PREFIX}log/wait", _told(door.wait)),
        web.delete(f"{PREFIX}log", _told(door.forget)),
        web.get(f"{PREFIX}quirks", _told(door.quirks)),
        web.put(f"{PREFIX}quirks", _told(door.change)),
        web.delete(f"{PREFIX}quirks", _told(door.behave)),
        web.get(f"{PREFIX}state", _told(door.state)),
        web.post(f"{PREFIX}actions/{{name}}", _told(door.act)),
    ]


class ControlDoor:
    """Handlers over one simulator."""

    def __init__(self, simulator: Simulator[Any]) -> None:
        self._simulator = simulator

    async def log(self, request: web.Request) -> web.Response:
        return reply(self._simulator.journal.find(_filter(request)))

    async def wait(self, request: web.Request) -> web.Response:
        """Answer when enough matching entries are settled; 504 with those there are if not."""
        count = _query(request, "count", int, 1)
        timeout_s = min(_query(request, "timeout", float, 10.0), _MAX_WAIT_S)
        wanted = _filter(request)
        found = await self._simulator.journal.wait(wanted, count=count, timeout_s=timeout_s)
        enough = len(found) >= count
        return reply(found, status=HTTPStatus.OK if enough else HTTPStatus.GATEWAY_TIMEOUT)

    async def forget(self, request: web.Request) -> web.Response:
        self._simulator.journal.clear()
        return web.Response(status=HTTPStatus.NO_CONTENT)

    async def quirks(self, request: web.Request) -> web.Response:
        return reply(self._simulator.switchboard.now)

    async def change(self, request: web.Request) -> web.Response:
        simulator = self._simulator
        try:
            simulator.switch(await _body(request))
        except Malformed as error:
            answer = {"message": str(error), "known": simulator.switchboard.known()}
            return reply(answer, status=HTTPStatus.BAD_REQUEST)
        response = reply(simulator.quirks)
        await response.prepare(request)
        await response.write_eof()
        if refused_s := simulator.quirks.refuse_connections_s:
            simulator.spawn(simulator.refuse_connections(refused_s))
        return response

    async def behave(self, request: web.Request) -> web.Response:
        self._simulator.switch(None)
        return await self.quirks(request)

    async def state(self, request: web.Request) -> web.Response:
        return reply(self._simulator.state())

    async def act(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        action = self._simulator.actions.get(name)
        if action is None:
            return reply(
                {"message": f"no action {name}", "known": sorted(self._simulator.actions)},
                status=HTTPStatus.NOT_FOUND,
            )
        return reply(await action(await _body(request)))


def _told(handler: Handler) -> Handler:
    """Turn what a caller got wrong into 400 with a message."""

    async def told(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except FpdError as error:
            return reply({"message": str(error)}, status=HTTPStatus.BAD_REQUEST)

    return told


async def _body(request: web.Request) -> dict[str, Any]:
    body = await request.read()
    try:
        return msgspec.json.decode(body or b"{}", type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise Malformed(f"the body must be a JSON object: {error}") from error


def _filter(request: web.Request) -> Filter:
    return Filter(
        since=_query(request, "since", int, 0),
        path=request.query.get("path", ""),
        direction=request.query.get("direction", ""),
        method=request.query.get("method", "").upper(),
        status=_query(request, "status", int, None),
        invalid=request.query.get("invalid", "") in ("1", "true"),
    )


def _query(request: web.Request, name: str, kind: Callable[[str], _T], default: _D) -> _T | _D:
    text = request.query.get(name)
    if text is None:
        return default
    try:
        return kind(text)
    except ValueError as error:
        raise Malformed(f"{name} must be a number") from error
