"""`fpd demo`: the whole chain on real parts, shown stage by stage as it is seen from outside."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Coroutine
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from fpd.errors import FpdError
from fpd.sim.neighbourhood import GROUP, Neighbourhood
from fpd.sim.stages import STAGES, Stage

_PATIENCE_S = 120.0  # of a busy machine; a quiet one needs a tenth of it
_TELL_S = 20.0
_LOOK_S = 0.4


def demo(*, once: bool, clock: Callable[[], datetime], keep: Path | None = None) -> int:
    """Show the chain; return 0 when every stage was seen, 1 when not.

    `once` ends after the last stage, else everything stays up until Ctrl-C. Logs and data go
    to `keep` when given, else to a temporary folder that is removed.
    """
    folder = keep or Path(tempfile.mkdtemp(prefix="fpd-demo-"))
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        return asyncio.run(_Demo(folder, once=once).run())
    finally:
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)


class _Demo:
    """One showing: what was started, what was seen and when."""

    def __init__(self, folder: Path, *, once: bool) -> None:
        self._once = once
        self._hood = Neighbourhood(folder)
        self._console = Console()
        self._started_s = time.monotonic()
        self._doing = ""
        self._told_s = self._started_s
        self._seen: dict[str, tuple[float, str]] = {}
        self._stop = asyncio.Event()

    async def run(self) -> int:
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._stop.set)
        try:
            with self._display():
                complete = await self._until_stopped(self._show())
            if self._stop.is_set() and not complete:
                self._console.print("stopped")
                return 130
            return await self._conclude(complete=bool(complete))
        except (FpdError, aiohttp.ClientError, TimeoutError) as error:
            self._console.print(f"[red]failed[/] while {self._doing}: {error}", highlight=False)
            return 1
        finally:
            self._doing = "stopping everybody"
            await self._hood.stop()

    async def _until_stopped(self, work: Coroutine[Any, Any, bool]) -> bool | None:
        """Return what `work` returns, or None when it was stopped by a signal."""
        task = asyncio.create_task(work)
        stop = asyncio.create_task(self._stop.wait())
        await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not task.done():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            return None
        return bool(task.result())

    async def _show(self) -> bool:
        """Start everybody, post a forecast, watch. Return whether every stage was seen."""
        hood = self._hood
        for doing, start in (
            ("starting a fuel cell and a battery", hood.start_devices),
            ("starting fpd with its own PostgreSQL and MQTT broker", hood.start_daemon),
            ("starting meters and an MQTT subscriber", hood.start_meters),
            ("starting a grid operator and an optimiser", hood.start_peers),
        ):
            self._doing = doing
            await start()
        self._doing = "watching"
        deadline_s = self._started_s + _PATIENCE_S
        asked = False
        while time.monotonic() < deadline_s:
            hood.check_alive()
            await self._look()
            if not asked and "handshakes done" in self._seen:
                asked = await self._post_forecast("GENERATION", 1.0)
                asked = await self._post_forecast("CONSUMPTION", 3.0) and asked
            if len(self._seen) == len(STAGES):
                return True
            self._tell_what_is_missing()
            await asyncio.sleep(_LOOK_S)
        return False

    async def _post_forecast(self, kind: str, capacity_kw: float) -> bool:
        """As the grid operator: limit the export or the import of the next four hours."""
        answer = await self._hood.act(
            "capacity-provider",
            "forecast",
            {
                "group_id": GROUP,
                "type": kind,
                "capacity": capacity_kw,
                "unit": "KW",
                "hours": 4,
                "block_minutes": 15,
            },
        )
        return bool(answer["status"] == 204)

    async def _look(self) -> None:
        unseen = [stage for stage in STAGES if stage.title not in self._seen]
        for stage, saw in zip(
            unseen, await asyncio.gather(*(s.observe(self._hood) for s in unseen)), strict=True
        ):
            if saw is not None:
                self._note(stage, saw)

    def _note(self, stage: Stage, saw: str) -> None:
        self._told_s = time.monotonic()
        after_s = self._told_s - self._started_s
        self._seen[stage.title] = (after_s, saw)
        if not self._console.is_terminal:
            self._console.print(
                f"{after_s:5.1f} s  {stage.title}: {saw}", highlight=False, soft_wrap=True
            )

    def _missing(self) -> str:
        return ", ".join(stage.title for stage in STAGES if stage.title not in self._seen)

    def _tell_what_is_missing(self) -> None:
        """After a while in which nothing was seen, where no table shows it."""
        now_s = time.monotonic()
        if self._console.is_terminal or now_s < self._told_s + _TELL_S:
            return
        self._told_s = now_s
        self._console.print(
            f"{now_s - self._started_s:5.1f} s  waiting for: {self._missing()}",
            highlight=False,
            soft_wrap=True,
        )

    async def _conclude(self, *, complete: bool) -> int:
        if not complete:
            self._console.print(f"[red]not seen within {_PATIENCE_S:.0f} s:[/] {self._missing()}")
            self._console.print(f"fpd said last:\n{self._hood['fpd'].last_words()}")
            return 1
        self._console.print("every stage was seen from the outside", style="green")
        if self._once:
            return 0
        self._console.print(f"status page: [bold]{self._hood.url}/[/]   (Ctrl-C stops everybody)")
        while not self._stop.is_set():
            self._hood.check_alive()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), 1.0)
        return 0

    def _display(self) -> contextlib.AbstractContextManager[object]:
        if not self._console.is_terminal:
            return contextlib.nullcontext()
        return Live(
            get_renderable=self._table, console=self._console, refresh_per_second=8, transient=False
        )

    def _table(self) -> Group:
        table = Table.grid(padding=(0, 2))
        for stage in STAGES:
            if stage.title in self._seen:
                after_s, saw = self._seen[stage.title]
                table.add_row(
                    Text("✓", style="green"), stage.title, Text(saw, style="dim"),
                    Text(f"{after_s:.1f} s", style="dim"),
                )  # fmt: skip
            else:
                table.add_row(Text("·", style="dim"), Text(stage.title, style="dim"), "", "")
        if len(self._seen) == len(STAGES):
            return Group(table)
        waited_s = time.monotonic() - self._started_s
        return Group(table, Spinner("dots", text=f"{self._doing} … {waited_s:.0f} s"))
