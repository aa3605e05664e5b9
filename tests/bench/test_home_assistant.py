"""Two real daemons tell Home Assistant over a real broker: one goes, the other is renamed."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

from support.daemon import Daemon, MakeDaemon, free_port, make_site
from support.mosquitto import MARKS, Mosquitto

pytestmark = MARKS
TAKEN_OVER_S = 45.0


async def held(broker: Mosquitto, topic: str) -> dict[str, str]:
    """What mosquitto_sub is told at once, by topic."""
    program = shutil.which("mosquitto_sub")
    assert program is not None
    process = await asyncio.create_subprocess_exec(
        program, "-p", str(broker.port), "-t", topic, "-W", "1", "-F", "%t %p",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    said, _ = await process.communicate()
    return dict(line.split(" ", 1) for line in said.decode().splitlines())


async def tellers(broker: Mosquitto) -> tuple[set[str], set[str]]:
    """Return the ids of all entities, and the instances whose states they show."""
    documents = [json.loads(text) for text in (await held(broker, "homeassistant/#")).values()]
    ids = {document["unique_id"] for document in documents}
    return ids, {document["state_topic"].split("/")[1] for document in documents}


async def told_by(broker: Mosquitto, instance: str) -> set[str]:
    async with asyncio.timeout(TAKEN_OVER_S):
        while (found := await tellers(broker))[1] != {instance}:
            await asyncio.sleep(0.5)
    return found[0]


def configure(daemon: Daemon, old: str, new: str) -> None:
    text = daemon.config.read_text()
    assert old in text
    daemon.config.write_text(text.replace(old, new))


async def test_entities_outlive_their_teller_and_its_name(
    make_daemon: MakeDaemon, database_url: str, tmp_path: Path
) -> None:
    broker = Mosquitto(tmp_path, free_port())
    await broker.start()
    try:
        one, two = (make_daemon(database_url, mqtt=broker.url) for _ in range(2))
        for daemon, name in ((one, "alpha"), (two, "beta")):
            configure(daemon, "[mqtt]", f'[mqtt]\nhome_assistant = true\ninstance = "{name}"')
        await one.start()
        await one.log_in()
        await make_site(one)
        await two.start()
        first = await told_by(broker, "alpha")
        async with asyncio.timeout(20):
            while len(first) < 1 + 7 + 2 * 2:
                first = await told_by(broker, "alpha")
        assert len(await held(broker, "fpd/beta/#")) == 1 + 1 + 2
        await one.kill()
        assert await told_by(broker, "beta") == first
        await two.terminate()
        configure(two, '"beta"', '"gamma"')
        await two.start()
        assert await told_by(broker, "gamma") == first
        async with asyncio.timeout(60):
            while await held(broker, "fpd/beta/#"):
                await asyncio.sleep(1)
        assert len(await held(broker, "fpd/gamma/#")) == 1 + 1 + 2
    finally:
        await broker.stop()
