"""The execution cache: what is the same, what is not, what is run when a part is known, and what is never kept."""

from __future__ import annotations

import dataclasses

import pytest

from o1coder_jax.records import Judgement, TestCase, Verdict
from sandbox.cache import keys
from sandbox.limits import Limits
from sandbox.pool import Pool, SandboxConfig, Submission

ADD = "a, b = map(int, input().split())\nprint(a + b)"
ADD_TESTS = tuple(TestCase(f"{i} {i}", f"{2 * i}") for i in range(4))
COUNTED = ("executions", "cache_hits", "cache_lookups")


def counts(pool: Pool, *submissions: Submission) -> tuple[list[Judgement], list[float]]:
    """Judgements, one after the other, and what they added to executions, hits and lookups."""
    before = pool.metrics()
    judgements = [pool.submit(submission).result() for submission in submissions]
    after = pool.metrics()
    return judgements, [after[name] - before[name] for name in COUNTED]


def test_equal_submissions_run_once(trusted: Pool) -> None:
    submission = Submission("a", ADD + "  # once", ADD_TESTS)
    before = trusted.metrics()
    trusted.judge([submission] * 3)
    trusted.judge([Submission("another id", submission.code, ADD_TESTS)])
    after = trusted.metrics()
    assert [after[name] - before[name] for name in COUNTED] == [4, 12, 16]
    assert after["cache_hit_rate"] == after["cache_hits"] / after["cache_lookups"]


SAME = Submission("a", ADD + "  # key", ADD_TESTS)


@pytest.mark.parametrize(
    "other",
    [
        {"code": ADD + " # key"},
        {"code": "\n" + ADD + "  # key"},
        {"compare": {"mode": "lines"}},
        {"limits": Limits(cpu_seconds=1.0)},
        {"tests": tuple(TestCase(f"{i} {i}", f"{2 * i}\n") for i in range(4))},
        {"fn_name": "f", "tests": (TestCase([1], 1),)},
    ],
    ids=["code", "line numbers", "compare", "limits", "expected", "form"],
)
def test_different_submissions_are_not_mixed_up(trusted: Pool, other: dict) -> None:  # type: ignore[type-arg]
    _, (executed, hits, _) = counts(trusted, SAME, dataclasses.replace(SAME, **other))
    assert hits <= 4 and executed == len(other.get("tests", ADD_TESTS)) + 4 - hits


def test_values_that_only_look_equal_have_keys_of_their_own() -> None:
    values = [1, True, 1.0, "1", [1], {"1": 1}, None, 0.0, -0.0]
    tests = tuple(TestCase([value], value) for value in values)
    found = keys(Submission("s", "c", tests, "f"), Limits())
    assert len({*found.tests, found.program}) == len(values) + 1


@pytest.mark.parametrize("same", [ADD + "\n\n \t\n", ADD.replace("\n", "\r\n"), ADD.replace("\n", "\r")])
def test_newlines_and_the_end_of_the_file_do_not_matter(trusted: Pool, same: str) -> None:
    both = [Submission("s", code, (TestCase("3 4", "7"),)) for code in (ADD, same)]
    assert keys(both[0], Limits()) == keys(both[1], Limits())
    assert all(judgement.accepted for judgement in trusted.judge(both))


@pytest.mark.parametrize("other", [ADD + " #", "\n" + ADD, ADD.replace("\n", "\n\n"), ADD + "\x1c", "  " + ADD])
def test_no_more_is_taken_for_the_same(other: str) -> None:
    one, two = (keys(Submission("s", code, ADD_TESTS), Limits()) for code in (ADD, other))
    assert not {one.program, *one.tests} & {two.program, *two.tests}


@pytest.mark.parametrize("fn_name", [None, "f"])
def test_only_unknown_tests_are_run(trusted: Pool, fn_name: str | None) -> None:
    code = "print(int(input()) % 3)" if fn_name is None else "def f(x): return x % 3"
    tests = tuple(TestCase([i] if fn_name else str(i), i if fn_name else str(i)) for i in range(6))
    whole = Submission("s", f"{code}  # partly", tests, fn_name)
    some = dataclasses.replace(whole, tests=(tests[1], tests[4]))
    (_, judgement), counted = counts(trusted, some, whole)
    assert counted == [6, 2, 8]
    assert [test.verdict for test in judgement.tests] == ["accepted"] * 3 + ["wrong_answer"] * 3
    assert (judgement.verdict, judgement.passed, judgement.total) == (Verdict.WRONG_ANSWER, 3, 6)


