"""The operator's file: what is read, what overrides it, and how every fault is told at once."""

from __future__ import annotations

import json
import tomllib
from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as trying
from hypothesis import strategies as st

from fpd.adapters import TYPES
from fpd.adapters.battery_keys import BatteryDevice
from fpd.config import BluegenDevice, Config, Subscribe
from fpd.config_file import ConfigFaults, load
from fpd.config_lines import locate
from fpd.config_values import settings

HOME = {"HOME": "/home/operator"}

# The machine may be busy with other tests: slowness proves nothing here.
unhurried = trying(deadline=None, suppress_health_check=[HealthCheck.too_slow])

BATTERY = """
[[device]]
name = "cellar"
type = "battery"
base_url = "http://192.0.2.10:8080"
capacity_wh = 10000
max_charge_w = 3300
max_discharge_w = 3000
"""

BLUEGEN = """
[[device]]
name = "boiler-room"
type = "bluegen"
base_url = "https://api.example.org"
username = "customer"
password = "kept"
unit_id = 7
"""


def loaded(folder: Path, text: str, **environ: str) -> Config:
    file = folder / "config.toml"
    file.write_text(text)
    return load(file, HOME | environ)


def faults(folder: Path, text: str, **environ: str) -> list[str]:
    """The faults as the operator reads them, without the folder."""
    with pytest.raises(ConfigFaults) as caught:
        loaded(folder, text, **environ)
    return [str(fault).removeprefix(f"{folder}/") for fault in caught.value.faults]


def test_an_empty_file_is_a_complete_configuration(tmp_path: Path) -> None:
    config = loaded(tmp_path, "")
    assert config.http.listen == "127.0.0.1:8484"
    assert (config.http.host, config.http.port) == ("127.0.0.1", 8484)
    assert config.mqtt.subscribe == (
        Subscribe(topic="node/+/datum/0/#"),
        Subscribe(topic="node/+/datum"),
    )
    assert config.devices == ()
    assert config.data_dir == Path("/home/operator/.local/share/fpd")
    assert config.key_file == config.data_dir / "fpd.key"
    assert config.public_url == "http://127.0.0.1:8484"


def test_without_a_file_the_defaults_hold() -> None:
    assert load(None, HOME).oscp.heartbeat_interval_s == 60


@pytest.mark.parametrize(
    ("environ", "data_dir"),
    [
        ({"STATE_DIRECTORY": "/var/lib/fpd:/var/lib/other"}, "/var/lib/fpd"),
        ({"XDG_DATA_HOME": "/data"}, "/data/fpd"),
        ({"XDG_DATA_HOME": "data"}, "/home/operator/.local/share/fpd"),
        ({"STATE_DIRECTORY": "/var/lib/fpd", "FPD_DATA_DIR": "/srv/fpd"}, "/srv/fpd"),
    ],
)
def test_the_data_folder_follows_systemd_then_the_user(
    environ: dict[str, str], data_dir: str
) -> None:
    assert load(None, HOME | environ).data_dir == Path(data_dir)


def test_fpd_config_names_the_file_unless_the_command_line_does(tmp_path: Path) -> None:
    named, other = tmp_path / "named.toml", tmp_path / "other.toml"
    named.write_text("[control]\ninterval_s = 3")
    other.write_text("[control]\ninterval_s = 4")
    environ = HOME | {"FPD_CONFIG": str(named)}
    assert load(None, environ).control.interval_s == 3.0
    assert load(other, environ).control.interval_s == 4.0


def test_devices_are_read_in_the_order_of_the_file(tmp_path: Path) -> None:
    fuel_cell, battery = loaded(tmp_path, BLUEGEN + BATTERY).devices
    assert isinstance(fuel_cell, BluegenDevice)
    assert (fuel_cell.name, fuel_cell.unit_id, fuel_cell.stale_after_s) == ("boiler-room", 7, 7200)
    assert isinstance(battery, BatteryDevice)
    assert (battery.max_discharge_w, battery.soc_min, battery.stale_after_s) == (3000, 10.0, 60.0)


def test_paths_start_at_the_file_s_folder(tmp_path: Path) -> None:
    config = loaded(tmp_path, 'data_dir = "data"\nkey_file = "/etc/fpd/key"')
    assert config.data_dir == tmp_path / "data"
    assert config.key_file == Path("/etc/fpd/key")


