"""The gold filter: only problems whose own reference solutions pass their own tests are used.

Public data sets hold tests that belong to other inputs, expected values wrapped in a list of one, outputs that need
a float tolerance, and references that no longer run. Each problem's first reference solutions are run on all its
tests, hidden ones included; the readings of the tests are tried in this order until a solution passes:

1. exactly as given;
2. expected values taken out of their list of one (call form);
3. and 4. the same with numbers compared as numbers: within 1e-6 where fractions are expected, otherwise equal in value
   (`5.0` for `5`).

What passes is kept, rewritten to the reading that passed, with the solutions that passed; the rest is set aside with
its reason. A judgement that could not be made is repeated and never counts as a wrong solution.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

from o1coder_jax.problems import Parts, ProblemsConfig, from_file, split
from o1coder_jax.problems.selection import Rejected, place
from o1coder_jax.records import Form, Judgement, Problem, TestCase, TestResult, Verdict, content_hash
from sandbox.pool import Submission

DEFAULT_SOLUTIONS = 3
FLOAT_COMPARISON = {"mode": "float", "abs_tol": 1e-6, "rel_tol": 1e-6}
EQUAL_NUMBERS_COMPARISON = {"mode": "float", "abs_tol": 0.0, "rel_tol": 0.0}

# What LeetCode puts in scope, which references in `class Solution` rely on. `typing` comes first: its `Counter`
# and `OrderedDict` must not hide those of `collections`.
SOLUTION_IMPORTS = """\
from typing import *
import bisect, collections, functools, heapq, itertools, math, operator, random, re, string
from bisect import bisect_left, bisect_right, insort
from collections import Counter, OrderedDict, defaultdict, deque
from functools import cmp_to_key, lru_cache, reduce
from heapq import heapify, heappop, heappush, heappushpop, heapreplace
from itertools import accumulate, chain, combinations, groupby, permutations, product, zip_longest
from math import ceil, comb, factorial, floor, gcd, inf, sqrt
"""

_BATCH = 32  # problems in flight at a time
_ATTEMPTS = 3  # at a judgement that our own machinery fails to make
_MISORDERED_SHARE = 0.5  # of the failing outputs that are expected of other inputs
_MISORDERED_DISTINCT = 3  # so that a wrong solution of a yes-or-no problem is not taken for it
_INTEGER = re.compile(r"[+-]?[0-9]+")
_FRACTION = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


class Judge(Protocol):
    """What the filter needs of `sandbox.pool.Pool`."""

    def judge(self, submissions: Iterable[Submission]) -> list[Judgement]:
        """Judgements in the order of the submissions."""
        ...

    def outputs(self, code: str, inputs: Sequence[Any], fn_name: str | None = None) -> Sequence[tuple[TestResult, Any]]:
        """What the program prints or returns for each input; None unless it ran to its end."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class _Reading:
    """A way to read a problem's expected values; `compare` is None for the problem's own comparison."""

    unwrapped: bool = False
    compare: dict[str, Any] | None = None

    def apply(self, problem: Problem) -> Problem:
        tests, hidden, compare = problem.tests, problem.hidden, problem.compare
        if self.unwrapped:
            tests, hidden = _unwrap(tests), _unwrap(hidden)
        if self.compare is not None:
            compare = dict(self.compare)
        return dataclasses.replace(problem, tests=tests, hidden=hidden, compare=compare)


@dataclasses.dataclass(slots=True)
class _Round:
    """A problem under one reading, and what its programs gave, in their order."""

    problem: Problem
    reading: _Reading
    programs: list[str]
    judgements: list[Judgement]

    @property
    def best(self) -> int:
        """Index of the program that passed the most tests; one that compiles comes before one that does not."""
        return max(
            range(len(self.programs)),
            key=lambda index: (self.judgements[index].compiled, self.judgements[index].passed),
        )


