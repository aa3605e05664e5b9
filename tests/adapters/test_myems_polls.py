"""What is read of MyEMS becomes the right datum, whatever it leaves out, renames or delays."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from adapters.myems_server import Bench, bench, row
from adapters.rig import WEDNESDAY

from fpd.adapters.device import Stopped, Unreachable
from fpd.adapters.myems_errors import Missing
from fpd.adapters.myems_reports import layout
from fpd.adapters.myems_shapes import MeterPoint
from fpd.adapters.myems_time import strange
from fpd.config_myems import MyemsPlatform
from fpd.config_together import TOGETHER

REGISTER, POWER, SOC = row(meter=6), row(meter=6, point=14), row(meter=6, point=13)
STATE = row(meter=6, point=17, property_name="state", property_class="s")
METER = (REGISTER, POWER, SOC, STATE)


@pytest.fixture
async def at() -> AsyncIterator[Bench]:
    async with bench(history_h=8.0) as made:
        yield made


async def test_a_meters_hour_becomes_datum_in_utc(at: Bench) -> None:
    reading = await at.poll("meter/6", *METER)
    assert reading.dispatchable and len(reading.samples) == 60
    last = reading.samples[-1]
    assert last.at == WEDNESDAY - timedelta(minutes=1)
    assert last.instantaneous == {"watts": 0, "soc": 55}
    assert last.accumulating == {"wattHours": Decimal("200000")}
    assert last.status == {"state": "1"}
    at.clock.move(minutes=3)
    assert [one.at for one in (await at.poll("meter/6")).samples] == [
        WEDNESDAY + timedelta(minutes=n) for n in (1, 2, 3)
    ]
    assert (await at.poll("meter/6")).samples == ()


@pytest.mark.parametrize("account", [False, True])
@pytest.mark.parametrize("offset", ["+08:00", "+00:00", "+05:00", "+06:00", "-03:30"])
async def test_another_offset_than_configured_is_refused(
    at: Bench, offset: str, account: bool
) -> None:
    at.sim.switch({"utc_offset": offset})
    with pytest.raises(Stopped, match="offset"):
        await at.poll("meter/6", *METER, admin=account)
    at.sim.switch(None)
    assert (await at.poll("meter/6")).samples


async def test_an_older_server_has_no_log_to_tell_its_offset(at: Bench) -> None:
    at.sim.switch({"version": "5.10.0", "utc_offset": "+06:30"})
    with pytest.raises(Stopped, match=r"59 min in the future"):
        await at.poll("meter/6", *METER, admin=True)
    assert at.asked("/logs") == []


def test_a_second_ahead_is_no_wonder() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert strange([now + timedelta(seconds=1), now - timedelta(minutes=60)], now=now) is None
    assert strange([], now=now) is None


async def test_a_gap_is_filled_hour_by_hour_over_a_restart(at: Bench) -> None:
    await at.poll("meter/6", *METER)
    at.clock.move(hours=4, minutes=30)
    found = (await at.poll("meter/6")).samples
    seen = {one.at for one in found}
    slices = 1
    while True:
        if slices == 2:
            at.restart()
        reading = await at.poll("meter/6", *METER)
        seen |= {one.at for one in reading.samples}
        slices += 1
        if reading.again_s is None:
            break
    expected = {WEDNESDAY + timedelta(minutes=n) for n in range(1, 271)}
    assert expected <= seen
    assert slices == 4 and len(at.asked("metertrend")) == 4
    await at.poll("meter/6")
    assert len(at.asked("metertrend")) == 4


async def test_a_gap_that_cannot_be_filled_costs_nothing_but_itself(at: Bench) -> None:
    await at.poll("meter/6", *METER)
    at.clock.move(hours=3)
    at.sim.switch({"swallows": ["metertrend"]})
    reading = await at.poll("meter/6")
    assert len(reading.samples) >= 60 and not reading.dispatchable and reading.again_s is None
    assert "0 % of a gap of 2.0 h filled" in (reading.detail or "")
    at.sim.switch(None)
    reading = await at.poll("meter/6")
    assert reading.dispatchable and "49 % of a gap" in (reading.detail or "")
    assert WEDNESDAY + timedelta(minutes=1) in {one.at for one in reading.samples}


async def test_a_point_that_was_replaced_by_its_namesake_is_noticed_within_the_hour(
    at: Bench,
) -> None:
    at.sim.switch({"names": {"10": "Power", "14": "Power"}})
    await at.sim.actions["bind"]({"meter": 6, "points": [14, 15]})
    assert (await at.poll("meter/6", POWER)).dispatchable
    await at.sim.actions["bind"]({"meter": 6, "points": [10, 15]})
    assert (await at.poll("meter/6")).dispatchable, "nothing tells them apart"
    at.clock.move(hours=1)
    assert "point 14: the meter does not have it" in ((await at.poll("meter/6")).detail or "")


async def test_short_absences_are_no_gap_and_old_ones_have_an_end(at: Bench) -> None:
    await at.poll("meter/6", *METER, backfill_days=0.25)
    at.clock.move(minutes=59)
    assert len((await at.poll("meter/6")).samples) == 59
    assert at.asked("metertrend") == []
    at.clock.move(hours=30)
    while (await at.poll("meter/6")).again_s is not None:
        pass
    assert len(at.asked("metertrend")) == 5  # 6 h are filled, the last one comes by itself


async def test_a_meter_that_stands_still_is_no_gap(at: Bench) -> None:
    await at.poll("meter/6", *METER)
    at.sim.switch({"acquisition_stopped": True})
    for _ in range(5):
        at.clock.move(minutes=30)
        await at.poll("meter/6")
    assert at.asked("metertrend") == []


async def test_a_register_alone_is_filled_by_the_quick_report(at: Bench) -> None:
    await at.poll("meter/6", REGISTER)
    at.clock.move(hours=2)
    reading = await at.poll("meter/6")
    assert "quickmode=true" in at.asked("metertrend")[0]
    assert [*reading.samples[0].accumulating] == ["wattHours"]
    assert WEDNESDAY + timedelta(minutes=1) in {one.at for one in reading.samples}


async def test_points_that_move_or_change_their_unit_are_found_again(at: Bench) -> None:
    await at.poll("meter/6", *METER)
    await at.sim.actions["bind"]({"meter": 6, "points": [10, 13, 14, 15, 17]})
    at.clock.move(minutes=1)
    (sample,) = (await at.poll("meter/6")).samples
    assert sample.instantaneous == {"watts": 0, "soc": 55}  # not the grid's 14,200 W
    at.sim.switch({"units": {"14": "W"}})
    at.sim.plant.battery_kw = 5
    at.clock.move(minutes=1)
    (sample,) = (await at.poll("meter/6")).samples
    assert sample.instantaneous["watts"] == 5  # what a W point says is W
    await at.sim.actions["bind"]({"meter": 6, "points": [13, 15, 17]})
    at.clock.move(minutes=1)
    reading = await at.poll("meter/6")
    assert not reading.dispatchable and "point 14: the meter does not have it" in reading.detail
    (sample,) = reading.samples
    assert [*sample.instantaneous] == ["soc"]


async def test_an_edited_unit_that_was_configured_is_refused(at: Bench) -> None:
    at.sim.switch({"units": {"14": "MW", "13": "furlong"}})
    reading = await at.poll("meter/6", REGISTER, row(meter=6, point=14, unit="kW"), SOC)
    assert "its unit is 'MW' now, configured is 'kW'" in reading.detail
    assert "'furlong' is not known" in reading.detail
    assert reading.samples[-1].instantaneous == {}
    assert reading.samples[-1].accumulating
    override = row(meter=6, point=13, property_name="f", property_class="i", multiplier=2.0)
    at.restart()
    assert (await at.poll("meter/6", override)).dispatchable


async def test_names_that_are_alike_take_the_types_to_tell_apart(at: Bench) -> None:
    at.sim.switch({"names": {"13": "Twin", "14": "Twin", "15": "Twin"}, "text_point": True})
    await at.poll("meter/6", *METER)
    assert not (await at.poll("meter/6")).dispatchable or at.sim.accounts.logins == 0
    at.restart()
    at.memory.clear()
    reading = await at.poll("meter/6", *METER, admin=True)
    assert reading.dispatchable
    assert reading.samples[-1].instantaneous == {"watts": 0, "soc": 55}


async def test_a_text_point_in_the_meter_is_passed_by(at: Bench) -> None:
    at.sim.switch({"text_point": True})
    reading = await at.poll("meter/6", *METER)
    assert reading.dispatchable and reading.samples[-1].status == {"state": "1"}
    at.clock.move(hours=2)
    reading = await at.poll("meter/6")
    assert len(reading.samples) == 120 and reading.samples[0].instantaneous["soc"] == 55


def test_what_cannot_be_told_apart_is_not_guessed() -> None:
    points = [MeterPoint(1, "A"), MeterPoint(2, "A"), MeterPoint(3, "B"), MeterPoint(4, "E")]
    found = layout(points, ["A (kW)", "B (kW)"], energy="E (kWh)")
    assert (found.energy, found.columns) == (4, (None, 3))
    found = layout(points, ["A (kW)", "A (kW)", "B (kW)"], energy="E (kWh)")
    assert (found.energy, found.columns) == (4, (1, 2, 3))
    assert layout(points, ["C (kW)"], energy=None).columns == (None,)


async def test_limits_drop_and_count(at: Bench) -> None:
    at.sim.switch({"values": {"13": 130}})
    reading = await at.poll("meter/6", POWER, row(meter=6, point=13, low=0.0, high=100.0))
    assert reading.refused == 60 and reading.samples[-1].instantaneous == {"watts": 0}


@pytest.mark.parametrize("quirk", ["empty_arrays", "null_meter"])
async def test_nothing_is_no_datum(at: Bench, quirk: str) -> None:
    await at.poll("meter/6", *METER)
    at.sim.switch({quirk: True})
    at.clock.move(minutes=1)
    assert (await at.poll("meter/6")).samples == ()
    at.sim.switch(None)
    assert len((await at.poll("meter/6")).samples) == 1


async def test_nonsense_from_a_server_is_no_value_and_no_end(at: Bench) -> None:
    document = {
        "meter": {},
        "energy_value": {"name": "Battery charge energy (kWh)", "timestamps": [
            "2025-03-12T11:30:00", "x", None, "2025-03-12T11:29:00"
        ], "values": [1e300, 1, 2, "7"]},
        "parameters": {"names": ["Battery SOC (\u0000)", 7, "a"], "timestamps": [[], {}, None],
                       "values": [[], 5, [True]]},
    }  # fmt: skip
    at.sim.switch({"answer_status": {"status": 200, "path": "meterrealtime", "body": document}})
    reading = await at.poll("meter/6", *METER)
    assert reading.samples == () and not reading.dispatchable


async def test_a_deleted_meter_is_missing_and_comes_back(at: Bench) -> None:
    await at.poll("meter/6", *METER)
    await at.sim.actions["bind"]({"meter": 6})
    with pytest.raises(Missing):
        await at.poll("meter/6")


async def test_points_without_a_meter_have_the_time_of_the_poll(at: Bench) -> None:
    rows = (row(point=10, unit="kW"), row(point=11, unit="kWh"))
    reading = await at.poll("points", *rows)
    (sample,) = reading.samples
    assert sample.at == WEDNESDAY and sample.instantaneous == {"watts": 14200}
    assert sample.accumulating["wattHours"] > 999_000
    assert len(at.asked("/reports")) == 1


async def test_a_point_that_is_absent_once_is_not_dead(at: Bench) -> None:
    rows = (row(point=10, unit="kW"),)
    await at.poll("points", *rows)
    at.sim.switch({"absent_once": 10})
    assert (await at.poll("points")).dispatchable
    assert (await at.poll("points")).samples
    at.sim.switch({"absent": [10]})
    for _ in range(2):
        assert (await at.poll("points")).dispatchable
    at.restart()
    reading = await at.poll("points", *rows)
    assert "point 10 is absent since 2025-03-12T06:00:00" in (reading.detail or "")
    at.sim.switch(None)
    assert (await at.poll("points")).dispatchable


@pytest.mark.parametrize(
    ("job", "what"),
    [
        ("virtualmeter/1", {"virtual_meter": 1}),
        ("offlinemeter/1", {"offline_meter": 1}),
        ("hourly/4", {"meter": 4, "hourly": True}),
    ],
)
async def test_energy_per_hour_skips_what_is_not_sure(
    at: Bench, job: str, what: dict[str, int]
) -> None:
    reading = await at.poll(job, row(**what))
    # 06:00 UTC is 11:30 there: its hours are UTC's, 10:30 to 11:30 is the last one.
    assert [one.at for one in reading.samples][-1] == WEDNESDAY - timedelta(hours=2)
    assert reading.samples[-1].instantaneous["wattHours"] == pytest.approx(13_967, abs=400)
    at.sim.switch({"hourly_zero": True})
    at.clock.move(hours=3)
    assert (await at.poll(job)).samples == ()  # not computed is a gap, never a zero
    at.sim.switch(None)
    assert len((await at.poll(job)).samples) == 3


async def test_one_stream_of_two_polls_cannot_be_configured() -> None:
    rule = next(r for r in TOGETHER[MyemsPlatform] if "stream" in r.keys)
    table = {"base_url": "", "stream": (row(meter=6), row(meter=7))}
    assert not rule.hold(table)
    assert rule.hold(table | {"stream": METER})


async def test_a_key_that_has_expired_is_told_though_the_account_reads_on(at: Bench) -> None:
    at.sim.switch({"api_key_expired": True})
    for job, what in (("meter/6", {"meter": 6}), ("points", {"point": 22, "unit": "kW"})):
        reading = await at.poll(job, row(**what), admin=True)
        assert reading.samples and not reading.dispatchable
        assert "the account reads instead" in (reading.detail or "")
    with pytest.raises(Stopped, match="key has expired"):
        await at.poll("virtualmeter/1", row(virtual_meter=1))


async def test_half_hours_of_a_server_that_counts_so_are_all_taken(at: Bench) -> None:
    stamp = "2025-03-12T{}:00".format
    rows = [(stamp(t), "1.5") for t in ("08:30", "09:00", "09:30", "10:00")]

    def told() -> dict[str, object]:
        period = {"timestamps": [a for a, _ in rows], "values": [float(v) for _, v in rows]}
        body = {"meter": {"unit_of_measure": "kWh"}, "reporting_period": period}
        return {"answer_status": {"status": 200, "body": body, "path": "/reports/meterenergy"}}

    at.sim.switch(told())
    first = await at.poll("hourly/4", row(meter=4, hourly=True))
    assert [one.at.strftime("%H:%M") for one in first.samples] == [
        "03:00",
        "03:30",
        "04:00",
        "04:30",
    ]
    rows.append((stamp("10:30"), "2"))
    at.sim.switch(told())
    at.clock.move(hours=1)
    again = await at.poll("hourly/4")
    assert [f"{one.at:%H:%M}" for one in again.samples] == ["05:00"]


async def test_what_is_down_says_so(at: Bench) -> None:
    at.sim.switch({"database_down": True})
    with pytest.raises(Unreachable):
        await at.poll("meter/6", *METER)
