"""Measures of the test case generator: validity, what its tests reject, outputs of given inputs."""

from __future__ import annotations

import dataclasses
import random
import types
from typing import Any

import numpy as np
import pytest

from o1coder_jax.records import Form, Problem, TestCase
from tests.train.tcg_world import (
    CALLS,
    CASES,
    NOTHING,
    Asked,
    FakeSandbox,
    curriculum_problem,
    problem,
)
from train.tcg import TCGConfig, answers, measures
from train.tcg.answers import Answers, reward_tests, valid_cases
from train.tcg.measures import Field, Share, figures_of, random_suite, valid_suite, wrong_programs


def test_valid_cases_are_those_that_the_reference_passes():
    one = Problem("a", "s", Form.STDIN, CASES, solutions=("2",))
    valid = valid_cases(FakeSandbox(), [one], [Answers(list(CASES[:4]), 0)])  # type: ignore[arg-type]
    assert valid == [[True, True, False, True]]


def test_problem_without_a_readable_case_has_no_valid_one():
    valid = valid_cases(FakeSandbox(), [problem(), problem("b")], [Answers([], 3), Answers([CASES[0]], 0)])  # type: ignore[arg-type]
    assert valid == [[], [True]]


def test_cases_that_could_not_be_checked_are_neither_valid_nor_invalid():
    answers = [Answers(list(CASES[:3]), 1)]
    valid = valid_cases(FakeSandbox(broken=True), [problem()], answers)  # type: ignore[arg-type]
    assert valid == [[None, None, None]]
    assert figures_of([problem()], answers, valid)["validity"] == 0.0  # of the piece that is no case
    assert figures_of([problem()], answers, [[True, None, False]])["validity"] == 1 / 3


def test_marks_by_problem_come_to_the_rate():
    share = Share([1, 0, 6], [2, 0, 8])
    assert share.rate == 0.7 and np.mean(share.marks()) == pytest.approx(0.7)
    assert Share([0], [0]).rate is None and Share([0], [0]).marks() == []


def test_figures_count_pieces_that_could_not_be_read():
    read = [Answers([TestCase("1 2\n", "1"), TestCase("3 3\n", "2")], 1), Answers([TestCase("1 2\n", "3")], 0)]
    figures = figures_of([problem(), problem("b")], read, [[True, False], [True]])
    assert figures == {"validity": 0.5, "malformed": 0.25, "input_characters": 3.0, "distinct": 1.0, "trivial": 1 / 3}


@pytest.mark.parametrize(("suite", "cases", "spare", "answers"), [(8, 3, 0, 3), (8, 2, 0, 4), (8, 3, 2, 5)])
def test_answers_that_are_asked_for_a_suite(suite: int, cases: int, spare: int, answers: int):
    assert TCGConfig(suite=suite, cases=cases, spare_answers=spare).answers == answers


def test_repeated_inputs_of_one_problem_are_not_distinct():
    assert figures_of([problem()], [Answers([CASES[0], CASES[1], CASES[0]], 0)], [[True] * 3])["distinct"] == 2 / 3


def test_figures_of_nothing_are_unknown():
    assert set(figures_of([problem()], [Answers([], 0)], [[]]).values()) == {None}


