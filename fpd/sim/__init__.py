"""The other side of every door: honest small servers that are quirky on demand.

They judge fpd independently: nothing here imports fpd but `fpd.errors`, and messages are written
from the references. `fpd.sim.roles` lists them, `fpd.sim.command` puts them on the command line.
"""
