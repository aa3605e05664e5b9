"""The numbers of a report: exact sums of fractions, rounded once."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Final

_PLACES: Final = 9  # decimal places of a reported number
_UNIT: Final = 10**_PLACES
_FINE: Final = 10**24  # how finely a sum is looked at before it is made exact


def reported(value: Fraction) -> Decimal:
    """Return the number that goes into a message: at most nine decimal places.

    >>> reported(Fraction(2, 3)), reported(Fraction(1200))
    (Decimal('0.666666667'), Decimal('1200'))
    """
    over, under = value.as_integer_ratio()
    return Decimal(over) if under == 1 else _number(_rounded(over * _UNIT, under))


class Total:
    """A sum of fractions, exact however many they are.

    A hundred thousand fractions have a common denominator of a million digits, so there is one
    sum for each denominator.
    """

    def __init__(self) -> None:
        self._sums: dict[int, int] = {}

    def add(self, value: Fraction, times: int = 1) -> None:
        """Add so many times a value."""
        denominator = value.denominator
        self._sums[denominator] = self._sums.get(denominator, 0) + value.numerator * times

    def exactly(self) -> Fraction:
        """Return the sum; of many different denominators that takes long."""
        parts = [Fraction(over, under) for under, over in self._sums.items()] or [Fraction(0)]
        while len(parts) > 1:
            parts = [sum(parts[n : n + 2], Fraction(0)) for n in range(0, len(parts), 2)]
        return parts[0]

    def reported(self, divisor: int = 1) -> Decimal:
        """Return the divided sum as `reported` rounds it.

        The sum lies between those of the fractions rounded down and rounded up; as a rule both
        are rounded to the same number, and else the exact sum decides.
        """
        fine = _UNIT * _FINE
        low = inexact = 0
        for under, over in self._sums.items():
            whole, rest = divmod(over * fine, under * divisor)
            low += whole
            inexact += rest > 0
        least, most = _rounded(low, _FINE), _rounded(low + inexact, _FINE)
        return _number(least) if least == most else reported(self.exactly() / divisor)


def _rounded(over: int, under: int) -> int:
    """Return the whole number nearest to a fraction, of two the even one."""
    whole, rest = divmod(over, under)
    twice = 2 * rest - under
    return whole + (twice > 0 or (twice == 0 and whole & 1))


def _number(units: int) -> Decimal:
    whole, rest = divmod(abs(units), _UNIT)
    sign = "-" if units < 0 else ""
    if not rest:
        return Decimal(f"{sign}{whole}")
    return Decimal(f"{sign}{whole}.{rest:0{_PLACES}d}".rstrip("0"))
