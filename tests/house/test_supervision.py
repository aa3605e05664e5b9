"""The tasks that the daemon owns, its loops, and what systemd hears of them."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs
from support.waiting import wait_for

from fpd.crew import Crew
from fpd.errors import Unavailable
from fpd.flows.loop import Loop
from fpd.jobs import metronome
from fpd.metrics import Metrics
from fpd.notify import Notifier


async def test_a_bug_in_one_task_is_noticed_and_the_others_can_be_ended() -> None:
    crew = Crew()
    ended = asyncio.Event()

    async def patient() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def buggy() -> None:
        raise KeyError("a bug")

    crew.spawn(patient(), name="patient")
    crew.spawn(buggy(), name="buggy")
    await asyncio.wait_for(crew.failed(), 1)
    assert crew.has_failed
    await crew.cancel()
    assert ended.is_set()


async def test_work_that_ends_by_itself_is_no_failure_and_late_work_is_cut() -> None:
    crew = Crew()
    done = []

    async def work(seconds: float) -> None:
        await asyncio.sleep(seconds)
        done.append(seconds)

    crew.spawn(work(0), name="quick")
    crew.spawn(work(60), name="slow")
    await crew.finish(within_s=0.05)
    assert done == [0]
    assert not crew.has_failed


class Steps:
    """A step that does what it is told, in order; nothing more to do afterwards."""

    def __init__(self, *plan: bool | Exception) -> None:
        self.plan = list(plan)
        self.taken = 0

    async def __call__(self) -> bool:
        self.taken += 1
        what = self.plan.pop(0) if self.plan else False
        if isinstance(what, Exception):
            raise what
        return what


def loop_of(steps: Steps, every_s: float = 60) -> Loop:
    return Loop("tested", steps, every_s=every_s, metrics=Metrics())


async def test_a_loop_goes_on_until_there_is_nothing_left() -> None:
    steps = Steps(True, True, False)
    loop = loop_of(steps)
    crew = Crew()
    crew.spawn(loop.run(), name="loop")
    loop.ring()
    await wait_for(lambda: steps.taken == 3)
    loop.ring()
    await wait_for(lambda: steps.taken == 4)
    loop.stop()
    await crew.finish(within_s=1)
    assert not crew.has_failed


async def test_absence_is_waited_out_and_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # A logger that was used before may keep to what was configured then.
    monkeypatch.setattr("fpd.flows.loop.log", structlog.get_logger())
    away = Unavailable("the database is away")
    steps = Steps(away, away, away, False)
    loop = loop_of(steps)
    crew = Crew()
    crew.spawn(loop.run(), name="loop")
    with capture_logs() as said:
        for expected in range(1, 5):
            loop.ring()
            await wait_for(lambda expected=expected: steps.taken == expected)
    await crew.cancel()
    assert [line["event"] for line in said] == ["loop.waiting", "loop.resumed"]


async def test_a_bug_leaves_the_loop() -> None:
    loop = loop_of(Steps(ZeroDivisionError("a bug")))
    loop.ring()
    with pytest.raises(ZeroDivisionError):
        await loop.run()


async def test_the_metronome_rings_without_anybody_asking() -> None:
    steps = Steps()
    loop = loop_of(steps, every_s=0.05)
    crew = Crew()
    crew.spawn(loop.run(), name="loop")
    scheduler = metronome([loop])
    scheduler.start()
    await wait_for(lambda: steps.taken >= 3)
    scheduler.shutdown(wait=False)
    await crew.cancel()


async def test_systemd_hears_us(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address)
        notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "30000000"})
        assert notifier.watchdog_s == 30
        notifier.tell("READY=1")
        assert systemd.recv(100) == b"READY=1"
    notifier.tell("WATCHDOG=1")  # systemd has gone: nothing to be done about it


def test_nobody_listens_when_systemd_did_not_start_us() -> None:
    notifier = Notifier({})
    assert notifier.watchdog_s is None
    notifier.tell("READY=1")
    assert Notifier({"NOTIFY_SOCKET": "x", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1"}).watchdog_s \
        is None  # fmt: skip
