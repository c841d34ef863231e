"""The test case generator: it learns the template, prefers matching pairs, and what it writes is checked."""

from __future__ import annotations

import contextlib
import io
import random
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from o1coder_jax.records import Form, Judgement, Problem, TestCase, TestResult, Verdict
from tests.train.world import opened, read_lines, results
from train import tcg
from train.data import Example, example, padded_batch
from train.session import Session
from train.step import sequence_scores
from train.tcg import Answers, TCGConfig, dpo_batch, draws, kill_rate, reward_tests, valid_cases, validity

CASES = tuple(TestCase(f"{i}\n", str(i)) for i in range(5))


def problem(name: str = "a", tests: Sequence[TestCase] = CASES) -> Problem:
    return Problem(name, "s", Form.STDIN, tuple(tests), hidden=tuple(tests), solutions=("print(input())",))


# Examples.


def test_cases_are_drawn_without_replacement():
    for drawn in draws(problem(), TCGConfig(cases=3, examples_per_problem=20), random.Random(0)):
        assert len({case.input for case in drawn}) == 3


def test_problem_with_few_tests_gives_all_of_them():
    drawn = draws(problem(tests=CASES[:2]), TCGConfig(cases=3, examples_per_problem=4), random.Random(0))
    assert [len(cases) for cases in drawn] == [2] * 4


def test_problem_without_tests_gives_no_example():
    assert draws(problem(tests=()), TCGConfig(), random.Random(0)) == []


def test_chosen_and_rejected_lie_in_neighbouring_rows():
    pairs: list[tuple[Example, Example]] = [(example([1], [2]), example([1], [3]))]
    batch = dpo_batch(pairs, TCGConfig(dpo_pairs=2))
    assert batch["tokens"][:, 1].tolist() == [2, 3, 0, 0] and batch["valid"].tolist() == [1, 1, 0, 0]


# What is made of its answers, with a sandbox that is made up: a program fails the inputs that hold its text.


class FakeSandbox:
    """A session that answers submissions at once."""

    def __init__(self, broken: bool = False):
        self.config = types.SimpleNamespace(tcg=TCGConfig(suite=2, cases=1))
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


def test_valid_cases_are_those_that_the_reference_passes():
    one = Problem("a", "s", Form.STDIN, CASES, solutions=("2",))
    valid = valid_cases(FakeSandbox(), [one], [Answers(list(CASES[:4]), 0)])  # type: ignore[arg-type]
    assert valid == [[True, True, False, True]]


def test_problem_without_a_readable_case_has_no_valid_one():
    valid = valid_cases(FakeSandbox(), [problem(), problem("b")], [Answers([], 3), Answers([CASES[0]], 0)])  # type: ignore[arg-type]
    assert valid == [[], [True]]


def test_cases_that_could_not_be_checked_are_invalid_one_by_one():
    answers = [Answers(list(CASES[:3]), 0)]
    assert valid_cases(FakeSandbox(broken=True), [problem()], answers) == [[False, False, False]]  # type: ignore[arg-type]


def test_validity_counts_pieces_that_could_not_be_read():
    assert validity([Answers(list(CASES[:2]), 1), Answers([], 1)], [[True, False], []]) == 0.25


def test_validity_of_nothing_is_unknown():
    assert validity([Answers([], 0)], [[]]) is None


