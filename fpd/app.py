"""The composition root: opens, wires, supervises, closes. The only clock is here.

Parts open in order and close in reverse. What may be away — peers, broker, database, devices —
is waited for while everything else goes on; a bug in a long task ends the process with code 1.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import resource
import secrets
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import structlog

from fpd import __version__, supervisor
from fpd.config import Config
from fpd.crew import Crew
from fpd.embedded.broker import EmbeddedBroker
from fpd.embedded.postgres import EmbeddedPostgres, running_url
from fpd.errors import FpdError
from fpd.flows import (
    handing_over,
    handshake,
    ingest,
    letting_go,
    measurements,
    myems_intake,
    planning,
    publisher,
    segments,
    trouble,
    upkeep,
)
from fpd.flows.compliance import Compliance
from fpd.flows.context import Bells, Context
from fpd.flows.control import Control
from fpd.flows.delivery import Delivery
from fpd.flows.devices import Devices
from fpd.flows.heartbeat import Heartbeats
from fpd.flows.loop import Loop
from fpd.flows.platforms import Platforms
from fpd.flows.set_back import Watch
from fpd.flows.silence import Silence
from fpd.flows.stream_health import Looks
from fpd.flows.tree import Tree
from fpd.jobs import metronome
from fpd.metrics import Metrics
from fpd.mqtt.brief import BriefClient
from fpd.mqtt.client import MqttClient
from fpd.notify import Notifier
from fpd.oscp import tls
from fpd.oscp.auth import Issuer
from fpd.oscp.client import PeerClient
from fpd.store.db import Database
from fpd.store.vault import Vault
from fpd.web.health import stuck
from fpd.web.listener import listening
from fpd.web.server import application

log = structlog.get_logger()

T = TypeVar("T")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_GARBAGE = 10_000  # new objects; requests leave hardly any in circles
_PASSWORD_FILE = "mqtt.password"
_DRAIN_S = 12.0  # longer than any message to a peer may take


def clock() -> datetime:
    """Return the present instant, in UTC."""
    return _EPOCH + timedelta(seconds=time.time())


def run(config: Config, again: Callable[[], Config]) -> int:
    """Run the daemon until SIGTERM or SIGINT. Return 0 then, 1 when it could not go on.

    `again` reads the configuration anew, as a restart would. Raises Misconfigured.
    """
    # A connection to each of many peers takes more than the 1024 that a shell grants.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        return asyncio.run(_serve(config, again))
    except FpdError as error:
        log.error("daemon.refused", reason=str(error))
        return 1


async def _serve(config: Config, again: Callable[[], Config]) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    notifier = Notifier()
    crew = Crew()
    async with _daemon(config, crew, notifier, partial(_heirs, config, crew, again)):
        log.info("daemon.started", version=__version__, url=config.public_url)
        _settle_memory()
        ends = [asyncio.create_task(stop.wait()), asyncio.create_task(crew.failed())]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()
        notifier.tell("STOPPING=1")
        log.info("daemon.stopping", reason="a task failed" if crew.has_failed else "told to")
    log.info("daemon.stopped")
    return 1 if crew.has_failed else 0


def _settle_memory() -> None:
    """Have the collector leave alone what stays for ever, and look less often at what does not.

    Each of its looks at everything is a pause of many ms for all peers.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GARBAGE, 20, 20)


@contextlib.asynccontextmanager
async def _daemon(
    config: Config,
    crew: Crew,
    notifier: Notifier,
    heirs: Callable[[], Awaitable[Collection[str]]],
) -> AsyncIterator[None]:
    """Open every part in order; close them in reverse."""
    async with contextlib.AsyncExitStack() as stack:
        vault = Vault.open(config.key_file or config.data_dir / "fpd.key")
        db = Database(await _database_url(config, stack, crew), clock=clock)
        stack.push_async_callback(db.close)
        broker = await _mqtt_client(config, stack)
        peers = PeerClient(config.oscp)
        await peers.open()
        stack.push_async_callback(peers.close)
        watched, looping = Crew(), Crew()  # messages in flight, loops
        context = Context(
            config=config,
            clock=clock,
            db=db,
            vault=vault,
            metrics=Metrics(),
            peers=peers,
            mqtt=broker,
            spawn=watched.spawn,
            issuer=await _issuer(config, stack),
        )
        delivery, visits, heartbeats = Delivery(context), Devices(context), Heartbeats(context)
        visits.take_over(handing_over.take(config))
        polls = Platforms(context)
        loops = _loops(context, delivery, visits, heartbeats, polls)
        stack.push_async_callback(visits.close)
        stack.push_async_callback(polls.close)
        stack.push_async_callback(crew.cancel)
        stack.push_async_callback(letting_go.at_the_end, context, visits, heirs)
        stack.push_async_callback(_drain, looping, loops, watched, delivery, heartbeats)
        crew.spawn(db.supervise(), name="database")
        crew.spawn(_relay(watched), name="messages in flight")
        crew.spawn(_relay(looping), name="loops")
        crew.spawn(broker.run(), name="mqtt")
        crew.spawn(ingest.run(context), name="ingest")
        crew.spawn(myems_intake.run(context), name="MyEMS intake")
        for loop in loops:
            looping.spawn(loop.run(), name=loop.name)
        scheduler = metronome(loops)
        scheduler.start()
        stack.callback(scheduler.shutdown, wait=False)
        crew.spawn(Watch(context).keep(), name="clock")
        await _open_doors(context, loops, stack, crew)
        crew.spawn(_keep_watch(notifier, loops), name="watchdog")
        notifier.tell("READY=1")
        yield


