"""Checkers: programs that say whether an answer is right, and what becomes of those that cannot."""

from __future__ import annotations

from typing import Any

import pytest

from o1coder_jax.errors import UserError
from o1coder_jax.records import TestCase, TestResult
from sandbox.limits import Limits
from sandbox.pool import Pool, Submission

DIVISOR = """
def check(input, output, expected):
    number, given = int(input), int(output)
    return 1 < given < number and number % given == 0
"""
TESTS = (TestCase("15", None), TestCase("49", None), TestCase("8", "2"))


def results(pool: Pool, code: str, checker: str, tests: Any = TESTS, **more: Any) -> list[TestResult]:
    compare = {"mode": "checker", "checker": checker}
    return list(pool.submit(Submission("s", code, tests, compare=compare, **more)).result().tests)


def verdicts(pool: Pool, code: str, checker: str, tests: Any = TESTS, **more: Any) -> list[str]:
    return [str(result.verdict) for result in results(pool, code, checker, tests, **more)]


def test_any_right_answer_is_accepted(pool: Pool) -> None:
    first = "n = int(input())\nprint(next(d for d in range(2, n) if n % d == 0))"
    last = first.replace("range(2, n)", "range(n - 1, 1, -1)")
    assert verdicts(pool, first, DIVISOR) == verdicts(pool, last, DIVISOR) == ["accepted"] * 3
    assert verdicts(pool, "print(7)", DIVISOR) == ["wrong_answer", "accepted", "wrong_answer"]


def test_failing_programs_keep_their_verdicts(pool: Pool) -> None:
    code = "n = int(input())\nif n == 15: raise ValueError('mine')\nif n == 49:\n    while True: pass\nprint(2)"
    found = results(pool, code, DIVISOR, limits=Limits(cpu_seconds=0.5, wall_seconds=20))
    assert [str(result.verdict) for result in found] == ["runtime_error", "time_limit", "accepted"]
    assert found[0].detail == "ValueError: mine (line 2)"
    assert verdicts(pool, "(", DIVISOR) == ["compile_error"]


def test_call_form_gives_the_checker_values(trusted: Pool) -> None:
    checker = """
def check(input, output, expected):
    assert isinstance(input, list) and isinstance(output, dict) and expected == {"1": [2]}
    return sorted(output["values"]) == sorted(input[0])
"""
    tests = (TestCase([[3, 1]], {"1": [2]}), TestCase([[5, 5]], {"1": (2,)}))
    code = "def f(values): return {'values': values[::-1]}"
    assert verdicts(trusted, code, checker, tests, fn_name="f") == ["accepted", "accepted"]


def test_text_forms_give_the_checker_text(trusted: Pool) -> None:
    checker = "def check(input, output, expected):\n    return (input, output, expected) == ('1\\n', 'a b\\n', 'x')"
    assert verdicts(trusted, "print('a b')", checker, (TestCase("1\n", "x"),)) == ["accepted"]


@pytest.mark.parametrize("value", ["1", "'True'", "[True]", "1.0", "None", "object()", "False"])
def test_only_true_accepts(trusted: Pool, value: str) -> None:
    checker = f"def check(input, output, expected): return {value}"
    assert verdicts(trusted, "print(1)", checker) == ["wrong_answer"] * 3


def test_a_checker_that_raises_rejects_and_says_so(trusted: Pool) -> None:
    [result] = results(trusted, "print('no number')", DIVISOR, TESTS[:1])
    assert result.verdict == "wrong_answer"
    assert result.detail.startswith("the checker failed: ValueError: invalid literal") and "(line 3)" in result.detail


@pytest.mark.parametrize(
    ("checker", "detail"),
    [
        ("def check(:", "the checker cannot be used: SyntaxError"),
        ("def other(input, output, expected): return True", "the checker cannot be used: NameError"),
        ("raise ValueError('broken')\ndef check(*a): return True", "the checker cannot be used: ValueError: broken"),
        ("def check(*a):\n    while True: pass", "the checker ended with time_limit"),
        ("import time\ndef check(*a): time.sleep(99)", "the checker ended with idle_limit"),
        ("def check(*a): return len([0] * 10 ** 12)", "the checker ended with memory_limit"),
    ],
)
def test_a_checker_that_cannot_check_says_nothing_of_the_program(trusted: Pool, checker: str, detail: str) -> None:
    submission = Submission(
        "s",
        "print(3)",
        TESTS[:1],
        compare={"mode": "checker", "checker": checker},
        limits=Limits(cpu_seconds=0.3, wall_seconds=2),
    )
    before = trusted.metrics()
    for _ in range(2):  # not cached
        judgement = trusted.submit(submission).result()
        assert (str(judgement.verdict), judgement.checked) == ("infra_error", False)
        assert judgement.tests[0].detail.startswith(detail)
    after = trusted.metrics()
    assert (after["infra_errors"] - before["infra_errors"], after["cache_hits"]) == (2, before["cache_hits"])


def test_neither_sees_the_other(pool: Pool) -> None:
    spy = """
import gc, sys
found = [o for o in gc.get_objects() if isinstance(o, str) and 'SECRET' in o and 'isinstance' not in o]
print(len(found), 'check' in dir(sys.modules['__main__']))
"""
    checker = "SECRET = 1\ndef check(input, output, expected):\n    return output.split() == ['0', 'False']"
    tests = (TestCase("", "the SECRET answer"),)
    assert verdicts(pool, spy, checker, tests) == ["accepted"]


def test_state_between_calls_fails_no_test(trusted: Pool) -> None:
    code = "seen = []\ndef f(x):\n    seen.append(x)\n    return len(seen)"
    checker = "def check(input, output, expected): return output == 1"
    tests = tuple(TestCase([i], None) for i in range(4))
    assert verdicts(trusted, code, checker, tests, fn_name="f") == ["accepted"] * 4


def test_stopping_at_a_failure_leaves_out_the_rest(trusted: Pool) -> None:
    found = verdicts(trusted, "print(3)", DIVISOR, stop_at_failure=True)
    assert found == ["accepted", "wrong_answer"]


def test_a_deep_value_is_a_wrong_answer(trusted: Pool) -> None:
    code = "def f(n):\n    x = []\n    for _ in range(n): x = [x]\n    return x"
    checker = "def check(input, output, expected): return True"
    assert verdicts(trusted, code, checker, (TestCase([400], None), TestCase([600], None)), fn_name="f") == [
        "accepted",
        "wrong_answer",
    ]


def test_verdicts_of_a_checker_are_cached(trusted: Pool) -> None:
    before = trusted.executions
    for _ in range(2):
        assert verdicts(trusted, "print(5)  # cached", DIVISOR, TESTS[:1]) == ["accepted"]
    assert trusted.executions == before + 1


def test_asserts_need_no_checker(trusted: Pool) -> None:
    with pytest.raises(UserError, match="checker"):
        trusted.submit(Submission("s", "", asserts=("assert True",), compare={"mode": "checker", "checker": DIVISOR}))
