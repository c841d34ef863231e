"""Every attack and corner gets its verdict, in every isolating tier that this machine can give."""

from __future__ import annotations

import pytest

from o1coder_jax.records import TestCase
from sandbox.pool import Pool, Submission
from tests.sandbox.attacks import ATTACKS, Attack


def submission(attack: Attack) -> Submission:
    return Submission(attack.name, attack.code, (TestCase(attack.input, attack.output),), attack.fn_name)


@pytest.mark.parametrize("attack", ATTACKS, ids=[attack.name for attack in ATTACKS])
def test_attack_gets_its_verdict(pool: Pool, attack: Attack) -> None:
    [judgement] = pool.judge([submission(attack)])
    assert judgement.verdict == attack.verdict, judgement


def test_names_are_unique() -> None:
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS)


def test_right_program_is_accepted_after_all_attacks(pool: Pool) -> None:
    pool.judge(map(submission, ATTACKS))
    code = "print(sum(map(int, input().split())))  # after the attacks"
    [judgement] = pool.judge([Submission("right", code, (TestCase("1 2", "3"),))])
    assert judgement.accepted
