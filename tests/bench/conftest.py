"""The same daemon as in the stories."""

from stories.conftest import daemon, make_daemon

__all__ = ["daemon", "make_daemon"]
