"""Our own failures: nothing is lost, nothing is counted against a program, and no process is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from o1coder_jax.records import TestCase, Verdict
from sandbox.pool import Pool, SandboxConfig, Submission
from tests.sandbox.conftest import tier_pool
from tests.sandbox.processes import descendants, remaining

TESTS = (TestCase("1", "1"),)
SLEEPER = "import time; time.sleep(60)"


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def test_killed_worker_loses_no_submission(pool: Pool) -> None:
    submissions = [Submission(str(i), f"print(input())  # {i} {pool.isolation}", TESTS) for i in range(200)]
    before = pool.infra_errors
    futures = [pool.submit(submission) for submission in submissions]
    futures[20].result()
    kill(pool.processes()[0])
    assert all(future.result().accepted for future in futures)
    assert pool.infra_errors == before


def test_killed_zygote_loses_no_submission(pool: Pool) -> None:
    futures = [pool.submit(Submission("s", f"print(input())  # zygote {i} {pool.isolation}", TESTS)) for i in range(200)]
    futures[20].result()
    for pid in descendants(pool.processes()[0]):
        try:
            kill(pid)
        except ProcessLookupError:
            continue
    assert all(future.result().accepted for future in futures)


def test_a_worker_that_dies_twice_is_our_failure() -> None:
    with Pool(SandboxConfig(workers=1, isolation="trusted", wall_seconds=30)) as pool:
        future = pool.submit(Submission("s", SLEEPER, TESTS))
        for _ in range(2):
            time.sleep(0.5)
            kill(pool.processes()[0])
        judgement = future.result(timeout=10)
        assert judgement.verdict is Verdict.INFRA_ERROR
        assert (judgement.checked, judgement.total, pool.infra_errors) == (False, 1, 1)


def test_our_failures_are_not_cached() -> None:
    submission = Submission("s", "import time; time.sleep(1.2); print(1)", TESTS)
    with Pool(SandboxConfig(workers=1, isolation="trusted")) as pool:
        future = pool.submit(submission)
        for _ in range(2):
            time.sleep(0.4)
            kill(pool.processes()[0])
        assert not future.result(timeout=10).checked
        assert pool.submit(submission).result().accepted


@pytest.mark.parametrize("tier", ["full", "reduced", "trusted"])
def test_closing_leaves_no_process(tier: str) -> None:
    with tier_pool(tier) as pool:
        for i in range(2):
            pool.submit(Submission("s", f"{SLEEPER} # {i}", TESTS))
        time.sleep(0.3)
        below = set(pool.processes())
        below |= {pid for worker in pool.processes() for pid in descendants(worker)}
        assert len(below) >= 6
    assert not remaining(below, 3.0)


@pytest.mark.parametrize("tier", ["full", "reduced", "trusted"])
def test_killed_caller_leaves_no_process(tier: str) -> None:
    tier_pool(tier).close()
    code = f"""
import sys
from sandbox.pool import *
from o1coder_jax.records import TestCase
pool = Pool(SandboxConfig(workers=2, isolation={tier!r}, wall_seconds=60))
for i in range(2):
    pool.submit(Submission("s", {SLEEPER!r} + f" # {{i}}", (TestCase("1", "1"),)))
print("up", flush=True)
sys.stdin.read()
"""
    caller = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert caller.stdout is not None
    assert caller.stdout.readline() == b"up\n"
    time.sleep(0.5)
    below = descendants(caller.pid)
    caller.kill()
    caller.communicate()
    assert len(below) >= 8
    assert not remaining(below, 4.0)