def test_the_environment_overrides_the_file_key_by_key(tmp_path: Path) -> None:
    config = loaded(
        tmp_path,
        '[http]\nlisten = "127.0.0.1:1"\nrate_burst = 5\n[mqtt]\npassword = "file"\nusername = "u"',
        FPD_HTTP__LISTEN="[::1]:9000",
        FPD_OSCP__REQUIRE_HTTPS="false",
        FPD_OSCP__ALLOWED_NETWORKS="10.0.0.0/8, 127.0.0.0/8",
        FPD_OSCP__CLOCK_SKEW_GRACE_S="2",
        FPD_MQTT__QOS="0",
        FPD_MQTT__SUBSCRIBE='[{"topic": "myems/point/+", "format": "myems"}]',
        FPD_MQTT__PASSWORD="environment",
    )
    assert (config.http.host, config.http.port, config.http.rate_burst) == ("::1", 9000, 5)
    assert config.oscp.require_https is False
    assert config.oscp.allowed_networks == (ip_network("10.0.0.0/8"), ip_network("127.0.0.0/8"))
    assert config.oscp.clock_skew_grace_s == 2.0
    assert config.mqtt.qos == 0
    assert config.mqtt.subscribe == (Subscribe(topic="myems/point/+", format="myems"),)
    assert config.mqtt.password == "environment"


def test_devices_can_come_from_the_environment_too() -> None:
    devices = '[{"name":"b","type":"battery","base_url":"http://192.0.2.1","capacity_wh":1,"max_charge_w":2'
    config = load(None, HOME | {"FPD_DEVICE": f'{devices},"max_discharge_w":3}}]'})
    assert [device.name for device in config.devices] == ["b"]
    with pytest.raises(ConfigFaults, match=r"^FPD_DEVICE: device\.max_discharge_w: "):
        load(None, HOME | {"FPD_DEVICE": f"{devices}}}]"})


def test_variables_of_other_parts_are_left_alone() -> None:
    environ = {"FPD_PG_BIN": "/usr/lib", "FPD_TEST_SLOW": "1", "FPD_SIM_PORT": "2"}
    assert load(None, HOME | environ) == load(None, HOME)


def test_a_secret_may_stand_in_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "broker").write_text("s3cret\n")
    text = '[mqtt]\nusername = "fpd"\npassword_file = "broker"'
    assert loaded(tmp_path, text).mqtt.password == "s3cret"


def test_a_secret_from_the_environment_beats_the_file_whichever_way_it_is_given(
    tmp_path: Path,
) -> None:
    (tmp_path / "broker").write_text("from a file")
    text = '[mqtt]\nusername = "fpd"\npassword = "plain"'
    config = loaded(tmp_path, text, FPD_MQTT__PASSWORD_FILE=str(tmp_path / "broker"))
    assert config.mqtt.password == "from a file"


def test_secrets_do_not_show_when_the_configuration_is_printed(tmp_path: Path) -> None:
    config = loaded(tmp_path, f'{BLUEGEN}[database]\nurl = "postgresql://u:geheim@db/fpd"')
    assert config.database.url == "postgresql://u:geheim@db/fpd"
    assert "geheim" not in repr(config)
    assert "kept" not in repr(config)