def test_asserts_are_the_same_beside_the_same_others_only() -> None:
    one = Submission("s", "x = 1", asserts=("assert x == 1", "assert x"))
    others = ({"asserts": ("assert x == 1 ", "assert x\n")}, {"setup": "y = 1"}, {"asserts": ("assert x",)})
    same, *different = [keys(dataclasses.replace(one, **other), Limits()) for other in others]
    assert same == keys(one, Limits())
    assert all(not {*same.tests, same.program} & {*key.tests, key.program} for key in different)


def test_a_hostile_assert_is_no_word_on_others(trusted: Pool) -> None:
    hostile = "import math\nmath.isclose = lambda *a: True"
    asserts = (hostile, "assert math.isclose(f(1), 2)")
    one = Submission("s", "def f(x): return 0  # hostile assert", asserts=asserts)
    _, judgement = trusted.judge([one, dataclasses.replace(one, asserts=asserts[1:])])
    assert judgement.verdict is Verdict.WRONG_ANSWER


@pytest.mark.parametrize("known", [2, 3])
def test_nothing_past_a_known_failure_is_run(trusted: Pool, known: int) -> None:
    tests = tuple(TestCase(str(i), str(min(i, 1))) for i in range(5))  # wrong from test 2 on
    code = f"print(input())  # known {known}"
    known_failure = Submission("s", code, (tests[known],))
    stopping = Submission("s", code, tests, stop_at_failure=True)
    (_, judgement), (executed, hits, _) = counts(trusted, known_failure, stopping)
    assert (executed, hits) == ({2: 3, 3: 4}[known], 1)
    assert [test.verdict for test in judgement.tests] == ["accepted", "accepted", "wrong_answer"]
    assert (judgement.passed, judgement.total) == (2, 5)


def test_what_a_stopped_run_left_out_is_run_when_it_is_wanted(trusted: Pool) -> None:
    submission = Submission(
        "s", "print(int(input()) // 2 * 2)  # left out", tuple(TestCase(str(i), str(i)) for i in range(4))
    )
    stopping = dataclasses.replace(submission, stop_at_failure=True)
    (first, second), counted = counts(trusted, stopping, submission)
    assert counted == [4, 2, 8]
    assert (len(first.tests), len(second.tests), second.passed) == (2, 4, 2)


@pytest.mark.parametrize("fn_name", [None, "f"])
def test_what_does_not_compile_is_known_for_all_tests(trusted: Pool, fn_name: str | None) -> None:
    tests = tuple(TestCase([i], i) if fn_name else TestCase(str(i), str(i)) for i in range(3))
    code = f"( # {fn_name}"
    (first, second), counted = counts(trusted, *(Submission("s", code, t, fn_name) for t in (tests[:1], tests[1:])))
    assert counted == [0, 2, 3]
    assert (first.compiled, second.compiled, second.verdict, second.total) == (False, False, "compile_error", 2)
    assert second.tests == first.tests


@pytest.mark.parametrize(
    ("code", "verdict", "wall", "executed"),
    [("import time; time.sleep(9)", "idle_limit", 0.3, 2), ("while True: pass", "time_limit", 20, 1)],
)
def test_wall_time_is_not_remembered(trusted: Pool, code: str, verdict: str, wall: float, executed: int) -> None:
    submission = Submission("s", code, ADD_TESTS[:1], limits=Limits(cpu_seconds=0.2, wall_seconds=wall))
    judgements, counted = counts(trusted, submission, submission)
    assert [str(judgement.verdict) for judgement in judgements] == [verdict] * 2
    assert counted[0] == executed


def test_cache_is_bounded() -> None:
    with Pool(SandboxConfig(workers=1, isolation="trusted", cache_entries=1)) as pool:
        first, second = Submission("a", ADD, ADD_TESTS[:1]), Submission("b", "print(0)", ADD_TESTS[:1])
        for submission in (first, second, first):
            pool.judge([submission])
        assert (pool.executions, pool.metrics()["cache_hits"]) == (3, 0)


def test_without_a_cache_everything_is_run() -> None:
    with Pool(SandboxConfig(workers=1, isolation="trusted", cache_entries=0)) as pool:
        assert all(judgement.accepted for judgement in pool.judge([Submission("a", ADD, ADD_TESTS)] * 3))
        assert pool.metrics() == {
            "executions": 12,
            "infra_errors": 0,
            "cache_lookups": 0,
            "cache_hits": 0,
            "cache_hit_rate": 0.0,
        }