async def _heirs(config: Config, crew: Crew, again: Callable[[], Config]) -> Collection[str]:
    """Return the devices that go on as they were told, because systemd restarts us."""
    if crew.has_failed or not await supervisor.restarts():
        return ()
    try:
        return handing_over.heirs(config, again())
    except FpdError as error:
        log.error("restart.doubtful", reason=str(error))
        return ()


async def _database_url(config: Config, stack: contextlib.AsyncExitStack, crew: Crew) -> str:
    if config.database.url:
        return config.database.url
    server = EmbeddedPostgres(config.data_dir / "postgres")
    stack.push_async_callback(server.stop)
    url = await server.start()
    crew.spawn(_must_live(server), name="embedded PostgreSQL")
    return url


async def _must_live(server: EmbeddedPostgres) -> None:
    """Raise when the embedded server ends by itself: whoever supervises us starts us both anew."""
    code = await server.exited()
    raise RuntimeError(f"the embedded PostgreSQL ended with code {code}")


async def _mqtt_client(config: Config, stack: contextlib.AsyncExitStack) -> MqttClient:
    settings = config.mqtt
    url, username, password = settings.url, settings.username, settings.password
    if not url:
        guests = {username or "local": password or _kept_password(config.data_dir)}
        broker = EmbeddedBroker("127.0.0.1", settings.port, users=guests)
        stack.push_async_callback(broker.stop)
        address = await broker.start()
        url, username, password = address.url, address.username, address.password
    return MqttClient(
        url,
        username=username,
        password=password,
        ca_file=settings.ca_file,
        instance=settings.instance,
    )


async def _issuer(config: Config, stack: contextlib.AsyncExitStack) -> Issuer | None:
    if config.oscp.jwt_issuer is None:
        return None
    issuer = Issuer(config.oscp)
    await issuer.open(tls.of_issuers(config.oscp))
    stack.push_async_callback(issuer.close)
    return issuer


def _kept_password(data_dir: Path) -> str:
    """Return the password for others on our own broker, made on first start, mode 0600."""
    path = data_dir / _PASSWORD_FILE
    if not path.exists():
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Killed in the middle, the next start must not find half a password.
        unfinished = path.with_suffix(".new")
        unfinished.touch(mode=0o600)
        unfinished.write_text(secrets.token_urlsafe(24) + "\n", encoding="utf-8")
        unfinished.rename(path)
    return path.read_text(encoding="utf-8").strip()


def _loops(
    context: Context,
    delivery: Delivery,
    visits: Devices,
    heartbeats: Heartbeats,
    polls: Platforms,
) -> list[Loop]:
    """Return every loop, and let those who owe work ring the right one."""

    steps: dict[str, tuple[Callable[[], Awaitable[bool]], float]] = {
        "heartbeats": (heartbeats.step, 0.2),
        "silence": (Silence(context).step, 0.5),
        "handshakes": (partial(handshake.step, context), 0.5),
        "repairs": (partial(trouble.step, context), 5.0),
        "delivery": (delivery.step, 1.0),
        "settling": (delivery.settle, 1.0),
        "publishing": (partial(publisher.step, context), 1.0),
        "tree": (Tree(context).step, context.config.mqtt.tree_s),
        "shedding": (partial(publisher.shed, context), 60.0),
        "measurements": (partial(measurements.step, context), measurements.EVERY.total_seconds()),
        "summing up": (partial(measurements.sum_up, context), 15.0),
        "devices": (visits.step, 0.5),
        "standing by": (letting_go.Deadman(context, visits).step, 1.0),
        "platforms": (polls.step, 0.5),
        "control": (Control(context, visits).step, 0.5),
        "compliance": (Compliance(context).step, 1.0),
        "planning": (partial(planning.step, context), 1.0),
        "stream health": (Looks(context).step, 5.0),
        "segments": (partial(segments.step, context), 5.0),
        "upkeep": (partial(upkeep.step, context), 3600.0),
    }
    loops = {
        name: Loop(name, step, every_s=every_s, metrics=context.metrics)
        for name, (step, every_s) in steps.items()
    }
    bells: Bells = context.bells
    bells.delivery = loops["delivery"].ring
    bells.settling = loops["settling"].ring
    bells.publishing = loops["publishing"].ring
    bells.measuring = loops["measurements"].ring
    bells.control = loops["control"].ring
    bells.heartbeats = loops["heartbeats"].ring
    bells.platforms = loops["platforms"].ring
    return list(loops.values())


