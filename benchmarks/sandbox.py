"""What a verdict costs in the sandbox, beside what others pay for it and what the kernel asks for a fork.

    python -m benchmarks.sandbox             (about 4 minutes; writes benchmarks/results/sandbox.json)
    python -m benchmarks.sandbox --quick     (a minute, for a look; writes nothing)

Everything is on: isolation, limits, comparison, the pool; only the cache is off. What is compared runs in rounds that
alternate, on one core, to which this process and all below it are tied; the figure is the median over the rounds. It
is by wall time where the core was ours alone, otherwise by CPU time; the table says which.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.measure import BUSY, Round, alternate, environment, is_quiet, rates, speedup, timed
from o1coder_jax.errors import UserError, run_command
from o1coder_jax.records import TestCase
from sandbox import isolation
from sandbox.pool import Pool, SandboxConfig, Submission

RESULTS = Path(__file__).parent / "results" / "sandbox.json"
MANY_TESTS, FEW_TESTS = 40, 8  # a judge's problem, and a data set's
FLOOR_FORKS = 1000  # of a bare interpreter in a round
STREAMED_TESTS = 400

SCRIPT = "print(sum(map(int, input().split())))"
FUNCTION = "def f(x): return sum(x)"
NUMPY = "import numpy as np\nprint(int(np.array(input().split(), dtype=int).sum()))"

# Forks and waits as often as it is told, with the modules that a zygote has and nothing for the collector to do.
FORKS = """
import gc, os, sys
for name in sys.argv[1].split():
    __import__(name)
gc.collect()
gc.freeze()
gc.disable()
for line in sys.stdin:
    for _ in range(int(line)):
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
    print(line, end="", flush=True)
"""
# Names of the modules of a zygote, our own left out.
ZYGOTE_MODULES = """
import sys
sys.path.insert(0, sys.argv[1])
from sandbox import zygote
zygote.warm_up(None)
print(*(name for name in sys.modules if name.partition(".")[0] not in ("sandbox", "__main__")))
"""


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table; `target` is the least that is wanted, None where a figure is only told."""

    name: str
    value: float | None
    target: float | None
    by: str
    details: dict[str, Any]

    def line(self) -> str:
        value = "not to be had" if self.value is None else f"{self.value:,.4g}"
        target = "" if self.target is None else f"{self.target:,.4g}"
        met = "" if self.target is None else "yes" if self.value is not None and self.value >= self.target else "no"
        return f"{self.name:58} {value:>13} {target:>8} {met:>4}  {self.by}"


def scripts(programs: int, tests: int, code: str = SCRIPT) -> list[Submission]:
    """Right programs of the stdin form."""
    cases = tuple(TestCase(f"{i} {i + 1}\n", str(2 * i + 1)) for i in range(tests))
    return [Submission(str(n), f"{code}  # {n}", cases) for n in range(programs)]


def functions(programs: int, tests: int) -> list[Submission]:
    """The same in the call form."""
    cases = tuple(TestCase([[i, i + 1]], 2 * i + 1) for i in range(tests))
    return [Submission(str(n), f"{FUNCTION}  # {n}", cases, "f") for n in range(programs)]


def judging(pool: Pool, submissions: list[Submission]) -> Callable[[], int]:
    """Judges all and counts verdicts; a program that is not accepted would make the figure worthless."""

    def action() -> int:
        if not all(judgement.accepted for judgement in pool.judge(submissions)):
            raise UserError("a right program was not accepted; python -m sandbox.selftest says what is wrong here")
        return sum(submission.total for submission in submissions)

    return action


def running(command: list[str], times: int) -> Callable[[], int]:
    """What most judges do: an interpreter for each test."""

    def action() -> int:
        for _ in range(times):
            done = subprocess.run(command, input="1 2\n", capture_output=True, text=True, check=True)
            assert done.stdout == "3\n"
        return times

    return action


