"""The process tree as /proc shows it: who is there, and what it has used."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclasses.dataclass(frozen=True)
class Process:
    """A living process.

    Attributes:
      parent: process id of its parent.
      cpu_seconds: CPU time of it and of the children that it has waited for, in steps of a clock tick (10 ms).
      resident_bytes: memory that it has in RAM, shared pages included.
    """

    parent: int
    cpu_seconds: float
    resident_bytes: int


def processes() -> dict[int, Process]:
    """All processes of the machine by their ids, zombies left out."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            # A process may end while it is read.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                # See proc(5); the fields are counted from the one after the name, which may hold anything.
                fields = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()
                if fields[0] not in "ZX":
                    ticks = sum(map(int, fields[11:15]))
                    found[int(name)] = Process(int(fields[1]), ticks / _TICKS, int(fields[21]) * _PAGE_BYTES)
    return found


def descendants(pid: int, among: dict[int, Process] | None = None) -> set[int]:
    """All processes below `pid`; `among` are those of the machine, if they were listed already."""
    everyone = processes() if among is None else among
    found: set[int] = set()
    while True:
        more = {child for child, process in everyone.items() if process.parent in found | {pid}} - found
        if not more:
            return found
        found |= more


def tree_cpu_seconds(pid: int) -> float:
    """CPU time of `pid`, of all below it, and of those below it that have ended and were waited for."""
    everyone = processes()
    return sum(everyone[member].cpu_seconds for member in descendants(pid, everyone) | ({pid} & everyone.keys()))
