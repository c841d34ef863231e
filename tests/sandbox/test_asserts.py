"""The assert form: what a right program is accepted for, and what a wrong one, or a wrong test, is told."""

from __future__ import annotations

import json
import textwrap

import pytest

from sandbox import asserting, child, program
from sandbox.batch import Line
from sandbox.limits import Limits
from sandbox.pool import Pool, Submission


def judged(
    pool: Pool, code: str, *asserts: str, fn_name: str | None = None, setup: str = "", limits: Limits | None = None
) -> list[tuple[str, str]]:
    """(verdict, detail) of each test; code and tests may be indented."""
    texts = tuple(textwrap.dedent(text) for text in asserts)
    submission = Submission(
        "s", textwrap.dedent(code), fn_name=fn_name, asserts=texts, setup=textwrap.dedent(setup), limits=limits
    )
    [judgement] = pool.judge([submission])
    return [(str(test.verdict), test.detail) for test in judgement.tests]


def verdicts(pool: Pool, code: str, *asserts: str, fn_name: str | None = None, setup: str = "") -> list[str]:
    return [verdict for verdict, _ in judged(pool, code, *asserts, fn_name=fn_name, setup=setup)]


PAIR = """
    class Pair:
        def __init__(self, a, b=0):
            self.a, self.b = a, b
        def total(self): return self.a + self.b
        def __len__(self): return 2
        def __getitem__(self, i): return (self.a, self.b)[i]
        def __str__(self): return f"<{self.a}, {self.b}>"
        def __eq__(self, other): return True
        def __hash__(self): return 0
    def sums(pairs): return [p.total() for p in pairs]
"""

