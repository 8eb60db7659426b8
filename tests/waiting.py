"""Waiting for other processes on machines of any speed."""

import subprocess
import time
from collections.abc import Callable
from typing import Any

HANG = 600.0
"""Seconds after which a test that hangs is ended; no busy machine needs so long for what a test starts."""


def wait_until(done: Callable[[], Any], process: "subprocess.Popen[str] | None" = None) -> None:
    """Return as soon as something is so.

    Args:
        done: tells whether it is so.
        process: who brings it about; there is no point in waiting once it has ended.
    """
    given_up = time.monotonic() + HANG
    while not done():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < given_up, "this hangs"
        time.sleep(0.01)