@pytest.fixture
def base_writes(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets the programs that the base policy writes."""

    def write(*codes: str | None) -> None:
        drawn = [[types.SimpleNamespace(code=code)] for code in codes]
        monkeypatch.setattr(tcg, "sample_programs", lambda *arguments, **options: drawn)

    return write


def rate(answers: list[Answers], valid: list[list[bool]], *, broken: bool = False) -> tuple[float | None, int]:
    problems = [problem(str(number)) for number in range(len(answers))]
    return kill_rate(FakeSandbox(broken), problems, answers, valid)  # type: ignore[arg-type]


def test_kill_rate_is_over_wrong_programs(base_writes: Any):
    base_writes("1", "1", "none")  # "1" fails the hidden test with that input, "none" passes all
    killing, harmless = Answers([CASES[1]], 0), Answers([CASES[2]], 0)
    assert rate([killing, harmless, killing], [[True], [True], [True]]) == (0.5, 2)


def test_invalid_cases_kill_nothing(base_writes: Any):
    base_writes("1")
    assert rate([Answers([CASES[1]], 0)], [[False]]) == (0.0, 1)


def test_only_the_first_distinct_cases_kill(base_writes: Any):
    base_writes("1")
    assert rate([Answers([CASES[2], CASES[2], CASES[3], CASES[1]], 0)], [[True] * 4]) == (0.0, 1)


def test_programs_that_could_not_be_checked_are_not_wrong(base_writes: Any):
    base_writes("1")
    assert rate([Answers([CASES[1]], 0)], [[True]], broken=True) == (None, 0)


def test_answer_without_a_program_is_no_wrong_program(base_writes: Any):
    base_writes(None)
    assert rate([Answers([CASES[1]], 0)], [[True]]) == (None, 0)


def test_reward_tests_have_the_outputs_of_the_reference(monkeypatch: pytest.MonkeyPatch):
    written = Answers([TestCase("1", "wrong"), TestCase("x", "2"), TestCase("1", "3"), TestCase("4", "4")], 1)
    monkeypatch.setattr(tcg, "generated", lambda *arguments, **options: ([written], 17))
    [row], tokens = reward_tests(FakeSandbox(), None, [problem()])  # type: ignore[arg-type]
    # At most two distinct inputs; the second makes the reference fail.
    assert row == {"problem_id": "a", "tests": [{"input": "1", "output": "<1>"}], "malformed": 1} and tokens == 17


# The stage.


@pytest.fixture(scope="module")
def trained(wee: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    with opened(wee, tmp_path_factory.mktemp("tcg"), upto="tcg") as session:
        yield session


def scores(session: Session, checkpoint: str, examples: Sequence[Example]) -> np.ndarray:
    model = session.load_policy(checkpoint)
    batch = padded_batch(list(examples), 16, 160)
    return sequence_scores(model.graph, model.weights, batch, session.mesh)[: len(examples)]


def test_fine_tuning_makes_the_template_likelier(trained: Session):
    examples = tcg.sft_examples(trained, trained.parts.training, random.Random(0))[:16]
    assert scores(trained, "tcg-sft", examples).mean() > scores(trained, "policy-000", examples).mean() + 10


def test_preferring_raises_the_margin_of_matching_pairs(trained: Session):
    rng = random.Random(trained.config.seed)  # as the stage drew them: for other shuffles little is sure
    tcg.sft_examples(trained, trained.parts.training, rng)
    pairs = tcg.dpo_pairs(trained, trained.parts.training, rng)[:8]
    flat = [one for pair in pairs for one in pair]
    margins = []
    for checkpoint in ("tcg-sft", "tcg"):
        found = scores(trained, checkpoint, flat)
        margins.append((found[0::2] - found[1::2]).mean())
    assert margins[1] > margins[0] + 1


def test_generator_has_weights_of_its_own(trained: Session):
    prints = {name: trained.load_policy(name).fingerprint for name in ("policy-000", "tcg-sft", "tcg")}
    assert len(set(prints.values())) == 3


def test_tests_for_rl_are_passed_by_the_reference(trained: Session):
    rows = [row for row in trained.run.read("tests.jsonl") if row["tests"]]
    assert len(rows) == trained.require("tcg", "")["problems_with_tests"] > 0
    for row in rows:
        one = trained.problem[row["problem_id"]]
        ran = trained.pool.outputs(one.solutions[0], [test["input"] for test in row["tests"]], one.fn_name)
        assert [value for _, value in ran] == [test["output"] for test in row["tests"]]


def test_every_selfplay_problem_has_a_row(trained: Session):
    rows = [row["problem_id"] for row in trained.run.read("tests.jsonl")]
    assert rows == [one.id for one in trained.parts.selfplay]


def test_both_phases_are_reported(wee: Path):
    rows = [row for row in read_lines(wee / "metrics.jsonl") if row["stage"] == "tcg"]
    assert any("sft_loss" in row for row in rows) and any("dpo_margin" in row for row in rows)
    assert {"validity_sft", "validity_dpo", "kill_rate", "tokens_generated"} <= results(wee)["tcg"].keys()


def test_generator_without_problems_to_learn_from_is_refused(wee: Path, runs: Path):
    from o1coder_jax.errors import UserError

    with opened(wee, runs, upto="bootstrap") as session, contextlib.redirect_stderr(io.StringIO()):
        session.parts.training.clear()
        with pytest.raises(UserError, match="tcg: no problem of the training part gives an example"):
            tcg.run(session)
        assert session.run.stage("tcg") is None
