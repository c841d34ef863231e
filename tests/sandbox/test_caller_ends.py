"""However the caller ends, in the middle of judging, nothing of the pool stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from sandbox.processes import descendants
from tests.sandbox.conftest import tier_pool
from tests.sandbox.processes import remaining

# A worker, its zygote, a runner and a program; in tier `full` bubblewrap, too.
EACH = {"full": 5, "reduced": 4, "trusted": 4}
CALLER = """
import os, resource, sys
from o1coder_jax.records import TestCase
from sandbox.pool import Pool, SandboxConfig, Submission
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
pool = Pool(SandboxConfig(workers=1, isolation=sys.argv[1], wall_seconds=60))
pool.submit(Submission("s", "import time; time.sleep(60)", (TestCase("1", "1"),)))
print(os.getpid(), flush=True)
sys.stdin.read()
"""
# Starts a caller whose standard input is a pipe of its own, and waits.
PARENT = f"""
import subprocess, sys
caller = subprocess.Popen([sys.executable, "-c", {CALLER!r}, sys.argv[1]], stdin=subprocess.PIPE)
caller.wait()
"""
# What the caller does when it is told to go on.
ENDS = {
    "it leaves without closing": "sys.exit(0)",
    "it leaves at once": "os._exit(0)",
    "an exception": "1 // 0",
    "abort": "os.abort()",
    "its code is over": "",
}
SIGNALS = {"killed": signal.SIGKILL, "terminated": signal.SIGTERM, "hung up": signal.SIGHUP, "Ctrl-C": signal.SIGINT}
WAYS = [*ENDS, *SIGNALS, "its parent is killed"]


def start(tier: str, code: str) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", code, tier], stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)


def below_when_busy(caller: int, tier: str) -> set[int]:
    """All processes below the caller once the program is running."""
    deadline = time.monotonic() + 20
    while len(below := descendants(caller)) < EACH[tier]:
        assert time.monotonic() < deadline, f"only {len(below)} processes"
        time.sleep(0.05)
    return below


@pytest.mark.parametrize("tier", EACH)
def test_nothing_is_left_behind(tier: str) -> None:
    tier_pool(tier, workers=1).close()
    started = {
        way: start(tier, PARENT if way == "its parent is killed" else CALLER + ENDS.get(way, "")) for way in WAYS
    }
    left: dict[str, set[int]] = {}
    for way, process in started.items():
        with process:  # closes its pipes
            assert process.stdin is not None and process.stdout is not None
            caller = int(process.stdout.readline())
            below = below_when_busy(caller, tier)
            if way in ENDS:
                process.stdin.close()
            else:
                os.kill(process.pid, SIGNALS.get(way, signal.SIGKILL))
            process.wait(timeout=20)
            left[way] = remaining(below | {caller}, 3.0)
    assert left == {way: set() for way in WAYS}
