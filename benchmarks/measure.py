"""Measures things side by side, on a machine that may have other work: alternating rounds, wall time and CPU time."""

from __future__ import annotations

import dataclasses
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sandbox.processes import tree_cpu_seconds

# A core that is kept busy by what is measured alone shows this share of CPU time in wall time.
_QUIET_SHARE = 0.9
BUSY = ", the machine was busy"


@dataclasses.dataclass(frozen=True)
class Round:
    """How long a number of equal things took: wall time, and CPU time of this process and all below it (seconds)."""

    count: int
    wall_seconds: float
    cpu_seconds: float


def timed(action: Callable[[], int]) -> Round:
    """Runs `action`, which says how many things it did."""
    cpu, wall = tree_cpu_seconds(os.getpid()), time.perf_counter()
    count = action()
    wall = time.perf_counter() - wall
    return Round(count, wall, tree_cpu_seconds(os.getpid()) - cpu)


def alternate(actions: Mapping[str, Callable[[], int]], rounds: int) -> dict[str, list[Round]]:
    """Rounds of each action in turn, after one that only warms up."""
    for action in actions.values():
        action()
    found: dict[str, list[Round]] = {name: [] for name in actions}
    for _ in range(rounds):
        for name, action in actions.items():
            found[name].append(timed(action))
    return found


def rates(rounds: list[Round]) -> dict[str, Any]:
    """Things a second of wall time and of CPU time: minimum, median and maximum of the rounds."""

    def spread(values: list[float]) -> dict[str, float]:
        return {"min": _short(min(values)), "median": _short(statistics.median(values)), "max": _short(max(values))}

    return {
        "rounds": len(rounds),
        "things_a_round": rounds[0].count,
        "per_wall_second": spread([r.count / r.wall_seconds for r in rounds]),
        "per_cpu_second": spread([r.count / max(r.cpu_seconds, 1e-3) for r in rounds]),
    }


def speedup(ours: list[Round], theirs: list[Round], *, cores: int = 1) -> dict[str, Any]:
    """Our rate over theirs, as the median over pairs of rounds.

    By wall time where each side had its cores to itself, otherwise by CPU time. Where ours has several `cores` it is
    by wall time in any case, since CPU time says nothing of them.
    """
    pairs = list(zip(ours, theirs, strict=True))
    wall = [(a.count / a.wall_seconds) / (b.count / b.wall_seconds) for a, b in pairs]
    cpu = [(a.count / max(a.cpu_seconds, 1e-3)) / (b.count / max(b.cpu_seconds, 1e-3)) for a, b in pairs]
    quiet = min(busy_share(ours) / cores, busy_share(theirs)) >= _QUIET_SHARE
    by_wall = quiet or cores > 1
    return {
        "value": _short(statistics.median(wall if by_wall else cpu)),
        "by": ("wall time" if by_wall else "CPU time") + ("" if quiet else BUSY),
        "wall": _short(statistics.median(wall)),
        "cpu": _short(statistics.median(cpu)),
    }


def busy_share(rounds: list[Round]) -> float:
    """CPU time in a second of wall time, as the median."""
    return statistics.median(r.cpu_seconds / r.wall_seconds for r in rounds)


def is_quiet(rounds: list[Round]) -> bool:
    return busy_share(rounds) >= _QUIET_SHARE


def environment() -> dict[str, Any]:
    """What the figures depend on."""
    cpu = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("model name", "Model")):
            cpu = line.partition(":")[2].strip()
            break
    return {
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "machine": f"{platform.machine()} {cpu}".strip(),
        "cores": len(os.sched_getaffinity(0)),
        "load_before": [_short(value) for value in os.getloadavg()],
        "user": "root" if os.geteuid() == 0 else "ordinary",
    }


def _short(value: float) -> float:
    """Four significant digits."""
    return float(f"{value:.4g}")
