"""The management API, as SolarNetwork's SolarUser OSCP API: one table per entity drives it all.

`tables` says what entities are made of and `fields` what their properties may be; `views` and
`settings` do the same with every kind, `peers` and `groups` add what only theirs needs.
`instructions` is a door of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from aiohttp import web

from fpd.web.manage import instructions, settings, views
from fpd.web.manage.answers import ROOT, say_no
from fpd.web.manage.groups import ASSET, GROUP, GROUP_SETTINGS, USER_SETTINGS
from fpd.web.manage.peers import OPTIMIZER, PROVIDER

__all__ = ["PREFIX", "routes", "say_no"]

PREFIX = f"{ROOT}api/v1/sec/user/oscp"


def routes() -> Iterable[web.RouteDef]:
    """Return the endpoints of the document, and those of instructions.

    The document's "DELETE" for a group's assets list is a slip: it is a GET.
    """
    group = f"{PREFIX}/{GROUP.path}/{{{GROUP.id_name}}}"
    # Before the groups, so that "settings" is not taken for an id.
    yield web.get(f"{PREFIX}/{GROUP.path}/settings", partial(views.listed, GROUP_SETTINGS))
    yield web.get(f"{group}/assets", partial(views.listed_of_group, ASSET))
    for entity, path in (
        (USER_SETTINGS, f"{PREFIX}/settings"),
        (GROUP_SETTINGS, f"{group}/settings"),
    ):
        yield web.get(path, partial(settings.view, entity))
        yield web.put(path, partial(settings.update, entity))
        yield web.delete(path, partial(settings.delete, entity))
    for entity in (PROVIDER, OPTIMIZER, GROUP, ASSET):
        collection = f"{PREFIX}/{entity.path}"
        item = f"{collection}/{{{entity.id_name}}}"
        yield web.post(collection, partial(views.create, entity))
        if entity is not ASSET:  # assets are listed by group
            yield web.get(collection, partial(views.listed, entity))
        yield web.get(item, partial(views.view, entity))
        yield web.put(item, partial(views.update, entity))
        yield web.delete(item, partial(views.delete, entity))
    yield from instructions.routes()
