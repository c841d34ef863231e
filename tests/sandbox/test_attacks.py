"""Every attack and corner gets its verdict, in every isolating tier, for root and for an ordinary user."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest

from o1coder_jax.errors import USER_ERROR_EXIT_STATUS
from o1coder_jax.records import TestCase
from sandbox.attacks import ATTACKS, Attack
from sandbox.limits import Limits
from sandbox.pool import Pool, Submission
from sandbox.processes import descendants
from tests.sandbox.conftest import open_pool, tier_pool
from tests.sandbox.ordinary import run_as_ordinary_user

# The wall clock is for sleepers alone, so that a busy machine changes no other verdict.
LIMITS = Limits(cpu_seconds=1.5, wall_seconds=8.0, memory_mb=256, output_mb=1.0)
IDLE_SECONDS = 1.2
RIGHT = Submission("a right program", "print(sum(map(int, input().split())))", (TestCase("1 2", "3"),))
SUBMISSIONS = [*(attack.submission(LIMITS, IDLE_SECONDS) for attack in ATTACKS), RIGHT]
RUNS = [(tier, user) for tier in ("full", "reduced") for user in ("this user", "an ordinary user")]


def verdicts_of(pool: Pool) -> dict[str, str]:
    """Verdict of each attack, all judged by one pool, and of the right program after them."""
    with pool:
        idle = descendants(os.getpid())
        judgements = pool.judge(SUBMISSIONS)
        # Workers and zygotes may have been replaced; nothing else may be there.
        assert len(descendants(os.getpid())) <= len(idle)
        return {s.id: str(j.verdict) for s, j in zip(SUBMISSIONS, judgements, strict=True)}


def print_verdicts(tier: str) -> None:
    """The command that an ordinary user runs: verdicts as JSON."""
    print(json.dumps(verdicts_of(open_pool(tier))))


COMMAND = """
import sys
from o1coder_jax.errors import run_command
from tests.sandbox.test_attacks import print_verdicts
run_command(lambda: print_verdicts(sys.argv[1]))
"""


def verdicts_of_ordinary_user(tier: str) -> dict[str, str]:
    done = run_as_ordinary_user(["-c", COMMAND, tier], 100)
    if done.returncode == USER_ERROR_EXIT_STATUS:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


@pytest.fixture(scope="module", params=RUNS, ids=[f"{tier}, {user}" for tier, user in RUNS])
def verdicts(request: pytest.FixtureRequest) -> dict[str, str]:
    """Verdict by name."""
    tier, user = request.param
    return verdicts_of(tier_pool(tier)) if user == "this user" else verdicts_of_ordinary_user(tier)


@pytest.mark.parametrize("attack", ATTACKS, ids=[attack.name for attack in ATTACKS])
def test_attack_gets_its_verdict(verdicts: dict[str, str], attack: Attack) -> None:
    assert verdicts[attack.name] == attack.verdict


def test_right_program_is_accepted_after_all_attacks(verdicts: dict[str, str]) -> None:
    assert verdicts[RIGHT.id] == "accepted"


def test_names_are_unique() -> None:
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS)


@pytest.fixture(params=["full", "reduced"])
def one_worker(request: pytest.FixtureRequest) -> Iterator[Pool]:
    with tier_pool(request.param, workers=1) as pool:
        yield pool


LEAVE = """
import math, os, sys
math.left = sys.left = os.environ["LEFT"] = "left by another"
for folder in (".", "/tmp", "/var/tmp", "/dev/shm", "/", "/opt", "/run", "/proc/self"):
    try:
        with open(folder + "/left", "w") as file:
            file.write("left by another")
    except OSError:
        pass
"""
FIND = """
import math, os, sys
found = [getattr(math, "left", ""), getattr(sys, "left", ""), os.environ.get("LEFT", "")]
for folder in (".", "/tmp", "/var/tmp", "/dev/shm", "/", "/opt", "/run", "/proc/self"):
    try:
        found.append(open(folder + "/left").read())
    except OSError:
        pass
print("".join(found))
"""


def test_nothing_of_a_program_is_seen_by_the_next(one_worker: Pool) -> None:
    one_worker.outputs(LEAVE, [""])
    [(result, text)] = one_worker.outputs(FIND, [""])
    assert (result.verdict, text) == ("accepted", "\n")


def test_tests_of_one_program_see_nothing_of_each_other(one_worker: Pool) -> None:
    assert [text for _, text in one_worker.outputs(FIND + LEAVE, ["1", "2"])] == ["\n", "\n"]