def test_every_fault_is_told_at_once_with_its_line(tmp_path: Path) -> None:
    text = """\
dta_dir = "/x"
[http]
listen = "foo"
rate_burst = 0      # far too few
max_body_mb = true
[mqtt]
url = "http://broker"
qos = 2
encoding = "jsn"
[database]
url = "mysql://u:geheim@db/fpd"
[oscp]
allowed_networks = [
  "10.0.0.1/8",
]
[measurements]
settle_s = inf
"""
    assert faults(tmp_path, text, FPD_CONTROL__INTERVAL_S="soon", FPD_HTP__LISTEN=":1") == [
        "FPD_HTP__LISTEN: expected a known variable; did you mean FPD_HTTP__LISTEN?",
        'FPD_CONTROL__INTERVAL_S: control.interval_s = "soon": expected a number from 0.1 to 3600',
        "config.toml:1: dta_dir: expected a known key; did you mean data_dir?",
        'config.toml:3: http.listen = "foo": expected host:port',
        "config.toml:4: http.rate_burst = 0: expected a whole number of at least 1",
        "config.toml:5: http.max_body_mb = true: expected a number from 0.001 to 1024",
        'config.toml:7: mqtt.url = "http://broker": '
        "expected a URL that starts with mqtt:// or mqtts://",
        "config.toml:8: mqtt.qos = 2: expected 0 or 1",
        'config.toml:9: mqtt.encoding = "jsn": expected "json" or "cbor"; did you mean json?',
        'config.toml:11: database.url = "***": '
        "expected a URL that starts with postgresql:// or postgres://",
        'config.toml:13: oscp.allowed_networks = ["10.0.0.1/8"]: '
        'expected a list of networks such as "10.0.0.0/8"; did you mean 10.0.0.0/8?',
        "config.toml:17: measurements.settle_s = Infinity: expected a number from 0 to 900",
    ]


def test_faults_of_devices_name_the_line_of_the_device_or_the_key(tmp_path: Path) -> None:
    text = f"""\
{BATTERY}soc_min = 90
soc_max = 20
{BATTERY}api = "v2"
[[device]]
name = "fuel-cell"
type = "bluegen"
base_url = "ftp://example.org"
node_id = 4
password = 1234
[[device]]
name = "unknown"
type = "batery"
"""
    assert faults(tmp_path, text) == [
        "config.toml:9: device.soc_min = 90: expected soc_min below soc_max",
        'config.toml:13: device.name = "cellar": '
        "expected a name that another one (line 3) does not have",
        'config.toml:19: device.api = "v2": expected a token beside api v2',
        "config.toml:20: device.username: expected a text; it is required",
        "config.toml:20: device.unit_id: expected a whole number of at least 0; it is required",
        'config.toml:23: device.base_url = "ftp://example.org": '
        "expected a URL that starts with http:// or https://",
        "config.toml:24: device.node_id = 4: expected node_id and source_id together",
        'config.toml:25: device.password = "***": expected a text',
        'config.toml:28: device.type = "batery": expected "bluegen" or "battery" or "myems" or '
        '"reengen"; did you mean battery?',
    ]


def test_two_devices_cannot_write_one_datum_stream(tmp_path: Path) -> None:
    other = BATTERY.replace("cellar", "attic")
    text = f'{BATTERY}node_id = 1\nsource_id = "/b"\n{other}node_id = 1\nsource_id = "b"'
    assert faults(tmp_path, text) == [
        'config.toml:20: device.source_id = "b": '
        "expected a source_id that another one (line 10) does not have"
    ]


