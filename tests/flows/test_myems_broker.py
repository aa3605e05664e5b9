"""A command straight over MQTT, through a real broker to the simulated device and back."""

from __future__ import annotations

from functools import partial

from adapters.rig import Hands, wired
from support.mqtt import Clients
from support.waiting import wait_for

from fpd.adapters.device import Setpoint
from fpd.adapters.myems import MyemsDevice as Adapter
from fpd.adapters.myems_keys import MyemsDevice
from fpd.embedded.broker import EmbeddedBroker
from fpd.sim.myems import MyEms, MyEmsOptions


async def test_the_device_hears_the_commands_own_message(broker: EmbeddedBroker) -> None:
    clock, clients = Hands(), Clients()
    sim = MyEms(
        MyEmsOptions(
            mqtt_url=broker.address.url,
            mqtt_username="subscriber",
            mqtt_password="subscriber's password",
            history_h=0.1,
        ),
        clock=clock,
    )
    await sim.start()
    client = await clients.connect(broker, "fpd")
    await wait_for(lambda: sim.is_connected)
    async with wired(clock) as wiring:
        wiring.publish = partial(client.publish, qos=1, retain=False)
        battery = Adapter(
            MyemsDevice(
                name="battery", type="myems", base_url=sim.url, api_key="fpd-key", via="mqtt",
                command_id=1, point_id=14, capacity_wh=200_000, max_charge_w=100_000,
                max_discharge_w=100_000,
            ),
            wiring,
        )  # fmt: skip
        command = Setpoint(power_w=25_500)
        memory = (await battery.apply(command, {})).memory
        await wait_for(lambda: sim.is_ordered)
        clock.move(seconds=10)
        assert battery.shows(command, await battery.read(memory))
    assert sim.state()["published"] == [], "MyEMS had no part in it"
    await clients.close()
    await sim.stop()