@pytest.fixture
def base_writes(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets the programs that the base policy writes."""

    def write(*codes: str | None) -> None:
        drawn = [[types.SimpleNamespace(code=code, sample=NOTHING)] for code in codes]
        monkeypatch.setattr(measures, "sample_programs", lambda *arguments, **options: drawn)

    return write


def rate(read: list[Answers], valid: list[list[bool]], *, broken: bool = False) -> tuple[float | None, int]:
    problems = [problem(str(number)) for number in range(len(read))]
    session: Any = FakeSandbox(broken)
    field = Field(problems, wrong_programs(session, problems)[0], [])
    killed = field.killed(session, [valid_suite(a, fine, 2) for a, fine in zip(read, valid, strict=True)])
    return killed.rate, sum(killed.of)


def test_programs_that_could_not_be_checked_are_not_counted_among_the_killed():
    sandbox: Any = FakeSandbox(broken=True)
    killed = Field([problem(), problem("b")], [["1", "2"], ["1"]], []).killed(sandbox, [[CASES[1]], []])
    assert (killed.counts, killed.of) == ([0, 0], [0, 1])  # no tests reject nothing


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


def test_an_invalid_case_takes_its_place_among_the_first():
    assert valid_suite(Answers([CASES[2], CASES[3], CASES[1]], 0), [False, True, True], 2) == [CASES[3]]


def test_programs_that_repeat_count_once(base_writes: Any, monkeypatch: pytest.MonkeyPatch):
    drawn = [[types.SimpleNamespace(code=code, sample=NOTHING) for code in ("1", "2", "1", None)]]
    monkeypatch.setattr(measures, "sample_programs", lambda *arguments, **options: drawn)
    session: Any = FakeSandbox()
    assert wrong_programs(session, [problem()])[0] == [["1", "2"]]


def test_programs_that_could_not_be_checked_are_not_wrong(base_writes: Any):
    base_writes("1")
    assert rate([Answers([CASES[1]], 0)], [[True]], broken=True) == (None, 0)


def test_answer_without_a_program_is_no_wrong_program(base_writes: Any):
    base_writes(None)
    assert rate([Answers([CASES[1]], 0)], [[True]]) == (None, 0)


def test_reward_tests_have_the_outputs_of_the_reference(monkeypatch: pytest.MonkeyPatch):
    written = Answers([TestCase("1", "wrong"), TestCase("x", "2"), TestCase("1", "3"), TestCase("4", "4")], 1)
    monkeypatch.setattr(answers, "generated", lambda *arguments, **options: ([written], 17))
    [row], tokens = reward_tests(FakeSandbox(), None, [problem()])  # type: ignore[arg-type]
    # At most two distinct inputs; the second makes the reference fail.
    assert row == {"problem_id": "a", "tests": [{"input": "1", "output": "<1>"}], "malformed": 1} and tokens == 17


def test_random_suites_of_file_problems_are_their_own_tests():
    drawn = random_suite(problem(), 3, random.Random(0))
    assert len(drawn) == 3 and {case.input for case in drawn} <= {case.input for case in CASES}
    assert len(random_suite(problem(tests=CASES[:2]), 8, random.Random(0))) == 2


# Given inputs.


def test_a_given_input_is_kept_and_its_output_read(monkeypatch: pytest.MonkeyPatch):
    session: Any = Asked(monkeypatch, ["7<Step_End>", "8<END>", "9"])
    inputs = ["1 2\n", "", "3\n"]
    cases, tokens = answers.completed(session, None, [problem()] * 3, inputs, salt=0)
    assert session.prompts == ["?in: 1 2\nout: ", "?in: \nout: ", "?in: 3\nout: "]
    assert cases == [TestCase("1 2\n", "7\n"), TestCase("\n", "8\n"), TestCase("3\n", "9\n")]
    assert tokens == len("7<Step_End>" + "8<END>" + "9")


def test_a_given_input_keeps_its_place_before_a_trace(monkeypatch: pytest.MonkeyPatch):
    session: Any = Asked(monkeypatch, ["0: [1, 2]\nout: 4<END>", "out: 4<END>"], trace="clauses")
    cases, _ = answers.completed(session, None, [curriculum_problem()] * 2, [[[1, 2]]] * 2, salt=0)
    assert session.prompts == ["?in: [[1, 2]]\n# "] * 2 and cases == [TestCase([[1, 2]], 4), None]


def test_output_accuracy_is_the_share_of_right_outputs_and_what_cannot_be_read_is_wrong(
    monkeypatch: pytest.MonkeyPatch,
):
    session: Any = Asked(monkeypatch, ["2<END>", "3<END>", "x<END>", "]<END>"], given_inputs=3)
    of_texts, of_calls = problem(tests=CASES[:3]), curriculum_problem()
    found, tokens = measures.output_accuracy(session, None, [of_texts, dataclasses.replace(of_calls, tests=CALLS)])
    assert found == {"output_accuracy": 1 / 4, "given_too_long": 0.0} and tokens == 4 * len("2<END>")


def test_inputs_that_an_answer_has_no_room_for_are_not_given(monkeypatch: pytest.MonkeyPatch):
    session: Any = Asked(monkeypatch, ["2<END>"] * 4, given_inputs=4, answer_tokens=30)
    tests = [*CASES[:4], TestCase("1 " * 300_000, "1"), TestCase("5", "1" * 20)]
    found, _ = measures.output_accuracy(session, None, [problem(tests=tests)])
    assert sorted(session.prompts) == [f"?in: {i}\nout: " for i in range(4)]
    assert found == {"output_accuracy": 1.0, "given_too_long": 2 / 6}
    only_long, tokens = measures.output_accuracy(session, None, [problem(tests=tests[4:])])
    assert only_long == {"output_accuracy": None, "given_too_long": 1.0} and tokens == 0


def test_the_inputs_that_are_given_stay_the_same_where_all_are_short(monkeypatch: pytest.MonkeyPatch):
    session: Any = Asked(monkeypatch, ["2<END>"] * 6, given_inputs=2)
    rng, asked = random.Random("0 given inputs"), [problem(name) for name in "abc"]
    drawn = [case.input for one in asked for case in rng.sample(one.tests, 2)]
    measures.output_accuracy(session, None, asked)
    assert session.prompts == [f"?in: {one.strip()}\nout: " for one in drawn]