def test_nor_can_a_device_and_a_platform_or_two_platforms(tmp_path: Path) -> None:
    platform = """
[[platform]]
name = "{name}"
type = "myems"
base_url = "http://example.org"
api_key = "secret"
[[platform.stream]]
meter = 6
node_id = 1
source_id = "{source_id}"
"""
    texts = [
        BATTERY + 'node_id = 1\nsource_id = "/b"\n',
        platform.format(name="one", source_id="b"),
        platform.format(name="two", source_id="/c"),
        platform.format(name="three", source_id="c"),
    ]
    assert [fault.partition(": ")[2] for fault in faults(tmp_path, "".join(texts))] == [
        'platform.stream.source_id = "b": expected a source_id that device cellar does not have',
        'platform.stream.source_id = "c": expected a source_id that platform two does not have',
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a = ", "config.toml:1: expected TOML (Invalid value)"),
        ("[http]\n\nx = 1\nx = 2\n", "config.toml:4: expected TOML (Cannot overwrite a value)"),
        ("a = [1,\n2", "config.toml:2: expected TOML (Unclosed array)"),
        ("http = 5", "config.toml:1: http = 5: expected a table"),
        ("http = [5]", "config.toml:1: http = [5]: expected a table"),
        (
            '[device]\npassword = "geheim"',
            "config.toml:1: device: expected tables, each under [[device]]",
        ),
        ('device = ["b"]', 'config.toml:1: device = "b": expected a table'),
        (
            "[[device]]\n",
            'config.toml:1: device.type: expected "bluegen" or "battery" or "myems" or "reengen"',
        ),
        (
            '[[mqtt.subscribe]]\ntopic = "a/#/b"',
            'config.toml:2: mqtt.subscribe.topic = "a/#/b": '
            "expected an MQTT topic filter such as node/+/datum/0/#",
        ),
        (
            '[[mqtt.subscribe]]\ntopic = "$share/+/a"',
            'config.toml:2: mqtt.subscribe.topic = "$share/+/a": '
            "expected an MQTT topic filter such as node/+/datum/0/#",
        ),
        (
            'mqtt.instance = "a/b"',
            'config.toml:1: mqtt.instance = "a/b": expected one topic level, without / + #',
        ),
        (
            'mqtt = { url = "mqtt://me:geheim@b" }',
            'config.toml:1: mqtt.url = "mqtt://***@b": '
            "expected a URL without user name and password in it",
        ),
        (
            '[mqtt]\npasword = "geheim"',
            "config.toml:2: mqtt.pasword: expected a known key; did you mean password?",
        ),
        (
            '[mqtt]\npassword = "geheim"',
            "config.toml:2: mqtt.password: expected username beside password",
        ),
        (
            '[mqtt]\nusername = "fpd"\npassword = "geheim"\npassword_file = "broker"',
            "config.toml:4: mqtt.password_file: expected only one of password and password_file",
        ),
        (
            '[mqtt]\nusername = "fpd"\npassword_file = "/nowhere"',
            'config.toml:3: mqtt.password_file = "/nowhere": '
            "expected a file that can be read (No such file or directory)",
        ),
        (
            '[http]\ntls_cert = "config.toml"',
            'config.toml:2: http.tls_cert = "config.toml": expected tls_cert and tls_key together',
        ),
        (
            '[oscp]\nca_file = "nowhere.crt"',
            'config.toml:2: oscp.ca_file = "nowhere.crt": '
            "expected a file that can be read (No such file or directory)",
        ),
        (
            '[mqtt]\nca_file = "config.toml"',
            'config.toml:2: mqtt.ca_file = "config.toml": expected an mqtts:// url beside ca_file',
        ),
    ],
)
def test_one_fault(tmp_path: Path, text: str, fault: str) -> None:
    assert faults(tmp_path, text) == [fault]


def test_a_file_that_is_not_there_is_said_beside_other_faults(tmp_path: Path) -> None:
    with pytest.raises(ConfigFaults) as caught:
        load(tmp_path / "none.toml", HOME | {"FPD_MQTT__QOS": "3"})
    assert [str(fault) for fault in caught.value.faults] == [
        f"{tmp_path}/none.toml: expected a file that can be read (No such file or directory)",
        "FPD_MQTT__QOS: mqtt.qos = 3: expected 0 or 1",
    ]


def test_a_file_in_another_encoding_is_said_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_bytes('[log]\n# für später\nlevel = "info"'.encode("latin-1"))
    with pytest.raises(ConfigFaults, match=r"config\.toml:2: expected text in UTF-8"):
        load(file, HOME)


def test_lines_are_found_through_everything_that_toml_allows() -> None:
    text = '''\
# comment with [http] and key = 1
title = """
[http]
listen = 1
""" # after
http.listen = "[x]"
"quoted.key" = 'it # is'

[mqtt] # table
url = "a\\"b # c"
list = [ # [nested]
  "]", [1, 2],
  { a = 1 },
]
[[mqtt.subscribe]]
topic = "1"
[[ mqtt . subscribe ]]
topic = "2"
[[device]]
a.b = 1979-05-27T07:32:00.5Z
[device.sub]
x = 1.5
'''
    tomllib.loads(text)
    lines = locate(text)
    assert {
        ("title",): 2,
        ("http", "listen"): 6,
        ("quoted.key",): 7,
        ("mqtt",): 9,
        ("mqtt", "url"): 10,
        ("mqtt", "list"): 11,
        ("mqtt", "subscribe", 0, "topic"): 16,
        ("mqtt", "subscribe", 1): 17,
        ("mqtt", "subscribe", 1, "topic"): 18,
        ("device", 0, "a", "b"): 20,
        ("device", 0, "sub", "x"): 22,
    }.items() <= lines.items()
    assert ("http",) not in lines


