"""Whether processes are still there."""

from __future__ import annotations

import time

from sandbox.processes import processes


def remaining(pids: set[int], seconds: float) -> set[int]:
    """Those of `pids` that are still there after at most `seconds`."""
    deadline = time.monotonic() + seconds
    while (left := pids & processes().keys()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left
