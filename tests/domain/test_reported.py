"""Sums of fractions are rounded as the exact sum would be."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

from hypothesis import example, given
from hypothesis import strategies as st

from fpd.domain.reported import Total, reported

NUMBERS = st.one_of(
    st.fractions(-(10**15), 10**15),
    st.fractions(-10, 10, max_denominator=30),
    st.integers(-(10**12), 10**12).map(lambda n: Fraction(n, 2 * 10**9)),
)
THIRDS_AND_HALF = [Fraction(1, 3), Fraction(2, 3), Fraction(1, 2 * 10**9)]


def exactly(values: list[Fraction], divisor: int) -> Fraction:
    """The nearest number of nine places, of two the even one, in the plainest way."""
    return Fraction(round(sum(values, Fraction(0)) / divisor * 10**9), 10**9)


@example(values=THIRDS_AND_HALF, divisor=1)
@example(values=[-value for value in THIRDS_AND_HALF], divisor=1)
@example(values=[], divisor=1)
@given(values=st.lists(NUMBERS, max_size=30), divisor=st.sampled_from([1, 1000]))
def test_a_total_is_rounded_once_and_as_exactly_as_one_number(
    values: list[Fraction], divisor: int
) -> None:
    total = Total()
    for value in values:
        total.add(value)
    assert Fraction(total.reported(divisor)) == exactly(values, divisor)
    assert reported(sum(values, Fraction(0)) / divisor) == total.reported(divisor)
    assert total.exactly() == sum(values, Fraction(0))


def test_many_denominators_add_up() -> None:
    total = Total()
    for n in range(1, 5001):
        total.add(Fraction(1, n * (n + 1)), 3)  # of all of them 3 - 3 / 5001
    assert total.reported() == Decimal("2.999400120")


def test_a_number_is_written_without_needless_places() -> None:
    written = [f"{reported(Fraction(n)):f}" for n in ("0", "-0.5", "1200", "0.0000000005", "1e-9")]
    assert written == ["0", "-0.5", "1200", "0", "0.000000001"]
