"""Who carries what: nothing is lost and nobody carries more than he can."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from fpd.domain.control.dispatch import Asset, dispatch, proportional, ramp_bridge, waterfill

assets = st.lists(
    st.tuples(st.integers(1, 3), st.integers(0, 5000), st.integers(0, 5000)), max_size=6
).map(
    lambda rows: [
        Asset(id=f"a{n}", priority=p, headroom_up_w=up, headroom_down_w=down)
        for n, (p, up, down) in enumerate(rows)
    ]
)


@given(st.integers(-20000, 20000), assets)
def test_a_need_is_shared_out_whole_and_in_order(need_w: int, assets: list[Asset]) -> None:
    found = dispatch(need_w, assets)
    assert sum(found.delta_w.values()) + found.residual_w == need_w
    assert found.residual_w * need_w >= 0
    for asset in assets:
        delta_w = abs(found.delta_w[asset.id])
        room_w = asset.headroom_up_w if need_w > 0 else asset.headroom_down_w
        assert delta_w <= room_w
        assert found.delta_w[asset.id] * need_w >= 0
        # Whoever comes before one that is asked, or before a residual, gives all.
        later = any(found.delta_w[a.id] for a in assets if a.priority > asset.priority)
        assert delta_w == room_w or not (later or found.residual_w)


@given(st.integers(0, 10_000), st.lists(st.integers(0, 5000), min_size=1, max_size=8))
def test_shares_are_whole_and_next_to_their_exact_size(total: int, weights: list[int]) -> None:
    shares = proportional(total, weights)
    whole = sum(weights)
    assert sum(shares) == (total if whole else 0)
    for got, weight in zip(shares, weights, strict=True):
        assert whole == 0 or abs(got * whole - total * weight) < whole


def test_a_ramp_is_bridged_by_the_same_energy_up_and_down() -> None:
    up = ramp_bridge(Decimal(800), Decimal(1400), slew_w_per_min=Decimal(10))
    assert up == ramp_bridge(Decimal(1400), Decimal(800), slew_w_per_min=Decimal(10))
    assert (up.minutes, up.energy_wh) == (60, 300)
    nothing = ramp_bridge(Decimal(800), Decimal(800), slew_w_per_min=Decimal(10))
    assert (nothing.minutes, nothing.energy_wh) == (0, 0)


@given(
    st.lists(st.decimals(-3000, 9000, places=1), min_size=1, max_size=8),
    st.integers(60, 7200),
    st.integers(0, 30000),
)
def test_the_lowest_flat_import_costs_no_more_than_there_is(
    load_w: list[Decimal], period_s: int, energy_wh: int
) -> None:
    found = waterfill(load_w, period_s=Decimal(period_s), energy_wh=Decimal(energy_wh))

    def cost_wh(level_w: Decimal) -> Decimal:
        return sum((max(w - level_w, Decimal(0)) for w in load_w), Decimal(0)) * period_s / 3600

    assert found.exact_level_w >= 0
    assert cost_wh(found.exact_level_w) <= energy_wh + Decimal("1e-9")
    if found.exact_level_w > 0:
        assert cost_wh(found.exact_level_w - Decimal("0.01")) > energy_wh
    assert 0 <= found.level_w - found.exact_level_w < 1
    for load, discharge_w in zip(load_w, found.discharge_w, strict=True):
        assert load - discharge_w <= found.level_w
