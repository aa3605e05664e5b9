"""Reading values from devices that write numbers as text, and texts in any case."""

from fpd.domain.lenient import integer, mapping, number, power, printable

__all__ = ["integer", "mapping", "number", "power", "printable"]