@contextlib.contextmanager
def forking(times: int) -> Iterator[Callable[[], int]]:
    """The floor: forks of an interpreter that is as warm as a zygote and does nothing else."""
    python, project = isolation.interpreter(), str(isolation.package_folder().parent)
    flags = [python, *isolation.INTERPRETER_FLAGS, "-c"]
    modules = subprocess.run([*flags, ZYGOTE_MODULES, project], capture_output=True, text=True, check=True).stdout
    pipe = subprocess.PIPE
    with subprocess.Popen([*flags, FORKS, modules], stdin=pipe, stdout=pipe, text=True, bufsize=1) as server:
        assert server.stdin is not None and server.stdout is not None

        def action() -> int:
            assert server.stdin is not None and server.stdout is not None
            server.stdin.write(f"{times}\n")
            server.stdin.flush()
            return int(server.stdout.readline())

        yield action
        server.stdin.close()


def open_pool(tier: str, workers: int) -> Pool:
    return Pool(SandboxConfig(workers=workers, isolation=tier, cache_entries=0))  # type: ignore[arg-type]


class Benchmark:
    """All measurements, on cores that are chosen once."""

    def __init__(self, quick: bool):
        self._rounds = 3 if quick else 11
        self._least = 300 if quick else 1000
        self._sizes = (10, 100) if quick else (10, 100, 1000, 10_000)
        self._cores = sorted(os.sched_getaffinity(0))
        self.tiers: dict[str, list[str]] = {}
        self.missing: dict[str, str] = {}
        for tier in ("full", "reduced"):
            try:
                with open_pool(tier, 1) as pool:
                    self.tiers[tier] = pool.layers
            except UserError as error:
                self.missing[tier] = str(error)
        if not self.tiers:
            raise UserError("no safe sandbox on this machine; python -m sandbox.selftest says what is missing")

    def rows(self) -> Iterator[Row]:
        best = next(iter(self.tiers))
        for tier in self.tiers:
            for tests in (MANY_TESTS, FEW_TESTS):
                yield self._against_forks(tier, tests)
        yield from self._against_subprocess(best)
        for tier in self.tiers:
            yield from self._calls(tier)
        yield from self._cores_two_over_one(best)
        yield self._numpy(best)
        yield self._batches(best)

    def _pin(self, cores: int) -> None:
        """Ties this thread, and all that it starts from now on, to so many cores."""
        os.sched_setaffinity(0, self._cores[:cores])

    def _against_forks(self, tier: str, tests: int) -> Row:
        self._pin(1)
        with open_pool(tier, 1) as pool, forking(300) as fork:
            found = alternate({"ours": judging(pool, scripts(240 // tests, tests)), "forks": fork}, self._rounds)
        target = 0.4 if tests == MANY_TESTS else None
        return _ratio(f"stdin form over forks, {tests} tests, {tier}", target, found)

    def _against_subprocess(self, tier: str) -> Iterator[Row]:
        self._pin(1)
        python = isolation.interpreter()
        with tempfile.TemporaryDirectory() as folder, open_pool(tier, 1) as pool:
            file = Path(folder) / "program.py"
            file.write_text(SCRIPT)
            ours = judging(pool, scripts(6, MANY_TESTS))
            plain = running([python, str(file)], 20)
            bare = running([python, "-I", "-S", "-E", str(file)], 40)
            found = alternate({"ours": ours, "plain": plain, "bare": bare}, self._rounds)
        name = f"stdin form over subprocess.run, {MANY_TESTS} tests, {tier}"
        yield _ratio(name, 12.0, {key: found[key] for key in ("ours", "plain")})
        yield _ratio(f"{name}, -I -S -E", None, {key: found[key] for key in ("ours", "bare")})

    def _calls(self, tier: str) -> Iterator[Row]:
        self._pin(1)
        for tests, target in ((STREAMED_TESTS, 10_000.0), (FEW_TESTS, None)):
            with open_pool(tier, 1) as pool:
                [rounds] = alternate(
                    {"ours": judging(pool, functions(50 if tests == STREAMED_TESTS else 200, tests))}, self._rounds
                ).values()
            details = rates(rounds)
            quiet = is_quiet(rounds)
            value = details["per_wall_second" if quiet else "per_cpu_second"]["median"]
            name = f"call form, verdicts/s and core, {tests} tests, {tier}"
            yield Row(name, value, target, "wall time" if quiet else f"CPU time{BUSY}", details)

    def _cores_two_over_one(self, tier: str) -> Iterator[Row]:
        """Beside it, what the machine itself gives: two bare interpreters that fork, over one."""
        name = f"stdin form, two cores over one, {FEW_TESTS} tests, {tier}"
        if len(self._cores) < 2:
            yield Row(name, None, 1.8, "this machine has one core", {})
            return
        work = scripts(100, FEW_TESTS)  # many small ones, so that both workers end together

        def on_cores(pool: Pool, cores: int) -> Callable[[], int]:
            judge = judging(pool, work)

            def action() -> int:
                self._pin(cores)
                return judge()

            return action

        self._pin(1)
        with contextlib.ExitStack() as stack:
            one = stack.enter_context(open_pool(tier, 1))
            self._pin(2)
            two = stack.enter_context(open_pool(tier, 2))
            bare = [stack.enter_context(forking(FLOOR_FORKS)) for _ in range(2)]
            threads = stack.enter_context(concurrent.futures.ThreadPoolExecutor(2))
            actions = {"two": on_cores(two, 2), "one": on_cores(one, 1), "bare one": bare[0]}
            actions["bare two"] = lambda: sum(threads.map(lambda fork: fork(), bare))
            found = alternate(actions, self._rounds)
        yield _ratio(name, 1.8, {"two": found["two"], "one": found["one"]}, cores=2)
        floor = {"two": found["bare two"], "one": found["bare one"]}
        yield _ratio("forks of bare interpreters, two over one", None, floor, cores=2)

    def _numpy(self, tier: str) -> Row:
        self._pin(1)
        name = f"program with numpy over a cold import, {FEW_TESTS} tests, {tier}"
        work = scripts(4, FEW_TESTS, NUMPY)
        with tempfile.TemporaryDirectory() as folder, open_pool(tier, 1) as pool:
            [first] = pool.judge(work[:1])
            if not first.accepted:
                return Row(name, None, 10.0, f"{first.verdict}: {first.tests[0].detail}", {})
            file = Path(folder) / "program.py"
            file.write_text(NUMPY)
            cold = running([sys.executable, str(file)], 4)
            found = alternate({"ours": judging(pool, work), "cold": cold}, self._rounds)
        return _ratio(name, 10.0, found)

    def _batches(self, tier: str) -> Row:
        """CPU time, which does not depend on how many cores share the work."""
        costs = {}
        for workers in (1, 2, 4):
            self._pin(min(workers, 2))
            with open_pool(tier, workers) as pool:
                judging(pool, functions(100, 1))()
                for batch in self._sizes:
                    costs[f"{workers} workers, batch {batch}"] = _milliseconds(pool, batch, self._least)
        self._pin(len(self._cores))
        spread = max(costs.values()) / min(costs.values())
        name = f"CPU time of a verdict, most over least, {tier}"
        by = f"workers 1, 2, 4; batches of {min(self._sizes)} to {max(self._sizes):,}"
        return Row(name, spread, None, by, {"cpu_ms_a_verdict": costs})


def _milliseconds(pool: Pool, batch: int, least: int) -> float:
    """CPU time of a verdict when so many programs, of one test each, are judged at a time; `least` in all."""
    judge = judging(pool, functions(batch, 1))
    done = timed(lambda: sum(judge() for _ in range(max(1, least // batch))))
    return round(1000 * done.cpu_seconds / done.count, 3)


def _ratio(name: str, target: float | None, found: dict[str, list[Round]], *, cores: int = 1) -> Row:
    ours, theirs = found.values()
    result = speedup(ours, theirs, cores=cores)
    sides = {side: rates(rounds) for side, rounds in found.items()}
    return Row(name, result["value"], target, result["by"], {"ratio": result, **sides})


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sandbox", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds, nothing written")
    quick = parser.parse_args().quick
    about = environment()
    benchmark = Benchmark(quick)
    print(f"{'':58} {'result':>13} {'target':>8} {'met':>4}  by")
    rows = []
    for row in benchmark.rows():
        rows.append(row)
        print(row.line(), flush=True)
    if not quick:
        about |= {"load_after": list(os.getloadavg()), "tiers": benchmark.tiers, "not_to_be_had": benchmark.missing}
        RESULTS.write_text(json.dumps(about | {"rows": [dataclasses.asdict(row) for row in rows]}, indent=1) + "\n")


if __name__ == "__main__":
    run_command(main)