async def _relay(others: Crew) -> None:
    """A bug in one of them is a bug of the daemon."""
    await others.failed()
    raise RuntimeError("a task met a bug; it is logged above")


async def _drain(
    looping: Crew, loops: list[Loop], watched: Crew, delivery: Delivery, heartbeats: Heartbeats
) -> None:
    """Finish the steps that were begun, let what is in flight arrive, write down what came of it.

    What has not been begun stays owed; nothing stays claimed.
    """
    for loop in loops:
        loop.stop()
    await looping.finish(within_s=_DRAIN_S)
    heartbeats.stop()
    await watched.finish(within_s=_DRAIN_S)
    with contextlib.suppress(FpdError):
        await delivery.drain()


async def _open_doors(
    context: Context, loops: list[Loop], stack: contextlib.AsyncExitStack, crew: Crew
) -> None:
    certificate = await stack.enter_async_context(
        listening(application(context, loops), context.config.http, context.metrics)
    )
    if certificate is not None:
        crew.spawn(certificate.watch(), name="certificate")
    # Without a handler the signal would end the process.
    look = certificate.look if certificate is not None else lambda: None
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, look)


async def _keep_watch(notifier: Notifier, loops: list[Loop]) -> None:
    """Tell systemd that we are alive for as long as every loop makes progress."""
    period_s = notifier.watchdog_s
    if period_s is None:
        return
    while True:
        late = stuck(loops, now_s=asyncio.get_running_loop().time())
        if late:
            log.error("watchdog.withheld", loops=late)
        else:
            notifier.tell("WATCHDOG=1")
        await asyncio.sleep(period_s / 3)


def beside(config: Config, db: Database, mqtt: MqttClient) -> Context:
    """Return what flows need, for commands beside the daemon: they owe, and it delivers."""
    return Context(
        config=config,
        clock=clock,
        db=db,
        vault=Vault.open(config.key_file or config.data_dir / "fpd.key"),
        metrics=Metrics(),
        peers=PeerClient(config.oscp),
        mqtt=mqtt,
        spawn=_nothing_to_spawn,
    )


def brief_mqtt(config: Config) -> BriefClient:
    """Return the daemon's broker for a command beside it, our own one included if it runs."""
    settings = config.mqtt
    url, username, password = settings.url, settings.username, settings.password
    if not url:
        url, username = f"mqtt://127.0.0.1:{settings.port}", username or "local"
        with contextlib.suppress(OSError):
            kept = (config.data_dir / _PASSWORD_FILE).read_text(encoding="utf-8").strip()
            password = password or kept
    return BriefClient(
        url,
        username=username,
        password=password,
        ca_file=settings.ca_file,
        instance=settings.instance,
    )


def _nothing_to_spawn(work: Coroutine[Any, Any, None], *, name: str) -> None:
    work.close()
    raise AssertionError(f"{name}: a command starts no work of its own")


async def with_database(config: Config, action: Callable[[Database], Awaitable[T]]) -> T:
    """Run `action` on the configured database, migrated; for commands beside the daemon.

    The embedded server is used if it runs, else started for the moment. Raises Misconfigured
    or psycopg's errors when it cannot be reached.
    """
    async with contextlib.AsyncExitStack() as stack:
        url = config.database.url or running_url(config.data_dir / "postgres")
        if not url:
            server = EmbeddedPostgres(config.data_dir / "postgres")
            stack.push_async_callback(server.stop)
            url = await server.start()
        db = Database(url, clock=clock)
        await db.open()
        stack.push_async_callback(db.close)
        return await action(db)
