"""fpd: a self-hosted OSCP 2.0 Flexibility Provider."""

__version__ = "0.1.0"
