"""The calculator: frozen values in, frozen values out; no clock, no I/O, no logging below here."""
