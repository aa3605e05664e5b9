"""The same daemon as in the stories, but started anew each time."""

import os

from stories.conftest import daemon, make_daemon

os.environ["FPD_TEST_FRESH"] = "1"  # what is measured starts as it does elsewhere

__all__ = ["daemon", "make_daemon"]
