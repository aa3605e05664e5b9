"""What handlers find in their application and request."""

from __future__ import annotations

from aiohttp import web

from fpd.flows.context import Context
from fpd.flows.identify import Tokens
from fpd.flows.intake import Intake
from fpd.flows.judging import Judge
from fpd.flows.manage.creating import Creates

CONTEXT = web.AppKey("context", Context)
INTAKE = web.AppKey("intake", Intake)
TOKENS = web.AppKey("tokens", Tokens)
JUDGE = web.AppKey("judge", Judge)
CREATES = web.AppKey("creates", Creates)
