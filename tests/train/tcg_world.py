"""Problems, a sandbox and a generator that are made up: what the tests of the test case generator share."""

from __future__ import annotations

import types
from collections.abc import Sequence
from typing import Any

import pytest

from o1coder_jax.generate import Sample
from o1coder_jax.records import Form, Judgement, Problem, TestCase, TestResult, Verdict
from train.data import BatchConfig, Example
from train.tcg import TCGConfig, answers

CASES = tuple(TestCase(f"{i}\n", str(i)) for i in range(5))
CALLS = (TestCase([[1, 2]], 4),)
NOTHING = Sample((), (), ended=True)


def problem(name: str = "a", tests: Sequence[TestCase] = CASES) -> Problem:
    return Problem(name, "s", Form.STDIN, tuple(tests), hidden=tuple(tests), solutions=("print(input())",))


class FakeSandbox:
    """A session that answers submissions at once: a program fails the inputs that hold its text."""

    def __init__(self, broken: bool = False):
        self.config = types.SimpleNamespace(tcg=TCGConfig(suite=2, cases=1), seed=0)
        self.broken = broken

    @property
    def judging(self) -> FakeSandbox:
        return self

    def submit_all(self, submissions: Sequence[Any]) -> types.SimpleNamespace:
        verdicts = [None if one is None else self._judge(one) for one in submissions]
        return types.SimpleNamespace(result=lambda: verdicts)

    def outputs_all(self, work: Sequence[Any]) -> list[list[tuple[TestResult, Any]]]:
        return [self._outputs(inputs) if inputs else [] for _, inputs, _ in work]

    def judge_all(self, programs: Any, *, hidden: bool = False) -> list[Judgement | None]:
        assert hidden
        return [
            None if code is None else self._judge(types.SimpleNamespace(code=code, tests=one.hidden))
            for one, code in programs
        ]

    def _outputs(self, inputs: Sequence[Any]) -> list[tuple[TestResult, Any]]:
        return [
            (TestResult(Verdict.RUNTIME_ERROR), None) if "x" in one else (TestResult(Verdict.ACCEPTED), f"<{one}>")
            for one in inputs
        ]

    def load_policy(self, name: str) -> None:
        assert name == "policy-000"

    def _judge(self, submission: Any) -> Judgement:
        if self.broken:  # as the pool says it: one result for all tests
            return Judgement(Verdict.INFRA_ERROR, False, 0, 3, (TestResult(Verdict.INFRA_ERROR),))
        tests = tuple(
            TestResult(Verdict.WRONG_ANSWER if submission.code in test.input else Verdict.ACCEPTED)
            for test in submission.tests
        )
        failed = [one for one in tests if one.verdict is not Verdict.ACCEPTED]
        verdict = failed[0].verdict if failed else Verdict.ACCEPTED
        return Judgement(verdict, True, len(tests) - len(failed), len(tests), tests)


class Generator(FakeSandbox):
    """A session whose generator has answered; token ids are characters."""

    def __init__(self, **settings: Any):
        super().__init__()
        self.config.tcg = TCGConfig(suite=2, cases=2, batch=BatchConfig(2, 64), **settings)
        vocabulary = types.SimpleNamespace(
            encode=lambda text: list(map(ord, text)), decode=lambda ids: "".join(map(chr, ids))
        )
        asked = types.SimpleNamespace(encode=lambda vocabulary, text, cap, keep_end: ([63], False))
        self.generator = types.SimpleNamespace(vocabulary=vocabulary, prompt=asked)


def sample(text: str, ended: bool = True) -> Sample:
    return Sample(tuple(map(ord, text)), (0.0,) * len(text), ended)


def answer_of(one: Example) -> str:
    return "".join(chr(i) for i, weight in zip(one["tokens"], one["weight"], strict=True) if weight)


def curriculum_problem() -> Problem:
    clauses = [{"operation": "add", "value": 1}, {"operation": "sum", "value": None}]
    meta = {"input": "list", "clauses": clauses}
    cases = tuple(TestCase([[n, 2]], n + 4) for n in range(6))
    return Problem("c", "s", Form.CALL, cases, solutions=("p",), source="curriculum", meta=meta)


class Reading(Generator):
    """A generator that is asked with what it is shown, as it is."""

    def __init__(self, **settings: Any):
        super().__init__(**settings)
        self.generator.prompt.encode = lambda vocabulary, text, cap, keep_end: (list(map(ord, text)), False)


def asked_of(one: Example) -> str:
    return "".join(chr(i) for i, weight in zip(one["tokens"], one["weight"], strict=True) if not weight)


class Asked(Generator):
    """A generator that goes on from openings with `written`, and a sandbox that compares outputs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, written: Sequence[str], **settings: Any):
        super().__init__(**settings)
        self.config.generation = types.SimpleNamespace(rows=2)
        self.generator.graph = self.mesh = None
        self.generator.vocabulary.stops = lambda markers: markers
        self.prompts: list[str] = []

        def generate(graph: Any, weights: Any, prompts: Sequence[Sequence[int]], **options: Any) -> list[list[Sample]]:
            self.prompts = ["".join(map(chr, one)) for one in prompts]
            return [[sample(text)] for text in written]

        monkeypatch.setattr(answers, "generate", generate)

    def _judge(self, submission: Any) -> Judgement:
        passed = [test.output.strip() == str(len(test.input)) for test in submission.tests]
        tests = tuple(TestResult(Verdict.ACCEPTED if one else Verdict.WRONG_ANSWER) for one in passed)
        return Judgement(tests[0].verdict, True, sum(passed), len(tests), tests)
