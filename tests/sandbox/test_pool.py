"""The pool: order, counters, cache, limits, stopping early, values without judging."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest

from o1coder_jax.errors import UserError
from o1coder_jax.records import Form, Problem, TestCase, Verdict
from sandbox import isolation
from sandbox.limits import Limits
from sandbox.pool import Pool, SandboxConfig, Submission, submission_for

ADD = "a, b = map(int, input().split())\nprint(a + b)"
ADD_TESTS = tuple(TestCase(f"{i} {i}", f"{2 * i}") for i in range(4))


def test_judgements_come_in_order(trusted: Pool) -> None:
    codes = [ADD, "print(0)", "import time; time.sleep(0.2); " + ADD.replace("\n", "; "), "("]
    verdicts = [j.verdict for j in trusted.judge(Submission("s", code, ADD_TESTS) for code in codes)]
    assert verdicts == ["accepted", "wrong_answer", "accepted", "compile_error"]


def test_pass_rate_counts_each_test(trusted: Pool) -> None:
    [judgement] = trusted.judge([Submission("s", "print(sum(map(int, input().split())) % 6)", ADD_TESTS)])
    assert (judgement.passed, judgement.total, judgement.pass_rate) == (3, 4, 0.75)


def test_verdict_is_the_first_that_fails(trusted: Pool) -> None:
    code = "a = int(input().split()[0])\nprint(2 * a if a == 0 else 1 // (a - 2))"
    [judgement] = trusted.judge([Submission("s", code, ADD_TESTS)])
    assert [test.verdict for test in judgement.tests[1:3]] == ["wrong_answer", "runtime_error"]
    assert judgement.verdict is Verdict.WRONG_ANSWER


@pytest.mark.parametrize("fn_name", [None, "f"])
def test_stopping_at_a_failure_leaves_out_the_rest(trusted: Pool, fn_name: str | None) -> None:
    code, tests = "print(2)", ADD_TESTS
    if fn_name:
        code, tests = "def f(a, b): return 2", tuple(TestCase([i, i], 2 * i) for i in range(4))
    [judgement] = trusted.judge([Submission("s", code, tests[1:], fn_name, stop_at_failure=True)])
    assert (len(judgement.tests), judgement.passed, judgement.total) == (2, 1, 3)


def test_state_between_calls_fails_no_test(trusted: Pool) -> None:
    code = "seen = []\ndef f(x):\n    seen.append(x)\n    return len(seen)"
    [judgement] = trusted.judge([Submission("s", code, tuple(TestCase([i], 1) for i in range(5)), "f")])
    assert judgement.accepted


def test_a_slow_test_does_not_take_time_from_the_next(trusted: Pool) -> None:
    code = "import time\ndef f(x):\n    end = time.process_time() + x\n    while time.process_time() < end: pass"
    tests = (TestCase([0.3], None),) * 3
    assert trusted.judge([Submission("s", code, tests, "f", limits=Limits(cpu_seconds=0.5))])[0].accepted


def test_a_value_longer_than_any_that_we_write_is_not_read(trusted: Pool) -> None:
    code = "import os\ndef f():\n    os.write(3, b'V 0 0 1' + b' ' * (1 << 17) + b'\\n')\n    os._exit(0)"
    one = Submission("s", code, (TestCase([], 1),), "f", limits=Limits(output_mb=0.0625))
    [judgement] = trusted.judge([one])
    assert (judgement.verdict, judgement.tests[0].detail[-12:]) == (Verdict.WRONG_ANSWER, "output limit")


def test_outputs_of_a_script(trusted: Pool) -> None:
    outputs = trusted.outputs("print(10 // int(input()), 'é')", ["5", "0"])
    assert [(result.verdict, value) for result, value in outputs] == [("accepted", "2 é\n"), ("runtime_error", None)]


def test_outputs_of_a_function(trusted: Pool) -> None:
    outputs = trusted.outputs("def f(a): return (a, 10 // a, 10 ** 9000)", [[5], [0]], "f")
    assert [(result.verdict, value) for result, value in outputs] == [
        ("accepted", [5, 2, 10**9000]),
        ("runtime_error", None),
    ]


def test_outputs_of_what_does_not_compile(trusted: Pool) -> None:
    assert [(r.verdict, v) for r, v in trusted.outputs("(", ["1", "2"])] == [("compile_error", None)] * 2


def test_detail_says_the_error_and_its_line(trusted: Pool) -> None:
    [(result, _)] = trusted.outputs("x = 1\nraise ValueError('no')", [""])
    assert result.detail == "ValueError: no (line 2)"


def test_submission_for_hidden_tests() -> None:
    tests = (TestCase([1], 1),)
    problem = Problem("p", "s", Form.CALL, (), hidden=tests, fn_name="f", compare={"mode": "float"})
    expected = Submission("p", "code", tests, "f", {"mode": "float"})
    assert submission_for(problem, "code", hidden=True) == expected


@pytest.mark.parametrize(
    "submission",
    [
        Submission("s", ADD, ()),
        Submission("s", ADD, (TestCase(["1"], "1"),)),
        Submission("s", ADD, (TestCase(1, 1),), "f"),
        Submission("s", ADD, (TestCase([{1, 2}], 1),), "f"),
        Submission("s", ADD, (TestCase([object()], 1),), "f"),
        Submission("s", ADD, ADD_TESTS, compare={"mode": "sets"}),
    ],
    ids=["no tests", "lines", "no list", "a set", "an object", "compare"],
)
def test_what_cannot_be_judged_is_said(trusted: Pool, submission: Submission) -> None:
    with pytest.raises(UserError):
        trusted.submit(submission).result()


@pytest.mark.parametrize(
    "setting",
    [{"cpu_seconds": 0}, {"workers": 0}, {"isolation": "none"}, {"memory_mb": "1"}, {"output_mb": 1e300}, {"queue": 0}],
)
def test_wrong_settings_are_said(setting: dict) -> None:  # type: ignore[type-arg]
    with pytest.raises(UserError, match=next(iter(setting))):
        SandboxConfig(**setting)


def test_a_closed_pool_says_so() -> None:
    pool = Pool(SandboxConfig(workers=1, isolation="trusted"))
    pool.close()
    with pytest.raises(UserError, match="closed"):
        pool.submit(Submission("s", ADD, ADD_TESTS))


def test_auto_refuses_rather_than_run_without_isolation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "missing", lambda tier: ["everything: buy another machine"])
    with pytest.raises(UserError, match=r"buy another machine.*trusted"):
        Pool(SandboxConfig(workers=1))


def test_sandbox_imports_no_jax() -> None:
    code = (
        "import sys, sandbox.audit, sandbox.judge, sandbox.selftest, sandbox.worker, sandbox.zygote\n"
        "sys.exit(bool({'jax', 'jaxlib', 'numpy', 'flax'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_process_with_threads_is_never_forked() -> None:
    jax = pytest.importorskip("jax")
    jax.block_until_ready(jax.numpy.ones(3) + 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # JAX warns when its process forks
        with Pool(SandboxConfig(workers=1, isolation="trusted")) as pool:
            assert pool.judge([Submission("s", ADD, ADD_TESTS)])[0].accepted