@unhurried
@given(
    st.dictionaries(
        st.text("abc-_1", min_size=1),
        st.one_of(
            st.integers(),
            st.booleans(),
            st.text(st.characters(max_codepoint=0x2FF, exclude_categories=["Cc"])),
        ),
        max_size=8,
    )
)
def test_lines_are_found_for_any_key_and_value(table: dict[str, object]) -> None:
    values = {
        key: f"'''\n{value}\n'''" if isinstance(value, str) and "'" not in value else "true"
        for key, value in table.items()
    }
    text = "".join(f"\n# {key} = 1\n{key} = {value}\n" for key, value in values.items())
    written = text.split("\n")
    lines = locate(text)
    assert {key for (key,) in lines} == table.keys() == tomllib.loads(text).keys()
    assert all(written[line - 1].startswith(f"{key} = ") for (key,), line in lines.items())


ANY_TEXT = st.text(st.characters(max_codepoint=0x2FF))
ANY_VALUE = st.one_of(
    st.booleans(),
    st.integers(),
    st.sampled_from(["nan", "inf", "-inf", "1e400", "1979-05-27T07:32:00Z", "07:32:00"]),
    ANY_TEXT.map(json.dumps),
    st.sampled_from(["{}", "[]", "[[]]", "[{}]", "[1, 'x', {a = 1}]", "{a.b = [1]}"]),
    st.sampled_from(["a://", "http://[", "mqtt://x:99999", "[::]:1", "~nobody/x", "//", "#", "+"])
    .map(json.dumps),
)  # fmt: skip
ANY_KEY = st.sampled_from(
    [
        *((table.key, key) for table in settings(Config).values() if table.table
          for setting in settings(table.table).values() for key in setting.keys),
        *(("device", key) for type_ in TYPES.values()
          for setting in settings(type_.keys).values() for key in setting.keys),
        *((key,) for setting in settings(Config).values() for key in setting.keys),
    ]
)  # fmt: skip


@unhurried
@given(st.dictionaries(ANY_KEY, ANY_VALUE, max_size=4))
def test_nothing_in_a_file_is_worse_than_a_fault(
    tmp_path_factory: pytest.TempPathFactory, given: dict[tuple[str, ...], object]
) -> None:
    written = {key: str(value).lower() if value in (True, False) else value
               for key, value in given.items()}  # fmt: skip
    lines = [f"{key} = {value}" for (key, *inner), value in written.items() if not inner]
    lines += [f"{table}.{key[0]} = {value}" for (table, *key), value in written.items()
              if key and table != "device"]  # fmt: skip
    lines += ["[[device]]", 'type = "battery"'] * any(key[0] == "device" for key in written)
    lines += [f"{key[0]} = {value}" for (table, *key), value in written.items()
              if key and table == "device" and key != ["type"]]  # fmt: skip
    told(tmp_path_factory.getbasetemp(), "\n".join(lines), {})


@unhurried
@given(
    st.dictionaries(
        st.sampled_from(["FPD_DATA_DIR", "FPD_HTTP__LISTEN", "FPD_OSCP__ALLOWED_NETWORKS",
                         "FPD_MQTT__SUBSCRIBE", "FPD_DEVICE", "FPD_MQTT__QOS", "FPD_LOG__LEVEL",
                         "FPD_CONTROL__INTERVAL_S", "FPD_DATABASE__URL_FILE", "FPD_", "FPD___"]),
        st.one_of(ANY_TEXT, st.sampled_from(["[", "[[1]]", '[{"topic": "#"}]', "1,2", "{}"])),
    )
)  # fmt: skip
def test_nothing_in_the_environment_is_worse_than_a_fault(
    tmp_path_factory: pytest.TempPathFactory, environ: dict[str, str]
) -> None:
    told(tmp_path_factory.getbasetemp(), "", environ)


def told(folder: Path, text: str, environ: dict[str, str]) -> None:
    file = folder / "any.toml"
    file.write_text(text, encoding="utf-8")
    try:
        assert isinstance(load(file, HOME | environ), Config)
    except ConfigFaults as refused:
        assert refused.faults
        assert all(fault.expected and "\n" not in str(fault) for fault in refused.faults)
