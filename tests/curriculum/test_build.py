"""The parts: sizes, identity, separation, determinism, and what is refused."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import itertools
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from o1coder_jax.errors import UserError
from o1coder_jax.problems.curriculum import CurriculumConfig, Parts, build
from o1coder_jax.problems.curriculum.behaviour import codes_of, examine, instances, run
from o1coder_jax.problems.curriculum.catalogue import OPERATIONS
from o1coder_jax.problems.curriculum.config import PART_NAMES
from o1coder_jax.problems.curriculum.counting import count_distinct
from o1coder_jax.problems.curriculum.operations import fill
from o1coder_jax.problems.curriculum.task import Task, task_of
from o1coder_jax.problems.curriculum.values import Kind, Value, random_input
from o1coder_jax.records import Problem, to_line

ROOT = Path(__file__).parents[2]
SMALL = CurriculumConfig(training=30, selfplay=20, validation=10, heldout=20)

_DIGEST = """
import hashlib
from o1coder_jax.problems.curriculum import CurriculumConfig, Teacher, build
from o1coder_jax.records import to_line
config = CurriculumConfig(training=30, selfplay=20, validation=10, heldout=20)
parts, teacher = build(config, 7), Teacher(config, 7)
text = "".join(to_line(problem) + teacher.most_likely(problem) for problem in parts.all)
print(hashlib.sha256(text.encode()).hexdigest())
"""


def _fresh(kind: Kind, count: int, seed: str) -> list[Value]:
    rng = random.Random(f"fresh/{seed}/{kind}")
    return [random_input(kind, rng) for _ in range(count)]


def _behaviour(task: Task, inputs: dict[Kind, list[Value]]) -> str:
    kind = task.kinds[0]
    printed = "\n".join(map(str, task.outputs(inputs[kind])))
    return hashlib.sha256(f"{kind}\n{printed}".encode()).hexdigest()


def _inputs(count: int, seed: str) -> dict[Kind, list[Value]]:
    return {kind: _fresh(kind, count, seed) for kind in (Kind.LIST, Kind.TEXT)}


def test_parts_have_the_sizes_asked_for(parts: Parts) -> None:
    assert [len(getattr(parts, name)) for name in PART_NAMES] == [1000, 600, 120, 500]


def test_ids_are_unique(parts: Parts) -> None:
    assert len({problem.id for problem in parts.all}) == len(parts.all)


def test_every_operation_is_used_often(parts: Parts) -> None:
    used = collections.Counter(clause["operation"] for problem in parts.training for clause in problem.meta["clauses"])
    assert set(used) == set(OPERATIONS) and min(used.values()) >= 10


def test_no_behaviour_is_in_two_parts(parts: Parts) -> None:
    inputs = _inputs(300, "parts")
    found = [{_behaviour(task_of(problem), inputs) for problem in getattr(parts, name)} for name in PART_NAMES]
    assert not any(one & other for one, other in itertools.combinations(found, 2))


def test_no_two_problems_are_the_same(parts: Parts) -> None:
    inputs = _inputs(200, "problems")
    assert len({_behaviour(task_of(problem), inputs) for problem in parts.all}) == len(parts.all)


def test_no_instance_of_a_heldout_template_is_a_problem_elsewhere(parts: Parts) -> None:
    inputs = _inputs(60, "templates")
    elsewhere = {_behaviour(task_of(problem), inputs) for problem in parts.training + parts.selfplay}
    for problem in parts.heldout:
        task = task_of(problem)
        for item in instances([clause.operation for clause in task.composition]):
            instance = Task(task.form, task.kinds, item)
            if _behaviour(instance, inputs) in elsewhere:
                assert examine(task.kinds[0], item) is None, item


def test_every_clause_matters(parts: Parts) -> None:
    inputs = _inputs(200, "clauses")
    for problem in parts.heldout:
        task = task_of(problem)
        for index in range(len(task.composition)):
            rest = task.composition[:index] + task.composition[index + 1 :]
            if task.kinds[index] == task.kinds[index + 1]:
                values = inputs[task.kinds[0]]
                assert run(codes_of(rest), values) != task.outputs(values), problem.id


def test_no_problem_is_nearly_constant(parts: Parts) -> None:
    inputs = _inputs(200, "constant")
    for problem in parts.all:
        outputs = list(map(str, task_of(problem).outputs(inputs[task_of(problem).kinds[0]])))
        assert len(set(outputs)) >= 5, problem.id


def test_hash_randomisation_changes_nothing() -> None:
    digests = set()
    for seed in ("0", "1"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", _DIGEST]
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
        digests.add(done.stdout)
    assert len(digests) == 1


def test_another_seed_gives_other_problems() -> None:
    one, other = build(SMALL, 1), build(SMALL, 2)
    assert not {problem.statement for problem in one.heldout} & {problem.statement for problem in other.heldout}


def test_problems_survive_json(parts: Parts) -> None:
    for problem in parts.heldout[:50]:
        assert Problem.from_json(json.loads(to_line(problem))) == problem


def test_both_forms_and_all_lengths_are_there(parts: Parts) -> None:
    kinds = {(str(problem.form), problem.meta["operations"]) for problem in parts.validation}
    assert kinds == set(itertools.product(("stdin", "call"), (2, 3, 4)))


def test_stdin_share_of_one_leaves_no_call_form() -> None:
    parts = build(CurriculumConfig(training=5, selfplay=5, validation=5, heldout=5, stdin_share=1.0), 0)
    assert {str(problem.form) for problem in parts.all} == {"stdin"}


def test_there_are_more_than_fifty_thousand_different_problems() -> None:
    assert count_distinct(50_001) > 50_000


def test_more_problems_than_there_are_is_a_user_error() -> None:
    config = CurriculumConfig(training=200, selfplay=0, validation=0, heldout=200, min_operations=1, max_operations=1)
    with pytest.raises(UserError, match="cannot be made with 1 to 1 operations"):
        build(config, 0)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("training", -1),
        ("max_operations", 9),
        ("min_operations", 4.0),
        ("tests", 0),
        ("stdin_share", 1.5),
        ("heldout_operations", (4, 6)),
        ("selfplay_operations", (0,)),
    ],
)
def test_a_bad_setting_is_named(setting: str, value: float) -> None:
    settings: dict[str, Any] = {setting: value}
    with pytest.raises(UserError, match=setting):
        CurriculumConfig(**settings)


def test_fewest_operations_above_most_is_a_user_error() -> None:
    with pytest.raises(UserError, match="max_operations is 2"):
        CurriculumConfig(min_operations=3, max_operations=2)


@pytest.fixture(scope="module")
def apart() -> Parts:
    """Two and three operations to learn from, four and five held out, in phrasings of their own."""
    config = dataclasses.replace(SMALL, max_operations=3, heldout_operations=(5, 4), unseen_phrasings=True)
    return build(config, 3)


def test_longer_problems_can_be_held_out(apart: Parts) -> None:
    lengths = {name: collections.Counter(p.meta["operations"] for p in getattr(apart, name)) for name in PART_NAMES}
    assert lengths["heldout"] == {4: 10, 5: 10}
    assert all(set(lengths[name]) == {2, 3} for name in ("training", "selfplay", "validation"))
    assert [len(getattr(apart, name)) for name in PART_NAMES] == [30, 20, 10, 20]


def test_selfplay_can_have_lengths_of_its_own() -> None:
    config = dataclasses.replace(SMALL, max_operations=5, selfplay_operations=(3, 2), heldout_operations=(4, 5))
    made = build(config, 3)
    lengths = {name: {p.meta["operations"] for p in getattr(made, name)} for name in PART_NAMES}
    assert lengths == {"training": {2, 3, 4, 5}, "selfplay": {2, 3}, "validation": {2, 3}, "heldout": {4, 5}}
    few = dataclasses.replace(config, selfplay=5000, selfplay_operations=(1,))
    with pytest.raises(UserError, match=r"\(self-play: \[1\]\) \(held out: \[4, 5\]\)"):
        build(few, 0)


def phrasings(problem: Problem) -> list[int]:
    """Which of its operation's phrasings each clause of a statement is."""
    lines = [line.split(". ", 1)[1] for line in problem.statement.split("\n")[1:]]
    found = []
    for line, clause in zip(lines, task_of(problem).composition, strict=True):
        texts = [fill(text, clause.value) for text in OPERATIONS[clause.operation].phrasings]
        found.append(texts.index(line) - len(texts))
    return found


def test_unseen_phrasings_are_in_held_out_problems_alone(apart: Parts) -> None:
    seen = [number for name in PART_NAMES[:3] for problem in getattr(apart, name) for number in phrasings(problem)]
    assert {number for problem in apart.heldout for number in phrasings(problem)} == {-1}
    assert -1 not in seen and len(set(seen)) == 2


def test_all_phrasings_are_everywhere_unless_asked_for(parts: Parts) -> None:
    for name in PART_NAMES:
        assert {number for problem in getattr(parts, name) for number in phrasings(problem)} >= {-3, -2, -1}


def test_problems_that_cannot_be_made_name_the_held_out_lengths() -> None:
    config = CurriculumConfig(training=5, selfplay=5, validation=5, heldout=500, heldout_operations=(1,))
    with pytest.raises(UserError, match=r"with 2 to 4 operations \(held out: \[1\]\)"):
        build(config, 0)
