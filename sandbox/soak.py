"""Runs many programs, one in twenty of them hostile, and says whether the sandbox wears out.

    python -m sandbox.soak --executions 100000

Right and wrong programs of both forms and the attacks of `sandbox.attacks` are drawn with a seed, in blocks. Each tenth
of the run judges the same blocks, every time in another order, so tenths can be compared. Every verdict is checked.
After each block memory, descriptors and processes are counted, and the CPU time that the caller and all below it have
used. Status 1, with the reasons, when a verdict was wrong, when anything grew or was left behind, or when the last
tenth took more CPU time than the first.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import math
import os
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

from o1coder_jax.errors import UserError, run_command
from o1coder_jax.records import TestCase, Verdict
from sandbox.attacks import ATTACKS
from sandbox.limits import Limits
from sandbox.pool import Pool, SandboxConfig, Submission
from sandbox.processes import descendants, processes, tree_cpu_seconds

# A script, the same as a function, and what both must give for a list of integers.
_TASKS: tuple[tuple[str, str, Callable[[list[int]], Any]], ...] = (
    ("print(sum(map(int, input().split())))", "def f(x): return sum(x)", sum),
    ("import sys; print(max(map(int, sys.stdin.read().split())))", "def f(x): return max(x)", max),
    (
        "x = sorted(map(int, input().split()))\nprint(x[0] * x[-1])",
        "class Solution:\n    def f(self, x): return min(x) * max(x)",
        lambda x: min(x) * max(x),
    ),
)
_TESTS = 8  # of an ordinary program; a hostile one has one
_NUMBERS = 6
_LIMITS = Limits(cpu_seconds=0.2, wall_seconds=6.0, memory_mb=256, output_mb=1.0)
_IDLE_SECONDS = 0.5
_SLOW = (Verdict.TIME_LIMIT, Verdict.IDLE_LIMIT, Verdict.MEMORY_LIMIT)
_SLOW_WEIGHT = 0.1  # these run into their limits, and would take most of the time
_TENTHS = 10
_BLOCK = 1000
_SETTLE_SECONDS = 3.0
_TICK_SECONDS = 0.01  # less CPU time is counted as none
_MEMORY_ALLOWANCE_BYTES = 8 << 20  # of the caller, and of all workers together
_OURS = "/o1coder-"  # how our own temporary files are called
_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")


@dataclasses.dataclass(frozen=True)
class Case:
    """A program and the verdict that it must get."""

    submission: Submission
    verdict: str


@dataclasses.dataclass(frozen=True)
class Sample:
    """What was counted after a block.

    Attributes:
      cpu_seconds: used for the block by the caller and all below it.
      caller_bytes, workers_bytes: resident memory, of the caller and of all below it.
      descriptors: open ones of the caller and of all below it that it may look at.
      processes: below the caller.
    """

    cpu_seconds: float
    caller_bytes: int
    workers_bytes: int
    descriptors: int
    processes: int


def draw_block(executions: int, hostile: float, rng: random.Random) -> list[Case]:
    """Programs with about `executions` tests in all, a share of `hostile` of them attacks."""
    attacks = round(executions * hostile)
    weights = [_SLOW_WEIGHT if attack.verdict in _SLOW else 1.0 for attack in ATTACKS]
    chosen = rng.choices(ATTACKS, weights, k=attacks)
    cases = [Case(attack.submission(_LIMITS, _IDLE_SECONDS), attack.verdict) for attack in chosen]
    return cases + [_ordinary(rng) for _ in range(-(-(executions - attacks) // _TESTS))]


def _ordinary(rng: random.Random) -> Case:
    """A right program, or one that solves another task than it is asked to."""
    (script, function, own), (_, _, another) = rng.sample(_TASKS, 2)
    right, call_form = rng.random() < 0.5, rng.random() < 0.5
    answer = own if right else another
    tests = []
    for _ in range(_TESTS):
        numbers = [rng.randint(2, 1000) for _ in range(_NUMBERS)]
        value = answer(numbers)
        tests.append(TestCase([numbers], value) if call_form else TestCase(" ".join(map(str, numbers)), str(value)))
    code, fn_name = (function, "f") if call_form else (script, None)
    submission = Submission("ordinary", code, tuple(tests), fn_name, limits=_LIMITS)
    return Case(submission, Verdict.ACCEPTED if right else Verdict.WRONG_ANSWER)


class Soak:
    """Judges blocks and counts what is there after each."""

    def __init__(self, pool: Pool):
        self._pool = pool
        self._idle = len(descendants(os.getpid()))
        self._files = _files()
        self.samples: list[Sample] = []
        self.wrong: list[str] = []

    def run(self, cases: list[Case]) -> Sample:
        """Judges a block."""
        before = tree_cpu_seconds(os.getpid())
        judgements = self._pool.judge(case.submission for case in cases)
        for case, judgement in zip(cases, judgements, strict=True):
            if judgement.verdict != case.verdict:
                detail = next((test.detail for test in judgement.tests if test.detail), "")
                name = case.submission.id
                self.wrong.append(
                    f"{name}: {judgement.verdict} where {case.verdict} is right ({detail or 'no detail'})"
                )
        self._settle()
        self.samples.append(_count(tree_cpu_seconds(os.getpid()) - before))
        return self.samples[-1]

    def files_left(self) -> list[str]:
        """New temporary files of the programs' users, or of ours by their name, that do not go away.

        Where programs run as the user who runs this, theirs cannot be told from others of that user.
        """
        owners = _users(descendants(os.getpid()))
        deadline = time.monotonic() + _SETTLE_SECONDS
        left = _files().keys() - self._files.keys()
        while True:
            now = _files()
            left = {path for path in left & now.keys() if now[path] in owners or _OURS in path}
            if not left or time.monotonic() >= deadline:
                return sorted(left)
            time.sleep(0.1)

    def _settle(self) -> None:
        """Gives the processes of the last program time to end."""
        deadline = time.monotonic() + _SETTLE_SECONDS
        while len(descendants(os.getpid())) > self._idle and time.monotonic() < deadline:
            time.sleep(0.02)


def _count(cpu_seconds: float) -> Sample:
    everyone, me = processes(), os.getpid()
    below = descendants(me, everyone)
    descriptors = 0
    for pid in below | {me}:
        with contextlib.suppress(PermissionError, FileNotFoundError, ProcessLookupError):
            descriptors += len(os.listdir(f"/proc/{pid}/fd"))
    workers_bytes = sum(everyone[pid].resident_bytes for pid in below)
    return Sample(cpu_seconds, everyone[me].resident_bytes, workers_bytes, descriptors, len(below))


def _users(pids: set[int]) -> set[int]:
    """The users of processes, but for our own."""
    found: set[int] = set()
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError), open(f"/proc/{pid}/status") as file:
            found.update(int(line.split()[1]) for line in file if line.startswith("Uid:"))
    return found - {os.geteuid()}


def _files() -> dict[str, int]:
    """What lies in the folders that anyone may write to, with its owner."""
    found = {}
    for folder in _FOLDERS:
        with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    found[entry.path] = entry.stat(follow_symlinks=False).st_uid
    return found


def tenths(samples: list[Sample]) -> list[list[Sample]]:
    """The samples in ten equal parts, in order."""
    size = len(samples) // _TENTHS
    return [samples[i * size : (i + 1) * size] for i in range(_TENTHS)]


def costs(samples: list[Sample]) -> list[float]:
    """For each tenth, the CPU time of a block over the least that the same block took in the whole run.

    The best of a tenth's blocks is taken: other work on the machine makes blocks slower, never faster.
    """
    parts = tenths(samples)
    least = [min(max(sample.cpu_seconds, _TICK_SECONDS) for sample in same) for same in zip(*parts, strict=True)]
    return [
        min(max(sample.cpu_seconds, _TICK_SECONDS) / best for sample, best in zip(part, least, strict=True))
        for part in parts
    ]


def findings(samples: list[Sample], tolerance: float) -> list[str]:
    """What grew since the second tenth, by which all is warm; `tolerance` is the share by which CPU time may."""
    parts = tenths(samples)
    found = []
    for name in ("caller_bytes", "workers_bytes"):
        early, late = (min(getattr(sample, name) for sample in part) for part in (parts[1], parts[-1]))
        if late > early + _MEMORY_ALLOWANCE_BYTES:
            found.append(f"memory of the {name.partition('_')[0]} grew from {early >> 20} to {late >> 20} MiB")
    once = max(sample.processes for sample in parts[1]) + 1  # one came late beside other work; a leak grows on
    for name, allowed in (("descriptors", once), ("processes", 0)):
        early, late = (min(getattr(sample, name) for sample in part) for part in (parts[1], parts[-1]))
        if late > early + allowed:
            found.append(f"{name} grew from {early} to {late}")
    ratio = costs(samples)[-1] / costs(samples)[0]
    if ratio > 1 + tolerance:
        found.append(f"the last tenth took {ratio:.2f} times the CPU time of the first")
    return found


def _rows(samples: list[Sample], executions: int) -> Iterator[str]:
    yield "tenth   CPU ms an execution   against the best   caller MiB   workers MiB   descriptors   processes"
    for number, (part, cost) in enumerate(zip(tenths(samples), costs(samples), strict=True), 1):
        last = part[-1]
        mean = sum(sample.cpu_seconds for sample in part) * 1000 / executions
        memory = f"{last.caller_bytes / 2**20:10.1f} {last.workers_bytes / 2**20:13.1f}"
        yield f"{number:5} {mean:21.3f} {cost:18.3f}   {memory} {last.descriptors:13} {last.processes:11}"


def _arguments() -> argparse.Namespace:
    default = SandboxConfig()
    parser = argparse.ArgumentParser(
        prog="python -m sandbox.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--executions", type=int, default=100_000, help="tests to run (100000)")
    parser.add_argument("--hostile", type=float, default=0.05, help="share of them that are attacks (0.05)")
    parser.add_argument("--tolerance", type=float, default=0.1, help="by which the last tenth may be slower (0.1)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=default.workers)
    parser.add_argument("--isolation", default=default.isolation, choices=("auto", "full", "reduced"))
    arguments = parser.parse_args()
    if arguments.executions < _TENTHS * _TESTS:
        raise UserError(f"--executions is {arguments.executions}; give at least {_TENTHS * _TESTS}")
    if not 0 <= arguments.hostile < 1:
        raise UserError(f"--hostile is {arguments.hostile}; give a share from 0 to below 1")
    if not 0 <= arguments.tolerance < math.inf:
        raise UserError(f"--tolerance is {arguments.tolerance}; give a share that is not negative")
    return arguments


def main() -> int:
    """The command."""
    arguments = _arguments()
    blocks = max(1, arguments.executions // (_TENTHS * _BLOCK))
    rng = random.Random(arguments.seed)
    size = -(-arguments.executions // (_TENTHS * blocks))
    kinds = [draw_block(size, arguments.hostile, rng) for _ in range(blocks)]
    executions = sum(case.submission.total for cases in kinds for case in cases)
    started = time.monotonic()
    with Pool(SandboxConfig(workers=arguments.workers, isolation=arguments.isolation, cache_entries=0)) as pool:
        print(f"sandbox isolation: {pool.isolation}; {_TENTHS} times {executions} executions", flush=True)
        soak = Soak(pool)
        for tenth in range(_TENTHS):
            for cases in kinds:
                rng.shuffle(cases)
                soak.run(cases)
            print(f"{(tenth + 1) * executions} in {time.monotonic() - started:.0f} s", flush=True)
        reasons = soak.wrong[:_TENTHS] + findings(soak.samples, arguments.tolerance)
        reasons += [f"{path} was left behind" for path in soak.files_left()]
    print("\n".join(_rows(soak.samples, executions)))
    print(f"{_TENTHS * executions} executions, {len(soak.wrong)} wrong verdicts")
    for reason in reasons:
        print(f"failed: {reason}")
    return 1 if reasons else 0


if __name__ == "__main__":
    run_command(main)