class _Trial:
    """One problem on its way through the readings. `readings` holds those that are still to be tried."""

    def __init__(self, problem: Problem, solutions: int):
        self.problem = problem
        self.programs = list(problem.solutions[:solutions])
        self.imports_added = False
        self.readings = _readings(problem) if self.programs else []
        self.rounds: list[_Round] = []

    @property
    def accepted(self) -> bool:
        return bool(self.rounds) and any(judgement.accepted for judgement in self.rounds[-1].judgements)

    def probes(self) -> list[Submission]:
        """All programs under the next reading; each stops at its first failure, which most readings meet at once."""
        problem = self.readings[0].apply(self.problem)
        return [_submission(problem, program, stop_at_failure=True) for program in self.programs]

    def take(self, judgements: list[Judgement]) -> None:
        """Notes the outcome of the probes and decides what is tried next."""
        reading = self.readings[0]
        self.rounds.append(_Round(reading.apply(self.problem), reading, self.programs, judgements))
        if self.accepted:
            self.readings = []
        elif not self.imports_added and self._lacks_imports(judgements):
            self.imports_added = True
            self.programs = [SOLUTION_IMPORTS + program for program in self.programs]
        else:
            self.readings = self.readings[1:]

    def _lacks_imports(self, judgements: list[Judgement]) -> bool:
        """True when methods of `class Solution` crash before any test passes, as they do without LeetCode's names."""
        return (
            self.problem.form is Form.CALL
            and all("class Solution" in program for program in self.programs)
            and all(j.verdict is Verdict.RUNTIME_ERROR and j.passed == 0 for j in judgements)
        )

    def kept(self) -> Problem:
        """The problem as it is used from now on; only for an accepted trial."""
        last = self.rounds[-1]
        record = {
            "references": len(self.problem.solutions),
            "run": len(last.programs),
            "verdicts": [_summary(judgement) for judgement in last.judgements],
            "expected": "unwrapped" if last.reading.unwrapped else "as given",
            "comparison": last.problem.compare or "default",
            "imports_added": self.imports_added,
        }
        passing = tuple(p for p, judgement in zip(last.programs, last.judgements, strict=True) if judgement.accepted)
        return dataclasses.replace(last.problem, solutions=passing, meta={**last.problem.meta, "gold": record})

    def rejected(self, pool: Judge) -> Rejected:
        """Why no program passed; runs the best round's programs to their end, so as to say how far they come."""
        if not self.rounds:
            return Rejected(self.problem.id, place(self.problem), "no reference solution")
        unchecked = max(sum(not judgement.checked for judgement in round_.judgements) for round_ in self.rounds)
        # Of equally good rounds the last: it is the one that unwraps.
        best = max(reversed(self.rounds), key=lambda round_: round_.judgements[round_.best].passed)
        if unchecked:
            reason = f"could not be checked: infra_error for {unchecked} of {len(self.programs)} reference solutions"
        else:
            _run_to_the_end(best, pool)
            reason = _failure(best) + _misorder(best, pool)
        verdicts = tuple(_summary(judgement) for judgement in best.judgements)
        return Rejected(self.problem.id, place(self.problem), reason, verdicts)


def gold_filter(
    problems: Sequence[Problem],
    pool: Judge,
    progress: Callable[[int, int], None] | None = None,
    *,
    solutions: int = DEFAULT_SOLUTIONS,
) -> tuple[list[Problem], list[Rejected]]:
    """Runs reference solutions on their problems' own tests.

    Args:
      problems: as loaded; see `o1coder_jax.problems.from_file`.
      pool: `sandbox.pool.Pool`, or anything that judges like it.
      progress: called with (problems done, problems in all).
      solutions: reference solutions run per problem.

    Returns:
      The problems that at least one reference solution passes, with the solutions that pass and the verdicts in
      `meta["gold"]`; and those set aside, with reasons. Both in the order of `problems`.
    """
    kept, rejected = [], []
    for start in range(0, len(problems), _BATCH):
        trials = [_Trial(problem, solutions) for problem in problems[start : start + _BATCH]]
        _run(trials, pool)
        for trial in trials:
            if trial.accepted:
                kept.append(trial.kept())
            else:
                rejected.append(trial.rejected(pool))
        if progress is not None:
            progress(start + len(trials), len(problems))
    return kept, rejected


def checked_parts(
    config: ProblemsConfig, seed: int, pool: Judge, progress: Callable[[int, int], None] | None = None
) -> tuple[Parts, list[Rejected]]:
    """A file's problems, loaded, filtered and dealt to the four parts; and all that was set aside on the way."""
    problems, rejected = from_file(config, seed)
    kept, failed = gold_filter(problems, pool, progress, solutions=config.gold_solutions)
    rejected += failed
    return split(kept, config, seed, rejected), rejected


def _run(trials: Sequence[_Trial], pool: Judge) -> None:
    """Tries reading after reading, all problems at once, until each has passed or has none left."""
    while active := [trial for trial in trials if trial.readings]:
        submissions = [trial.probes() for trial in active]
        judgements = iter(_judge([one for batch in submissions for one in batch], pool))
        for trial, batch in zip(active, submissions, strict=True):
            trial.take([next(judgements) for _ in batch])


def _judge(submissions: list[Submission], pool: Judge) -> list[Judgement]:
    """Judges, and judges again what could not be checked."""
    judgements = pool.judge(submissions)
    for _ in range(_ATTEMPTS - 1):
        open_ = [index for index, judgement in enumerate(judgements) if not judgement.checked]
        if not open_:
            break
        for index, judgement in zip(open_, pool.judge([submissions[i] for i in open_]), strict=True):
            judgements[index] = judgement
    return judgements


