"""The bounds of a reward model: what the oracle knows, how scores are dealt out, and that a search asks them."""

from __future__ import annotations

import dataclasses

import pytest

from o1coder_jax.errors import UserError
from o1coder_jax.problems.curriculum import Teacher, TeacherConfig, build
from o1coder_jax.problems.curriculum.config import CurriculumConfig
from o1coder_jax.records import Form, Problem
from o1coder_jax.steps import split_path
from search.bounds import Oracle, Shuffled, right
from search.tree import Node, Tree

SIZES = {"training": 40, "selfplay": 0, "validation": 0, "heldout": 0, "min_operations": 2, "max_operations": 3}


@pytest.fixture(scope="module")
def problems() -> list[Problem]:
    return build(CurriculumConfig(**SIZES), 0).training


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    return Teacher(TeacherConfig(), 0)


def test_reference_path_is_right_at_every_step(problems, teacher):
    for problem in problems:
        path = split_path(teacher.correct(problem))
        assert all(right(problem, path[:length]) for length in range(1, len(path) + 1))


def test_path_is_wrong_from_its_first_mistake_on(problems, teacher):
    found = 0
    for problem in problems:
        path, best = split_path(teacher.most_likely(problem)), split_path(teacher.correct(problem))
        if path != best:
            first = next(i for i, (step, other) in enumerate(zip(path, best, strict=True)) if step != other)
            known = [right(problem, path[:length]) for length in range(1, len(path) + 1)]
            # A mistake may not show behind another clause, but then the whole path is as good as the best.
            assert known[:first] == [True] * first and (all(known) or not known[-1])
            found += not known[-1]
    assert found > 10


def test_program_that_is_not_of_its_path_is_wrong(problems, teacher):
    path = split_path(teacher.correct(problems[0]))
    other = split_path(teacher.correct(problems[1]))
    assert not right(problems[0], [*path[:-1], other[-1]])
    assert not right(problems[0], [path[0], path[-1]])


@pytest.mark.parametrize(
    "step", ["1. refine: something else<Step_End>", "nonsense<Step_End>", "1. define: x<Step_End>"]
)
def test_step_that_stands_for_nothing_is_wrong(problems, teacher, step):
    path = split_path(teacher.correct(problems[0]))
    assert not right(problems[0], [path[0], step]) and not right(problems[0], [step])


def test_oracle_reads_the_path_of_a_candidate(problems, teacher):
    path = split_path(teacher.correct(problems[0]))
    tree = Tree(0, problems[0], (1,))
    tree.nodes += [Node(0, 1, text=path[0]), Node(0, 1, text="0. define: wrong<Step_End>")]
    oracle = Oracle()
    assert oracle(tree, Node(1, 2, text=path[1])) == 1.0 and oracle(tree, Node(2, 2, text=path[1])) == 0.0


def test_oracle_knows_problems_of_the_curriculum_alone(problems):
    other = Problem("x", "Print 1.", Form.STDIN, ())
    with pytest.raises(UserError, match="only problems of source 'curriculum'"):
        right(other, ["0. define: x<Step_End>"])


def test_shuffled_scores_are_those_of_their_kind_and_the_same_for_the_same_step(problems):
    tree = Tree(0, problems[0], (1,))
    scores = [(False, 0.1), (False, 0.2), (True, 0.8), (True, 0.9)]
    steps = [Node(0, 1, (token,), ended=ended) for token in range(40) for ended in ("", "code")]
    found = [Shuffled(scores, 0)(tree, step) for step in steps]
    assert found == [Shuffled(scores, 0)(tree, step) for step in steps]
    assert found != [Shuffled(scores, 1)(tree, step) for step in steps]
    for ended, both in (("", {0.1, 0.2}), ("code", {0.8, 0.9})):
        assert {score for step, score in zip(steps, found, strict=True) if step.ended == ended} == both


def test_shuffled_scores_do_not_depend_on_the_tree_that_asks(problems):
    scores = [(False, number / 100) for number in range(100)]
    tree, other = (Tree(0, dataclasses.replace(problems[0], id=name), (1,)) for name in ("a", "b"))
    step = Node(0, 1, (5,))
    assert Shuffled(scores, 0)(tree, step) != Shuffled(scores, 0)(other, step)
