"""Tests of the problems: right, different, and sharp."""

from __future__ import annotations

import random

from o1coder_jax.problems.curriculum import CurriculumConfig, Parts, build, reference_outputs
from o1coder_jax.problems.curriculum.behaviour import Clause, run_each
from o1coder_jax.problems.curriculum.cases import Trace, mutants, pool
from o1coder_jax.problems.curriculum.task import read_inputs, task_of
from o1coder_jax.problems.curriculum.values import Kind, distinct_inputs
from o1coder_jax.records import Form, Problem
from tests.curriculum.programs import outputs


def test_every_reference_passes_its_tests(parts: Parts) -> None:
    for problem in parts.all[::4]:
        cases = problem.tests + problem.hidden
        got = outputs(problem.solutions[0], problem.form, problem.fn_name, cases)
        assert got == [case.output for case in cases], problem.id


def test_hidden_tests_kill_every_mistake_that_shows_on_the_pool(parts: Parts) -> None:
    for problem in parts.all[::3]:
        task = task_of(problem)
        hidden = Trace(task.composition, read_inputs(problem, [case.input for case in problem.hidden]))
        survivors = [mutant for mutant in mutants(task.composition) if not hidden.kills(mutant)]
        if survivors:
            wide = Trace(task.composition, pool(task.kinds[0]))
            assert not any(wide.kills(mutant) for mutant in survivors), problem.id


def test_mistakes_that_survive_are_rare(parts: Parts) -> None:
    total = survived = 0
    for problem in parts.heldout:
        task = task_of(problem)
        hidden = Trace(task.composition, read_inputs(problem, [case.input for case in problem.hidden]))
        verdicts = [hidden.kills(mutant) for mutant in mutants(task.composition)]
        total, survived = total + len(verdicts), survived + verdicts.count(False)
    assert survived < 0.1 * total


def test_a_crash_kills() -> None:
    composition = (Clause("keep_above", 5), Clause("maximum"))
    trace = Trace(composition, [[1, 2], [9]])
    forgotten = next(mutant for mutant in mutants(composition) if mutant.name == "forgotten_empty")
    assert trace.killers(forgotten) == [[1, 2]]
    assert run_each(forgotten.codes, [[], [7]]) == [None, 7]


def test_own_tests_have_the_empty_input(parts: Parts) -> None:
    for problem in parts.all:
        assert [] in [value or [] for value in read_inputs(problem, [case.input for case in problem.tests])]


def test_hidden_inputs_are_fifty_others(parts: Parts) -> None:
    for problem in parts.all:
        own, hidden = ({str(case.input) for case in cases} for cases in (problem.tests, problem.hidden))
        assert len(own) == 8 and len(hidden) == len(problem.hidden) >= 50 and not own & hidden, problem.id


def test_numbers_of_tests_can_be_set() -> None:
    config = CurriculumConfig(training=5, selfplay=0, validation=0, heldout=0, tests=3, hidden_tests=20)
    for problem in build(config, 0).training:
        assert len(problem.tests) == 3 and len(problem.hidden) >= 20


def test_inputs_and_outputs_are_short(parts: Parts) -> None:
    longest = max(len(str(case.output)) for problem in parts.all for case in problem.tests + problem.hidden)
    assert longest <= 100
    assert max(len(str(case.input)) for problem in parts.all for case in problem.tests + problem.hidden) <= 40


def test_tokens_tell_outputs_apart(parts: Parts) -> None:
    for problem in parts.all:
        if problem.form is Form.STDIN:
            for case in problem.hidden:
                assert " ".join(case.output.split()) + "\n" == case.output and problem.compare == {"mode": "tokens"}


def test_distinct_inputs_are_distinct_and_new() -> None:
    without = distinct_inputs(Kind.LIST, 20, random.Random(0))
    inputs = distinct_inputs(Kind.LIST, 300, random.Random(0), first=[[1]], without=without)
    assert len({str(value) for value in inputs + without}) == 320 and inputs[0] == [1]


def test_reference_outputs_match_the_tests(parts: Parts) -> None:
    def agrees(problem: Problem) -> bool:
        expected = [case.output for case in problem.tests]
        return reference_outputs(problem, [case.input for case in problem.tests]) == expected

    assert all(agrees(problem) for problem in parts.validation)