def _run_to_the_end(round_: _Round, pool: Judge) -> None:
    """Judges wrong and crashing programs on all their tests. Slow ones are left: each test would cost its limit."""
    worth = [
        index
        for index, judgement in enumerate(round_.judgements)
        if judgement.verdict in (Verdict.WRONG_ANSWER, Verdict.RUNTIME_ERROR)
    ]
    submissions = [_submission(round_.problem, round_.programs[index], stop_at_failure=False) for index in worth]
    for index, judgement in zip(worth, _judge(submissions, pool), strict=True):
        if judgement.checked:
            round_.judgements[index] = judgement


def _submission(problem: Problem, program: str, *, stop_at_failure: bool) -> Submission:
    return Submission(
        id=f"gold:{problem.id}",
        code=program,
        tests=_all_tests(problem),
        fn_name=problem.fn_name,
        compare=problem.compare,
        stop_at_failure=stop_at_failure,
    )


def _all_tests(problem: Problem) -> tuple[TestCase, ...]:
    """Own tests, then hidden ones; a problem's only test is both."""
    return problem.tests if problem.hidden == problem.tests else problem.tests + problem.hidden


def _readings(problem: Problem) -> list[_Reading]:
    """The readings that can differ for this problem, in the order in which they are tried."""
    outputs = [test.output for test in _all_tests(problem)]
    wrapped = problem.form is Form.CALL and all(isinstance(value, list) and len(value) == 1 for value in outputs)
    comparisons: list[dict[str, Any] | None] = [None]
    numbers = {kind for value in outputs for kind in _number_kinds(value)}
    if numbers and not problem.compare:
        # A tolerance would let wrong integers pass, so where no fraction is expected there is none.
        comparisons.append(FLOAT_COMPARISON if float in numbers else EQUAL_NUMBERS_COMPARISON)
    return [_Reading(unwrapped, compare) for compare in comparisons for unwrapped in ((False, True)[: 1 + wrapped])]


def _number_kinds(value: Any) -> Iterator[type]:
    """`int` or `float` for each number in an expected value; words of a text count by how they are written."""
    if isinstance(value, str):
        for word in value.split():
            if _INTEGER.fullmatch(word):
                yield int
            elif _FRACTION.fullmatch(word):
                yield float
    elif isinstance(value, list):
        for item in value:
            yield from _number_kinds(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _number_kinds(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield type(value)


def _unwrap(tests: tuple[TestCase, ...]) -> tuple[TestCase, ...]:
    return tuple(TestCase(test.input, test.output[0]) for test in tests)


def _summary(judgement: Judgement) -> dict[str, Any]:
    """`run` is smaller than `total` for a program that was stopped at its first failure."""
    return {
        "verdict": str(judgement.verdict),
        "passed": judgement.passed,
        "run": len(judgement.tests),
        "total": judgement.total,
    }


def _failure(round_: _Round) -> str:
    """Says how the best program failed."""
    judgement, own = round_.judgements[round_.best], len(round_.problem.tests)
    if not judgement.compiled:
        return "no reference solution passes: they do not compile"
    text = f"no reference solution passes: best {judgement.passed} of {judgement.total} tests"
    for index, result in enumerate(judgement.tests):
        if result.verdict is not Verdict.ACCEPTED:
            name = f"test {index + 1}" if index < own else f"hidden test {index - own + 1}"
            return f"{text}; {name} {result.verdict}"
    return f"{text}; {judgement.verdict}"


def _misorder(round_: _Round, pool: Judge) -> str:
    """Says so when the best program's wrong outputs are expected of other inputs; otherwise nothing."""
    problem, judgement = round_.problem, round_.judgements[round_.best]
    tests = _all_tests(problem)
    judged = zip(tests, judgement.tests, strict=False)  # fewer results than tests when it was stopped
    wrong = [test for test, result in judged if result.verdict is Verdict.WRONG_ANSWER]
    if len(wrong) < _MISORDERED_DISTINCT:
        return ""
    results = pool.outputs(round_.programs[round_.best], [test.input for test in wrong], problem.fn_name)
    produced = [_output_key(problem, value) for result, value in results if result.verdict is Verdict.ACCEPTED]
    expected = {_output_key(problem, test.output) for test in tests}
    elsewhere = [key for key in produced if key in expected]
    if len(elsewhere) < _MISORDERED_SHARE * len(wrong) or len(set(elsewhere)) < _MISORDERED_DISTINCT:
        return ""
    return f"; {len(elsewhere)} of {len(wrong)} wrong answers are outputs of other inputs: tests look misordered"


def _output_key(problem: Problem, value: Any) -> str:
    return content_hash(value.split() if problem.form is Form.STDIN and isinstance(value, str) else value)
