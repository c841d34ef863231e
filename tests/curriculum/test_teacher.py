"""The teacher: well-formed, faithful, habitual, and about as unreliable as it should be."""

from __future__ import annotations

import dataclasses
import random

import pytest

from o1coder_jax import steps
from o1coder_jax.errors import UserError
from o1coder_jax.problems.curriculum import (
    CurriculumConfig,
    Parts,
    Teacher,
    TeacherConfig,
    build,
    reference_outputs,
    teacher_accuracy,
)
from o1coder_jax.problems.curriculum.catalogue import operation
from o1coder_jax.problems.curriculum.teacher import cells, passes, reach
from o1coder_jax.records import Problem
from tests.curriculum.programs import outputs


def _actions(text: str) -> list[steps.Action]:
    return [steps.parse_step(piece).action for piece in steps.split_path(text)]


def _passes_hidden(problem: Problem, text: str) -> bool:
    code = steps.path_code(text)
    assert code is not None
    got = outputs(code, problem.form, problem.fn_name, problem.hidden)
    return got == [case.output for case in problem.hidden]


def test_every_sample_is_define_refines_code(parts: Parts, teacher: Teacher) -> None:
    rng = random.Random(0)
    for problem in parts.all:
        refines = [steps.Action.REFINE] * problem.meta["operations"]
        assert _actions(teacher.sample(problem, rng)) == [steps.Action.DEFINE, *refines, steps.Action.CODE]


def test_a_refine_step_has_the_number_of_its_clause(parts: Parts, teacher: Teacher) -> None:
    pieces = steps.split_path(teacher.most_likely(parts.training[0]))
    assert [piece.split(".")[0] for piece in pieces] == [str(number) for number in range(len(pieces))]


def test_the_program_translates_the_refine_steps(parts: Parts, teacher: Teacher) -> None:
    rng = random.Random(1)
    for problem in parts.training[:200]:
        pieces = [steps.parse_step(piece) for piece in steps.split_path(teacher.sample(problem, rng))]
        lines = [line.strip().removeprefix("a = ") for line in (pieces[-1].code or "").splitlines()[2:-1:2]]
        for clause, step, line in zip(problem.meta["clauses"], pieces[1:-1], lines, strict=True):
            filled = [variant.filled(clause["value"]) for variant in operation(clause["operation"]).variants]
            assert {variant.code for variant in filled if variant.pseudocode == step.body} == {line}


def test_the_correct_answer_is_the_reference(parts: Parts, teacher: Teacher) -> None:
    for problem in parts.training:
        assert steps.path_code(teacher.correct(problem)) == problem.solutions[0]


def test_accuracy_in_process_is_that_of_the_texts(parts: Parts, teacher: Teacher) -> None:
    for problem in parts.heldout[:150]:
        text = teacher.most_likely(problem)
        assert _passes_hidden(problem, text) == passes(problem, teacher.likeliest_variants(problem)), text


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_likeliest_answer_solves_a_quarter_of_heldout(seed: int, parts: Parts) -> None:
    config = CurriculumConfig(training=0, selfplay=0, validation=0)
    heldout = parts.heldout if seed == 0 else build(config, seed).heldout
    assert len(heldout) >= 500
    assert 0.18 <= teacher_accuracy(heldout, Teacher(config, seed)) <= 0.28


def test_misconceptions_are_what_the_likeliest_answer_carries(parts: Parts, teacher: Teacher) -> None:
    for problem in parts.heldout:
        variants = teacher.likeliest_variants(problem)
        clauses = problem.meta["clauses"]
        carried = [
            f"{clause['operation']}/{clause['context']}/{variant.name}"
            for clause, variant in zip(clauses, variants, strict=True)
            if variant.name != "correct"
        ]
        assert teacher.misconceptions(problem) == carried


def test_a_problem_without_misconceptions_is_solved(parts: Parts, teacher: Teacher) -> None:
    untouched = [problem for problem in parts.heldout if not teacher.misconceptions(problem)]
    assert untouched and teacher_accuracy(untouched, teacher) == 1.0


def test_most_problems_with_misconceptions_are_not_solved(parts: Parts, teacher: Teacher) -> None:
    touched = [problem for problem in parts.heldout if teacher.misconceptions(problem)]
    assert teacher_accuracy(touched, teacher) < 0.15


def test_probabilities_add_up_and_leave_the_correct_variant_reachable(teacher: Teacher) -> None:
    for cell in cells():
        weights = teacher.probabilities(cell)
        assert sum(weights.values()) == pytest.approx(1) and min(weights.values()) >= 0
        assert weights["correct"] >= 0.2


def test_the_likeliest_variant_has_the_highest_probability(teacher: Teacher) -> None:
    for cell in cells():
        weights = teacher.probabilities(cell)
        assert max(weights, key=lambda name: weights[name]) == teacher.habits.get(cell, "correct")


def test_samples_follow_the_probabilities(parts: Parts, teacher: Teacher) -> None:
    problem = next(problem for problem in parts.training if len(teacher.misconceptions(problem)) == 1)
    right = 1.0
    for clause in problem.meta["clauses"]:
        right *= teacher.probabilities((clause["operation"], clause["context"]))["correct"]
    rng, correct = random.Random(0), teacher.correct(problem)
    share = sum(teacher.sample(problem, rng) == correct for _ in range(4000)) / 4000
    assert share == pytest.approx(right, abs=0.03)


def test_some_problems_are_rarely_reached_by_sampling(parts: Parts, teacher: Teacher) -> None:
    chance = reach(parts.selfplay, teacher)
    assert chance.mean > 0.75 and 0.02 < chance.rare < 0.25


def test_the_share_of_systematic_cells_is_the_one_asked_for() -> None:
    for share in (0.0, 0.25, 0.43, 1.0):
        habits = Teacher(TeacherConfig(systematic_share=share), 0).habits
        assert len(habits) == round(share * len(cells()))


def test_seeds_differ_in_habits() -> None:
    assert Teacher(TeacherConfig(), 0).habits != Teacher(TeacherConfig(), 1).habits


def test_a_foreign_problem_is_a_user_error(parts: Parts, teacher: Teacher) -> None:
    foreign = dataclasses.replace(parts.training[0], meta={}, id="taco-1")
    with pytest.raises(UserError, match="'taco-1': no composition in its meta"):
        teacher.most_likely(foreign)


def test_an_unreadable_input_is_a_user_error(parts: Parts) -> None:
    problem = next(problem for problem in parts.training if problem.fn_name)
    with pytest.raises(UserError, match="is not an input of a"):
        reference_outputs(problem, [[1.5]])


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"systematic_share": 1.2}, "systematic_share"),
        ({"systematic_mistake": 0.8, "systematic_correct": 0.4}, "sum is at most 1"),
        ({"systematic_mistake": 0.2, "systematic_correct": 0.4}, "likeliest variant"),
        ({"random_correct": 0.4}, "random_correct"),
    ],
)
def test_a_bad_setting_is_named(settings: dict[str, float], named: str) -> None:
    with pytest.raises(UserError, match=named):
        TeacherConfig(**settings)
