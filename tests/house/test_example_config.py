"""config.example.toml is complete, loads, and says what the defaults are."""

from __future__ import annotations

import re
from pathlib import Path

from example_config import FILE, render

from fpd.adapters.battery_keys import BatteryDevice
from fpd.adapters.myems_keys import MyemsDevice
from fpd.adapters.reengen_keys import ReengenDevice
from fpd.config import BluegenDevice
from fpd.config_file import load
from fpd.config_myems import MyemsPlatform
from fpd.config_reengen import ReengenPlatform

HOME = {"HOME": "/home/operator"}


def test_the_example_shows_every_key_with_its_default() -> None:
    assert FILE.read_text(encoding="utf-8") == render(), "run python tests/house/example_config.py"


def test_the_example_as_it_stands_is_the_default_configuration() -> None:
    assert load(FILE, HOME) == load(None, HOME)


def test_the_example_with_everything_switched_on_loads(tmp_path: Path) -> None:
    text = re.sub(r"(?m)^#(?=[\w\[])", "", FILE.read_text(encoding="utf-8"))
    for name in re.findall(r"/etc/fpd/([\w-]+\.(?:crt|key))", text):
        (tmp_path / name).touch()
    text = text.replace("/etc/fpd/", f"{tmp_path}/").replace(
        '[mqtt]\n# mqtt:// or mqtts:// URL; empty: our own broker on 127.0.0.1\nurl = ""',
        '[mqtt]\nurl = "mqtts://broker.example.org"',
    )
    file = tmp_path / "config.toml"
    file.write_text(text, encoding="utf-8")
    config = load(file, HOME)
    assert [type(device) for device in config.devices] == [
        BluegenDevice,
        BatteryDevice,
        MyemsDevice,
        ReengenDevice,
    ]
    assert [type(platform) for platform in config.platforms] == [
        MyemsPlatform,
        ReengenPlatform,
    ]
    assert config.public_url == "https://fpd.example.org"
