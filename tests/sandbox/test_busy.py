"""A machine with more to do than it has cores, and a pool that has run for long."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections import Counter

import pytest

from o1coder_jax.errors import UserError
from o1coder_jax.records import TestCase
from sandbox import soak
from sandbox.limits import Limits
from sandbox.pool import Pool, SandboxConfig, Submission
from sandbox.soak import Sample

# Uses 0.3 s of its 0.5 s of CPU time; on a wall clock it takes longer than that.
HARD = "import time\nwhile time.process_time() < 0.3: pass\nprint(input())  # {}"
LIMITS = Limits(cpu_seconds=0.5, wall_seconds=6.0)


def test_four_times_more_workers_than_cores_fail_no_right_program() -> None:
    workers = 4 * len(os.sched_getaffinity(0))
    with Pool(SandboxConfig(workers=workers)) as pool:
        codes = [HARD.format(n) for n in range(3 * workers)]
        judged = pool.judge(Submission("s", code, (TestCase("1", "1"),), limits=LIMITS) for code in codes)
    assert Counter(judgement.verdict for judgement in judged) == {"accepted": 3 * workers}
    assert max(judgement.tests[0].wall_seconds for judgement in judged) > LIMITS.cpu_seconds


@pytest.mark.parametrize("tier", ["full", "reduced"])
def test_soak(tier: str) -> None:
    # Blocks this short say nothing of speed, unless it halves.
    command = ["-m", "sandbox.soak", "--executions", "2000", "--tolerance", "1", "--isolation", tier]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=100, check=False)
    if done.stderr.startswith("error: sandbox isolation"):
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr


# As on a machine so busy that a program gets 4 ms of every 104: far less than a tenth of the wall clock.
STARVED = """
import time
for step in range(1, 16):
    while time.process_time() < 0.004 * step: pass
    time.sleep(0.1)
print(input())
"""


def test_a_starved_program_is_not_taken_for_a_sleeper(trusted: Pool) -> None:
    limits = Limits(cpu_seconds=0.095, wall_seconds=1.0)
    [judgement] = trusted.judge([Submission("s", STARVED, (TestCase("1", "1"),), limits=limits)])
    assert judgement.accepted, judgement
    assert judgement.tests[0].wall_seconds > limits.wall_seconds


STEADY = [Sample(1.0, 100 << 20, 200 << 20, 30, 6)] * 20


@pytest.mark.parametrize(
    ("late", "reason"),
    [
        (Sample(1.2, 100 << 20, 200 << 20, 30, 6), "1.20 times the CPU time"),
        (Sample(1.0, 120 << 20, 200 << 20, 30, 6), "memory of the caller grew from 100 to 120 MiB"),
        (Sample(1.0, 100 << 20, 220 << 20, 30, 6), "memory of the workers"),
        (Sample(1.0, 100 << 20, 200 << 20, 38, 6), "descriptors grew from 30 to 38"),
        (Sample(1.0, 100 << 20, 200 << 20, 30, 7), "processes grew"),
    ],
)
def test_soak_sees_what_grows(late: Sample, reason: str) -> None:
    assert soak.findings(STEADY, 0.1) == []
    [found] = soak.findings([*STEADY[:-2], late, late], 0.1)
    assert reason in found


def test_soak_takes_a_descriptor_that_each_process_opens_once_for_no_leak() -> None:
    late = Sample(1.0, 100 << 20, 200 << 20, 37, 6)
    assert soak.findings([*STEADY[:-2], late, late], 0.1) == []


@pytest.mark.parametrize("tolerance", ["nan", "-0.1", "inf"])
def test_soak_refuses_a_tolerance_that_nothing_exceeds(monkeypatch: pytest.MonkeyPatch, tolerance: str) -> None:
    monkeypatch.setattr("sys.argv", ["soak", f"--tolerance={tolerance}"])
    with pytest.raises(UserError, match=f"--tolerance is {tolerance}"):
        soak.main()


def test_soak_takes_blocks_of_no_measurable_time() -> None:
    assert soak.findings([Sample(0.0, 1, 1, 1, 1)] * 20, 0.1) == []


def test_soak_sees_wrong_verdicts() -> None:
    with Pool(SandboxConfig(workers=1, isolation="trusted")) as pool:
        judged = soak.Soak(pool)
        judged.run([soak.Case(Submission("s", "print(1)", (TestCase("", "2"),)), "accepted")])
    assert judged.wrong == ["s: wrong_answer where accepted is right (no detail)"]


def test_soak_sees_files_left_behind() -> None:
    with Pool(SandboxConfig(workers=1, isolation="trusted")) as pool:
        judged = soak.Soak(pool)
        with tempfile.NamedTemporaryFile(dir="/tmp", prefix="o1coder-") as file:
            assert judged.files_left() == [file.name]
