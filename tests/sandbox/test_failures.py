"""Our own failures: nothing is lost, nothing is counted against a program, and no process is left behind."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

from o1coder_jax.records import TestCase, Verdict
from sandbox.crew import ATTEMPTS
from sandbox.limits import Limits
from sandbox.pool import Pool, SandboxConfig, Submission
from sandbox.processes import descendants
from tests.sandbox.conftest import tier_pool
from tests.sandbox.processes import remaining

TESTS = (TestCase("1", "1"),)
SLEEPER = "import time; time.sleep(60)"


def wait_for(processes: Callable[[], set[int]], count: int) -> set[int]:
    """Waits until there are `count` processes and returns them."""
    deadline = time.monotonic() + 10
    while len(found := processes()) < count:
        assert time.monotonic() < deadline, f"only {len(found)} processes"
        time.sleep(0.05)
    return found


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def kill_all(pool: Pool) -> None:
    """Kills the pool's only worker, and each that comes in its place, while it is at a program."""
    for _ in range(ATTEMPTS):
        [worker] = pool.processes()
        wait_for(lambda worker=worker: descendants(worker), 3)  # type: ignore[misc]
        kill(worker)
        wait_for(lambda worker=worker: set(pool.processes()) - {worker}, 1)  # type: ignore[misc]


def test_killed_worker_loses_no_submission(pool: Pool) -> None:
    submissions = [Submission(str(i), f"print(input())  # {i} {pool.isolation}", TESTS) for i in range(200)]
    before = pool.infra_errors
    futures = [pool.submit(submission) for submission in submissions]
    futures[20].result()
    kill(pool.processes()[0])
    assert all(future.result().accepted for future in futures)
    assert pool.infra_errors == before


def test_killed_zygote_loses_no_submission(pool: Pool) -> None:
    codes = [f"print(input())  # zygote {i} {pool.isolation}" for i in range(200)]
    futures = [pool.submit(Submission("s", code, TESTS)) for code in codes]
    futures[20].result()
    for pid in descendants(pool.processes()[0]):
        try:
            kill(pid)
        except ProcessLookupError:
            continue
    assert all(future.result().accepted for future in futures)


def test_workers_that_die_again_and_again_are_our_failure() -> None:
    with Pool(SandboxConfig(workers=1, isolation="trusted", wall_seconds=30)) as pool:
        future = pool.submit(Submission("s", SLEEPER, TESTS))
        kill_all(pool)
        judgement = future.result(timeout=10)
        assert judgement.verdict is Verdict.INFRA_ERROR
        assert (judgement.checked, judgement.total, pool.infra_errors) == (False, 1, 1)


def test_our_failures_are_not_cached() -> None:
    submission = Submission("s", "import time; time.sleep(1); print(1)", TESTS)
    with Pool(SandboxConfig(workers=1, isolation="trusted")) as pool:
        future = pool.submit(submission)
        kill_all(pool)
        assert not future.result(timeout=10).checked
        assert pool.submit(submission).result().accepted


# A worker, its zygote, a runner and a program; in tier `full` bubblewrap, too.
EACH = {"full": 5, "reduced": 4, "trusted": 4}


def busy(pool: Pool) -> set[int]:
    """Keeps two workers at sleeping programs; all their processes."""
    workers = set(pool.processes())
    for i in range(2):
        pool.submit(Submission("s", f"{SLEEPER} # {i}", TESTS, limits=Limits(wall_seconds=60)))
    count = len(workers) * EACH[pool.isolation]
    return wait_for(lambda: workers | {pid for worker in workers for pid in descendants(worker)}, count)


@pytest.mark.parametrize("tier", EACH)
def test_closing_leaves_no_process(tier: str) -> None:
    with tier_pool(tier) as pool:
        below = busy(pool)
    assert not remaining(below, 3.0)


@pytest.mark.parametrize("tier", EACH)
def test_killed_worker_leaves_no_process(tier: str) -> None:
    with tier_pool(tier) as pool:
        worker = pool.processes()[0]
        busy(pool)
        below = {worker} | descendants(worker)
        kill(worker)
        assert not remaining(below, 3.0)
