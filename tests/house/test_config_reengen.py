"""A [[platform]] of type reengen: what is wrong with it is told with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from fpd.adapters import TYPES, ability
from fpd.adapters.reengen_keys import ReengenDevice
from fpd.config import Device
from fpd.config_file import ConfigFaults, load
from fpd.config_reengen import ReengenPlatform
from fpd.domain.control.ability import Adjustable

HEAD = """
[[platform]]
name = "factory"
type = "reengen"
tenant = "t"
user = "u"
password_file = "secret"
"""
STREAM = """
[[platform.stream]]
point = "p"
node_id = 1
source_id = "/a"
"""


def read(tmp_path: Path, text: str) -> ReengenPlatform:
    (tmp_path / "secret").write_text("hidden\n")
    file = tmp_path / "config.toml"
    file.write_text(HEAD + text)
    (platform,) = load(file, {"HOME": str(tmp_path)}).platforms
    assert isinstance(platform, ReengenPlatform)
    return platform


def test_little_has_to_be_said(tmp_path: Path) -> None:
    platform = read(tmp_path, STREAM)
    assert platform.base_url == "https://api.reengen.com/api/do/"
    assert (platform.tz, platform.overlap_s, platform.min_interval_s) == (
        "Europe/Istanbul",
        7200,
        1,
    )
    assert platform.password == "hidden" and "hidden" not in repr(platform)
    assert platform.stream[0].job == "raw/p"


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ('tz = "Europe/Atlantis"', ":8: platform.tz"),
        ("min_interval_s = -1", ":8: platform.min_interval_s"),
        (STREAM + 'function = "median"', "platform.stream.function"),
        (STREAM + 'unit = "furlong"', "a unit that is known"),
        (STREAM + STREAM.replace('"p"', '"q"'), "from one point"),
        ('[[platform.listen]]\nof = "setpoint"\npoint = "p"', "device of setpoints"),
        ('[[platform.listen]]\nof = "datum"\npoint = "p"\nnode_id = 1', "group of limits"),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, text: str, wrong: str) -> None:
    with pytest.raises(ConfigFaults) as faults:
        read(tmp_path, text)
    assert wrong in str(faults.value)


DEVICE = """
data_dir = "."
[[device]]
name = "generator"
type = "reengen"
tenant = "t"
user = "u"
password = "p"
point = "p"
command = "mode"
least_w = 0
most_w = 5000
"""
OPTIONS = """
[[device.option]]
code = "on"
power_w = 5000
[[device.option]]
code = "{}"
power_w = 0
"""


def devices(tmp_path: Path, text: str) -> tuple[Device, ...]:
    file = tmp_path / "config.toml"
    file.write_text(DEVICE + text)
    return load(file, {"HOME": str(tmp_path)}).devices


def test_a_device_and_what_it_can(tmp_path: Path) -> None:
    (device,) = devices(tmp_path, 'neutral = "off"' + OPTIONS.format("off"))
    assert isinstance(device, ReengenDevice)
    assert [(one.code, one.power_w) for one in device.option] == [("on", 5000), ("off", 0)]
    assert ability(device) == Adjustable(least_w=0, most_w=5000, rest_w=0)
    assert len(TYPES["reengen"].cautions(device)) == 2, "nothing shows what it does"


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("rest_w = -1", "least_w <= rest_w <= most_w"),
        (OPTIONS.format("on"), "each code once"),
        ('neutral = "auto"' + OPTIONS.format("off"), "the code of an option"),
        ("capacity_wh = 9000", "capacity_wh and soc_point together"),
        ('capacity_wh = 9000\nsoc_point = "b"\nrest_w = 10', "rest_w = 0 <= most_w beside"),
        ("soc_min = 100", "soc_min below soc_max"),
    ],
)
def test_what_is_wrong_with_a_device_is_told(tmp_path: Path, text: str, wrong: str) -> None:
    with pytest.raises(ConfigFaults) as faults:
        devices(tmp_path, text)
    assert wrong in str(faults.value)
