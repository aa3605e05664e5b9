"""The management API, as SolarNetwork's SolarUser OSCP API: one table per entity drives it all.

The tables, and what a change entails, are in `fpd.flows.manage`; `views` and `settings` are the
doors to it, the same for every kind. `instructions` is a door of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from aiohttp import web

from fpd.flows.manage.groups import ASSET, GROUP, GROUP_SETTINGS, USER_SETTINGS
from fpd.flows.manage.peers import OPTIMIZER, PROVIDER
from fpd.web.manage import instructions, settings, views
from fpd.web.manage.answers import ROOT, refusal, say_no

__all__ = ["PREFIX", "ROOT", "refusal", "routes", "say_no"]

PREFIX = f"{ROOT}api/v1/sec/user/oscp"


def routes() -> Iterable[web.RouteDef]:
    """Return the endpoints of the document, the list of all assets, and those of instructions.

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
        yield web.get(collection, partial(views.listed, entity))
        yield web.get(item, partial(views.view, entity))
        yield web.put(item, partial(views.update, entity))
        yield web.delete(item, partial(views.delete, entity))
    yield from instructions.routes()
