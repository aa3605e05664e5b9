"""What handlers find in their application and request."""

from __future__ import annotations

from aiohttp import web

from fpd.flows.context import Context

CONTEXT = web.AppKey("context", Context)