RIGHT = {
    "values of every kind": (
        "def f(x): return x",
        """
        import math
        for value in [1, 1.5, True, None, "é\\ud800", b"x", (1, (2,)), {1: {2}}, frozenset({3}), 1j, range(3), ...]:
            assert f(value) == value and type(f(value)) is type(value), value
        assert math.isnan(f(math.nan)) and math.copysign(1, f(-0.0)) == -1
        """,
    ),
    "keywords and defaults": (
        "def f(a, *b, c=1, **d): return a, b, c, d",
        "assert f(1, 2, e=3) == (1, (2,), 1, {'e': 3})",
    ),
    "a named constant": ("LIMIT = 3", "assert LIMIT == 3"),
    "a method of Solution": ("class Solution:\n    def f(self, x): return [x]", "assert f(1) == [1]"),
    "changes of arguments come back": (
        "def f(x, d): x.append(d); x[0].sort(); d['k'] = x[0]",
        """
        inner = [2, 1]
        x, d = [inner], {}
        assert f(x, d) is None
        assert x[0] is inner and inner == [1, 2]
        assert x[1] is d and d['k'] is inner
        """,
    ),
    "one becomes true in place": ("def f(x): x[0] = True", "x = [1]; f(x); assert x[0] is True"),
    "the result is the argument": ("def f(x): return x", "x = [1]; assert f(x) is x and f([x, x])[0] is f(x)"),
    "changes come back with an exception": (
        "def f(x): x.clear(); raise ValueError",
        "x = [1]\ntry: f(x)\nexcept ValueError: pass\nassert x == []",
    ),
    "an expected exception": (
        "def f(x): raise KeyError(x, [1])",
        "try: f(3)\nexcept KeyError as error: assert error.args == (3, [1])\nelse: assert False",
    ),
    "an exception of the program's own": (
        "class Bad(Exception): pass\nclass Worse(Bad, ValueError): pass\ndef f(x): raise Worse(x)",
        "try: f(3)\nexcept Bad as error: assert error.args == (3,) and isinstance(error, Worse)\nelse: assert False",
    ),
    "objects as handles": (
        PAIR,
        """
        p = Pair(1, b=2)
        p.a = 5
        assert sums([p, Pair(1)]) == [7, 1] and p.total() == 7
        assert len(p) == 2 and p[0] == 5 and list(p.__dict__) == ['a', 'b'] and str(p) == '<5, 2>'
        assert p == p and p != Pair(5, 2) and p != 5 and isinstance(p, Pair) and p in {p: 1}
        """,
    ),
    "a generator": ("def f():\n    yield 1\n    yield [2]", "g = f(); assert next(g) == 1 and list(g) == [[2]]"),
    "an infinite generator": (
        "import itertools\ndef f(): return itertools.count()",
        "g = f(); assert next(g) == 0 == next(f())",
    ),
    "an iterator as argument": ("def f(x): return list(x)", "assert f(iter([1])) == f(map(int, '1')) == [1]"),
    "functions as arguments": (
        "def f(k, x): return k(x)",
        "assert f(lambda x: x + 1, 1) == 2 and f(float, 1) == 1.0 and f(lambda x: f(str, x), 1) == '1'",
    ),
    "an exception through a function that was passed": (
        "def f(k):\n    try: k()\n    except ZeroDivisionError: return 3",
        "assert f(lambda: 1 / 0) == 3",
    ),
    "a match": (
        "import re\ndef f(x): return re.match('a+', x)",
        "assert f('aa') and f('aa').end() == 2 and not f('b')",
    ),
    "a standard module that the program imports": (
        "import sys\ndef f(x): return sys.getsizeof(x)",
        "assert f(()) == sys.getsizeof(())",
    ),
    "prints go nowhere": ("def f(): print('x' * 1_000_000); return 1", "assert f() == 1"),
    "a large argument": ("def f(x): return sum(x)", "assert f(list(range(100_000))) == 4999950000"),
    "classes in a test": (
        "def f(x): return x * 2",
        """
        class Case:
            def go(self): return f(2)
        def run(): return [f(x) for x in (1, 2)]
        assert Case().go() == 4 and run() == [2, 4]
        """,
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_program_is_accepted(trusted: Pool, name: str) -> None:
    code, test = RIGHT[name]
    assert judged(trusted, code, test) == [("accepted", "")]


WRONG = {
    "another value": ("def f(): return 1", "assert f() == 2", "wrong_answer", "AssertionError"),
    "none where a number is wanted": ("def f(): return None", "assert f() > 3", "wrong_answer", "TypeError"),
    "an object where a truth is wanted": ("class A: pass\ndef f(): return A()", "assert f()", "wrong_answer", "object"),
    "an exception": ("def f(): return 1 // 0", "assert f() == 2", "runtime_error", "ZeroDivisionError: "),
    "an assertion of the program's own": ("def f(): assert False", "f()", "runtime_error", "AssertionError"),
    "no such name": ("def g(): pass", "assert f() == 2", "runtime_error", "no function 'f'"),
    "wrong syntax": ("def f(", "assert f() == 2", "compile_error", "SyntaxError"),
    "loading fails": ("1 // 0", "assert f() == 2", "runtime_error", "ZeroDivisionError"),
    "wrong syntax in the test": ("def f(): return 1", "assert f(", "runtime_error", "SyntaxError"),
    "an object that cannot be passed": (
        "def f(x): return 1",
        "class A: pass\nassert f(A()) == 1",
        "wrong_answer",
        "cannot cross",
    ),
    "the test leaves early": ("def f(): return 1", "import sys; sys.exit(0)", "wrong_answer", "SystemExit"),
    "the test's process leaves early": (
        "def f(): return 1",
        "import os; os._exit(0)",
        "wrong_answer",
        "the test ended",
    ),
    "the test loops": ("def f(): return 1", "while True: f", "time_limit", "the test: "),
    "a lack of memory in the test": ("def f(): return 1", "x = [0] * 10**9", "memory_limit", "the test"),
    "check without a name": ("def f(): return 1", "def check(candidate): pass", "runtime_error", "give fn_name"),
}


@pytest.mark.parametrize("name", WRONG)
def test_failure_has_its_verdict_and_detail(trusted: Pool, name: str) -> None:
    code, test, verdict, detail = WRONG[name]
    [found] = judged(trusted, code, test, limits=Limits(cpu_seconds=0.5))
    assert found[0] == verdict
    assert detail in found[1]


def test_check_is_called_with_the_entry_point_over_a_stub(trusted: Pool) -> None:
    setup = "def helper(x): return x + 1\ndef f(x): 'stub'\n"
    code = "def helper(x): return 'mine'\ndef f(x): return x + 1"
    right = "def check(candidate):\n    assert candidate(1) == helper(1) == f(1)"
    wrong = "def check(candidate):\n    assert candidate(1) == 1"
    called = wrong + "\ncheck(lambda x: x)"
    found = verdicts(trusted, code, right, wrong, called, fn_name="f", setup=setup)
    assert found == ["accepted", "wrong_answer", "accepted"]


def test_setup_runs_after_the_program_and_before_each_test(trusted: Pool) -> None:
    code = (
        "class Node:\n    def __init__(self, v): self.v, self.left = v, None\ndef left(n): return n.left and n.left.v"
    )
    setup = "root = Node(1)\nroot.left = Node(2)\nseen = []"
    test = "seen.append(1); assert left(root) == 2 and len(seen) == 1 and root.left.v == 2"
    assert verdicts(trusted, code, test, test, setup=setup) == ["accepted", "accepted"]


def test_setup_that_does_not_compile_fails_every_test(trusted: Pool) -> None:
    found = judged(trusted, "f = 1", "assert f", "assert f", setup="def (")
    assert [verdict for verdict, _ in found] == ["runtime_error"] * 2
    assert "the setup cannot be run" in found[0][1]


def test_setup_that_does_not_compile_is_told_before_the_program_is_compiled() -> None:
    ended = child.Ended(child.STOPPED, 9, 0.0, 0.0, 0)
    said = Line(program.NOT_COMPILED, 0.0, json.dumps("compile_error SyntaxError").encode())
    told = asserting.batch([ended, child.Ended(child.EXITED, 0, 0.0, 0.0, 0)], [[], [said]])
    assert [line.kind for line in told.about_loading] == [program.COMPILED, program.EXCEPTION]


def test_state_of_the_program_fails_no_test_because_of_another(trusted: Pool) -> None:
    code = "calls = []\ndef f(x):\n    calls.append(x)\n    return len(calls)"
    assert verdicts(trusted, code, *["assert f(1) == 1"] * 3) == ["accepted"] * 3


def test_a_program_that_dies_fails_only_its_test(trusted: Pool) -> None:
    code = "import os\ndef f(x): return x or os._exit(3)"
    found = judged(trusted, code, "assert f(1) == 1", "assert f(0) == 1", "assert f(2) == 2")
    assert found == [("accepted", ""), ("runtime_error", "exit status 3"), ("accepted", "")]


def test_time_is_of_one_test_not_of_all(trusted: Pool) -> None:
    code = """
        import time
        def f(seconds):
            end = time.process_time() + seconds
            while time.process_time() < end: pass
            return 1
    """
    found = judged(trusted, code, *["assert f(0.3) == 1"] * 3, limits=Limits(cpu_seconds=0.5, wall_seconds=5))
    assert found == [("accepted", "")] * 3


def test_first_failure_stops(trusted: Pool) -> None:
    tests = ("assert f() == 1", "assert f() == 2", "assert f() == 1")
    [judgement] = trusted.judge([Submission("s", "def f(): return 1", asserts=tests, stop_at_failure=True)])
    assert [str(test.verdict) for test in judgement.tests] == ["accepted", "wrong_answer"]
    assert (judgement.passed, judgement.total) == (1, 3)
