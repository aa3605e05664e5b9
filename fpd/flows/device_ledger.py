"""Where adapters keep what belongs to an account and not to one device: quota and stops."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fpd.adapters.device import Tally
from fpd.errors import Unavailable
from fpd.flows.context import Context
from fpd.store import device_accounts


class DatabaseLedger:
    """The ledger of all daemons on the database. While that is away it counts nothing: an account
    goes on by its own count.
    """

    def __init__(self, context: Context) -> None:
        self._context = context

    async def recall(self, account: str) -> Tally | None:
        try:
            async with self._context.db.connection() as conn:
                row = await device_accounts.load(conn, name=account)
        except Unavailable:
            return None
        return Tally() if row is None else Tally(row.day, row.requests, row.notes)

    async def count(self, account: str, *, day: str) -> int | None:
        try:
            async with self._context.db.transaction() as conn:
                requests = await device_accounts.count(
                    conn, name=account, day=day, now=self._context.clock()
                )
        except Unavailable:
            return None
        username = account.partition("@")[0]
        self._context.metrics.account_requests.labels(username).set(requests)
        return requests

    async def note(self, account: str, notes: Mapping[str, Any]) -> bool:
        try:
            async with self._context.db.transaction() as conn:
                await device_accounts.note(
                    conn, name=account, notes=notes, now=self._context.clock()
                )
        except Unavailable:
            return False
        return True
