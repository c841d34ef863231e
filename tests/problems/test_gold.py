"""The gold filter, with a judge that runs our own little programs at once."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from o1coder_jax.problems import ProblemsConfig
from o1coder_jax.problems.selection import Rejected
from o1coder_jax.records import Form, Judgement, Problem, TestCase, TestResult, Verdict
from sandbox.pool import Submission
from tests.problems.fake_judge import FakeJudge
from train.gold import EQUAL_NUMBERS_COMPARISON, FLOAT_COMPARISON, checked_parts, gold_filter

DOUBLE = "print(2 * int(input()))"
TRIPLE = "print(3 * int(input()))"
BROKEN = "print(2 *"


def stdin_problem(pairs: dict[Any, Any], *solutions: str, **changes: Any) -> Problem:
    tests = tuple(TestCase(f"{given}\n", str(expected)) for given, expected in pairs.items())
    return Problem("p", "Statement.", Form.STDIN, tests, solutions=solutions, source="test", **changes)


def call_problem(pairs: list[tuple[list[Any], Any]], *solutions: str) -> Problem:
    tests = tuple(TestCase(given, expected) for given, expected in pairs)
    return Problem("p", "Statement.", Form.CALL, tests, solutions=solutions, fn_name="f", source="test")


def kept(problem: Problem, judge: FakeJudge | None = None, **options: Any) -> Problem:
    problems, rejected = gold_filter([problem], judge or FakeJudge(), **options)
    assert not rejected
    return problems[0]


def rejected(problem: Problem, judge: FakeJudge | None = None, **options: Any) -> Rejected:
    problems, set_aside = gold_filter([problem], judge or FakeJudge(), **options)
    assert not problems
    return set_aside[0]


def test_right_reference_is_kept() -> None:
    problem = kept(stdin_problem({1: 2, 5: 10}, DOUBLE))
    assert problem.solutions == (DOUBLE,)
    assert problem.tests == stdin_problem({1: 2, 5: 10}).tests


def test_verdicts_of_all_references_are_recorded() -> None:
    gold = kept(stdin_problem({0: 0, 5: 10}, DOUBLE, TRIPLE, BROKEN)).meta["gold"]
    assert gold["verdicts"] == [
        {"verdict": "accepted", "passed": 2, "run": 2, "total": 2},
        {"verdict": "wrong_answer", "passed": 1, "run": 2, "total": 2},
        {"verdict": "compile_error", "passed": 0, "run": 0, "total": 2},
    ]
    assert (gold["references"], gold["run"], gold["expected"], gold["comparison"]) == (3, 3, "as given", "default")


def test_only_passing_references_stay() -> None:
    assert kept(stdin_problem({0: 0, 5: 10}, TRIPLE, DOUBLE)).solutions == (DOUBLE,)


def test_wrong_reference_is_set_aside_with_the_first_failing_test() -> None:
    assert rejected(stdin_problem({0: 0, 5: 10, 6: 12}, TRIPLE)).reason == (
        "no reference solution passes: best 1 of 3 tests; test 2 wrong_answer"
    )


def test_best_reference_is_the_one_reported() -> None:
    row = rejected(stdin_problem({0: 0, 2: 4, 7: 1}, TRIPLE, DOUBLE))
    assert row.reason == "no reference solution passes: best 2 of 3 tests; test 3 wrong_answer"
    assert [verdict["passed"] for verdict in row.verdicts] == [1, 2]


def test_crash_is_named() -> None:
    assert rejected(stdin_problem({1: 2}, "print(1 // 0)")).reason.endswith("test 1 runtime_error")


def test_reference_that_does_not_compile() -> None:
    assert rejected(stdin_problem({1: 2}, BROKEN)).reason == "no reference solution passes: they do not compile"


def test_not_compiling_is_said_only_when_none_compiles() -> None:
    assert rejected(stdin_problem({1: 2}, BROKEN, TRIPLE)).reason.endswith("best 0 of 1 tests; test 1 wrong_answer")


def test_problem_without_references() -> None:
    assert rejected(stdin_problem({1: 2})).reason == "no reference solution"


def test_hidden_tests_are_checked_too() -> None:
    problem = stdin_problem({1: 2}, DOUBLE, hidden=(TestCase("4\n", "8"), TestCase("5\n", "11")))
    assert rejected(problem).reason == "no reference solution passes: best 2 of 3 tests; hidden test 2 wrong_answer"


def test_single_test_that_is_also_hidden_runs_once() -> None:
    judge = FakeJudge()
    kept(stdin_problem({1: 2}, DOUBLE, hidden=(TestCase("1\n", "2"),)), judge)
    assert [len(submission.tests) for submission in judge.submissions] == [1]


def test_number_of_references_run_is_bounded_and_recorded() -> None:
    judge = FakeJudge()
    problem = kept(stdin_problem({1: 2}, *[f"{DOUBLE}  # {n}" for n in range(9)]), judge, solutions=2)
    assert len(judge.submissions) == 2
    assert (problem.meta["gold"]["references"], problem.meta["gold"]["run"]) == (9, 2)
    assert len(problem.solutions) == 2


def test_misordered_tests_are_called_so() -> None:
    problem = stdin_problem({1: 4, 2: 6, 3: 8, 4: 2}, DOUBLE)
    assert rejected(problem).reason.endswith(
        "; 4 of 4 wrong answers are outputs of other inputs: tests look misordered"
    )


def test_wrong_reference_is_not_called_misordered() -> None:
    assert "misordered" not in rejected(stdin_problem({1: 20, 2: 40, 3: 60, 4: 80}, DOUBLE)).reason


def test_yes_or_no_answers_are_not_called_misordered() -> None:
    program = "print('NO' if int(input()) % 2 else 'YES')"
    assert "misordered" not in rejected(stdin_problem({1: "YES", 2: "NO", 3: "YES", 4: "NO"}, program)).reason


def test_misordered_calls_with_wrapped_values() -> None:
    problem = call_problem([([1], [3]), ([2], [4]), ([3], [2])], "def f(n):\n    return n + 1")
    assert "3 of 3 wrong answers are outputs of other inputs" in rejected(problem).reason


def test_wrapped_expected_values_are_unwrapped_everywhere() -> None:
    problem = call_problem([([1, 2], [3]), ([4, 5], [9])], "def f(a, b):\n    return a + b")
    problem = kept(dataclasses.replace(problem, hidden=(TestCase([0, 0], [0]),)))
    assert [test.output for test in problem.tests + problem.hidden] == [3, 9, 0]
    assert problem.meta["gold"]["expected"] == "unwrapped"


def test_lists_of_one_that_are_really_returned_stay() -> None:
    problem = kept(call_problem([([1], [2]), ([4], [8])], "def f(a):\n    return [2 * a]"))
    assert [test.output for test in problem.tests] == [[2], [8]]
    assert problem.meta["gold"]["expected"] == "as given"


def test_no_unwrapping_when_some_values_are_not_wrapped() -> None:
    judge = FakeJudge()
    rejected(call_problem([([1], [2]), ([4], 8)], "def f(a):\n    return 2 * a"), judge)
    assert {submission.tests[0].output[0] for submission in judge.submissions} == {2}


def test_wrapped_lists_lose_one_level_only() -> None:
    assert kept(call_problem([([1], [[1]])], "def f(a):\n    return [a]")).tests[0].output == [1]


def test_float_tolerance_on_stdin() -> None:
    problem = kept(stdin_problem({1: "0.333333", 2: "0.666667"}, "print(int(input()) / 3)"))
    assert problem.compare == FLOAT_COMPARISON
    assert problem.meta["gold"]["comparison"] == FLOAT_COMPARISON


def test_no_tolerance_when_exact_comparison_passes() -> None:
    assert kept(stdin_problem({1: "0.5"}, "print(int(input()) / 2)")).compare == {}


def test_integers_get_no_tolerance() -> None:
    program = "print(int(input()) + 1)"
    assert "wrong_answer" in rejected(stdin_problem({1000000000: 1000000000}, program)).reason


@pytest.mark.parametrize(
    "problem",
    [
        stdin_problem({4: 2, 10: 5}, "print(int(input()) / 2)"),
        call_problem([([4], [2]), ([10], [5])], "def f(a):\n    return a / 2"),
    ],
)
def test_whole_floats_pass_for_integers(problem: Problem) -> None:
    assert kept(problem).compare == EQUAL_NUMBERS_COMPARISON


def test_texts_without_numbers_are_compared_once() -> None:
    judge = FakeJudge()
    rejected(stdin_problem({1: "no"}, "print('yes')"), judge)
    assert {json.dumps(submission.compare) for submission in judge.submissions} == {"{}"}


def test_slow_references_are_not_run_to_the_end() -> None:
    class SlowJudge(FakeJudge):
        def _judge(self, submission: Submission) -> Judgement:
            self.submissions.append(submission)
            return Judgement(Verdict.TIME_LIMIT, True, 0, 2, (TestResult(Verdict.TIME_LIMIT),))

    judge = SlowJudge()
    assert rejected(stdin_problem({1: 2, 2: 4}, DOUBLE), judge).reason.endswith("test 1 time_limit")
    assert all(submission.stop_at_failure for submission in judge.submissions)


def test_tolerance_and_unwrapping_together() -> None:
    problem = kept(call_problem([([1], [0.3333333])], "def f(a):\n    return a / 3"))
    assert (problem.tests[0].output, problem.compare) == (0.3333333, FLOAT_COMPARISON)


def test_a_comparison_of_the_problem_s_own_is_left_alone() -> None:
    problem = stdin_problem({1: "0.34"}, "print(int(input()) / 3)", compare={"mode": "tokens"})
    assert "wrong_answer" in rejected(problem).reason


def test_leetcode_names_are_brought_into_scope() -> None:
    program = "class Solution:\n    def f(self, a: List[int]) -> int:\n        return Counter(a)[1]"
    problem = kept(call_problem([([[1, 1, 2]], 2)], program))
    assert problem.solutions[0].endswith(program)
    assert problem.solutions[0].startswith("from typing import *")
    assert problem.meta["gold"]["imports_added"] is True


def test_plain_functions_that_crash_get_no_imports() -> None:
    judge = FakeJudge()
    assert rejected(call_problem([([1], 2)], "def f(a):\n    return List"), judge).reason.endswith("runtime_error")
    assert not [submission for submission in judge.submissions if "import" in submission.code]


def test_failed_machinery_is_tried_again() -> None:
    assert kept(stdin_problem({1: 2}, DOUBLE), FakeJudge({DOUBLE: 2})).solutions == (DOUBLE,)


def test_what_could_not_be_checked_is_not_called_wrong() -> None:
    reason = rejected(stdin_problem({1: 2}, DOUBLE), FakeJudge({DOUBLE: 99})).reason
    assert reason == "could not be checked: infra_error for 1 of 1 reference solutions"


def test_a_failed_reference_says_nothing_of_an_unchecked_one() -> None:
    reason = rejected(stdin_problem({1: 2}, TRIPLE, DOUBLE), FakeJudge({DOUBLE: 99})).reason
    assert reason == "could not be checked: infra_error for 1 of 2 reference solutions"


def test_an_accepted_reference_settles_it_whatever_could_not_be_checked() -> None:
    problem = kept(stdin_problem({1: 2}, TRIPLE, DOUBLE), FakeJudge({TRIPLE: 99}))
    assert problem.meta["gold"]["verdicts"][0]["verdict"] == Verdict.INFRA_ERROR


@pytest.mark.parametrize("count", [0, 1, 33, 70])
def test_every_problem_comes_back_in_order(count: int) -> None:
    problems = [
        dataclasses.replace(stdin_problem({n + 1: 2 * n + 2}, DOUBLE if n % 3 else TRIPLE), id=f"p{n}")
        for n in range(count)
    ]
    good, bad = gold_filter(problems, FakeJudge())
    assert [problem.id for problem in good] == [f"p{n}" for n in range(count) if n % 3]
    assert [row.id for row in bad] == [f"p{n}" for n in range(count) if not n % 3]


def test_progress_reaches_the_end() -> None:
    calls: list[tuple[int, int]] = []
    gold_filter([stdin_problem({1: 2}, DOUBLE)] * 40, FakeJudge(), lambda done, total: calls.append((done, total)))
    assert calls == [(32, 40), (40, 40)]


def test_file_to_parts(tmp_path: Path) -> None:
    rows = [
        {
            "question": f"Multiply by {factor}.",
            "input_output": {"inputs": ["1", "2", "3"], "outputs": [str(factor), str(2 * factor), str(3 * factor)]},
            "solutions": [f"print({factor} * int(input()))" if factor != 5 else DOUBLE],
        }
        for factor in range(2, 12)
    ]
    (tmp_path / "rows.json").write_text(json.dumps([*rows, rows[0] | {"question": "?", "solutions": []}]))
    config = ProblemsConfig(source="taco", path=str(tmp_path / "rows.json"))
    parts, set_aside = checked_parts(config, 0, FakeJudge())
    assert [len(part) for part in (parts.training, parts.selfplay, parts.validation, parts.heldout)] == [1, 5, 1, 2]
    assert [row.id for row in set_aside] == ["rows.json#10", "rows.json#3"]
