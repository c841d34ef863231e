"""The process tree as /proc shows it."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path


def _parents() -> dict[int, int]:
    """Process -> parent, zombies left out."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            if state not in "ZX":
                found[int(folder.name)] = int(parent)
    return found


def descendants(pid: int) -> set[int]:
    """All processes below `pid`."""
    parents = _parents()
    found: set[int] = set()
    while True:
        more = {child for child, parent in parents.items() if parent in found | {pid}} - found
        if not more:
            return found
        found |= more


def remaining(pids: set[int], seconds: float) -> set[int]:
    """Those of `pids` that are still there after at most `seconds`."""
    deadline = time.monotonic() + seconds
    while (left := pids & _parents().keys()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left
