"""A judge that runs the tests' own programs in this process, at once; never for code that is not ours."""

from __future__ import annotations

import contextlib
import io
import math
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from o1coder_jax.records import Judgement, TestResult, Verdict
from sandbox.pool import Submission


class FakeJudge:
    """Judges like `sandbox.pool.Pool`. `broken` holds how often each program's judgement fails with infra_error."""

    def __init__(self, broken: dict[str, int] | None = None):
        self.broken = dict(broken or {})
        self.submissions: list[Submission] = []

    def judge(self, submissions: Iterable[Submission]) -> list[Judgement]:
        return [self._judge(submission) for submission in submissions]

    def outputs(self, code: str, inputs: Sequence[Any], fn_name: str | None = None) -> Sequence[tuple[TestResult, Any]]:
        return [run(code, given, fn_name) for given in inputs]

    def _judge(self, submission: Submission) -> Judgement:
        self.submissions.append(submission)
        if self.broken.get(submission.code, 0) > 0:
            self.broken[submission.code] -= 1
            return Judgement(Verdict.INFRA_ERROR, False, 0, len(submission.tests))
        try:
            compile(submission.code, "program", "exec")
        except SyntaxError:
            return Judgement(Verdict.COMPILE_ERROR, False, 0, len(submission.tests))
        results = []
        for test in submission.tests:
            result, value = run(submission.code, test.input, submission.fn_name)
            if result.verdict is Verdict.ACCEPTED and not same(value, test.output, submission.compare):
                result = TestResult(Verdict.WRONG_ANSWER)
            results.append(result)
            if submission.stop_at_failure and result.verdict is not Verdict.ACCEPTED:
                break
        failed = [result.verdict for result in results if result.verdict is not Verdict.ACCEPTED]
        verdict = failed[0] if failed else Verdict.ACCEPTED
        return Judgement(verdict, True, len(results) - len(failed), len(submission.tests), tuple(results))


def run(code: str, given: Any, fn_name: str | None) -> tuple[TestResult, Any]:
    """What a program prints (no `fn_name`) or returns."""
    names: dict[str, Any] = {"__name__": "__main__"}
    printed = io.StringIO()
    stdin, sys.stdin = sys.stdin, io.StringIO("" if fn_name else given)
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile(code, "program", "exec"), names)
            if fn_name is None:
                return TestResult(Verdict.ACCEPTED), printed.getvalue()
            owner = names["Solution"]() if "Solution" in names else None
            function = getattr(owner, fn_name) if owner else names[fn_name]
            return TestResult(Verdict.ACCEPTED), function(*given)
    except Exception as error:  # noqa: BLE001 - whatever the program raises is its verdict
        return TestResult(Verdict.RUNTIME_ERROR, detail=repr(error)), None
    finally:
        sys.stdin = stdin


def same(value: Any, expected: Any, compare: dict[str, Any]) -> bool:
    """Exact values or tokens; in mode `float` numbers within the tolerances."""
    if isinstance(value, str) and isinstance(expected, str):
        found, wanted = value.split(), expected.split()
        return len(found) == len(wanted) and all(map(same_word, found, wanted, [compare] * len(found)))
    if isinstance(value, list) and isinstance(expected, list):
        return len(value) == len(expected) and all(map(same, value, expected, [compare] * len(value)))
    if compare.get("mode") == "float" and {type(value), type(expected)} <= {int, float}:
        return math.isclose(value, expected, rel_tol=compare["rel_tol"], abs_tol=compare["abs_tol"])
    return type(value) is type(expected) and bool(value == expected)


def same_word(value: str, expected: str, compare: dict[str, Any]) -> bool:
    if compare.get("mode") != "float" or value == expected:
        return value == expected
    try:
        return math.isclose(float(value), float(expected), rel_tol=compare["rel_tol"], abs_tol=compare["abs_tol"])
    except ValueError:
        return False
