"""What a process reward model could at best bring to a search, and what it brings when it knows nothing.

    oracle      the curriculum's own knowledge: 1 as long as the clauses that a path has settled still lead to the right
                outputs, else 0; a program is right if it is that of the path's clauses
    shuffled    scores that a model gave to other steps, dealt out at random

The oracle is a lower bound of a perfect judge: a path in words of its own is wrong for it, and so is a program that
mends what its path got wrong.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from o1coder_jax.problems.curriculum import wording
from o1coder_jax.problems.curriculum.behaviour import CRASHES, codes_of, run
from o1coder_jax.problems.curriculum.catalogue import OPERATIONS, operation
from o1coder_jax.problems.curriculum.task import Task, read_inputs, task_of
from o1coder_jax.problems.curriculum.values import to_stdout
from o1coder_jax.records import Form, Problem, content_hash
from o1coder_jax.steps import Action, parse_step, split_path
from search.tree import Node, Tree


class Oracle:
    """Knows of every step of a curriculum problem whether it is right; raises a `UserError` on others."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, tuple[str, ...]], bool] = {}

    def __call__(self, tree: Tree, step: Node) -> float:
        path = (*(tree.nodes[index].text for index in tree.path(step.parent)), step.text)
        key = (tree.problem.id, path)
        if key not in self._known:
            self._known[key] = right(tree.problem, path)
        return float(self._known[key])


def right(problem: Problem, path: Sequence[str]) -> bool:
    """Whether the steps of a path, from the first, still lead to the right outputs on all tests."""
    task = task_of(problem)
    clauses = task.composition
    variants = [operation(clause.operation).correct.filled(clause.value) for clause in clauses]
    opening = split_path(wording.answer(task.kinds, task.form, variants))[0]
    if path[0] != opening:
        return False
    codes: list[str] = []
    for number, step in enumerate(map(parse_step, path[1:]), 1):
        if step.action is Action.CODE:
            if number <= len(clauses) or step.code != wording.program(task.kinds, task.form, codes):
                return False
            break
        code = _codes().get(step.body) if step.action is Action.REFINE else None
        if code is None or number > len(clauses):
            return False
        codes.append(code)
    return _passes(problem, task, [*codes, *codes_of(clauses[len(codes) :])])


def _passes(problem: Problem, task: Task, codes: Sequence[str]) -> bool:
    cases = [*problem.tests, *problem.hidden]
    try:
        outputs = run(codes, read_inputs(problem, [case.input for case in cases]))
    except (*CRASHES, TypeError, AttributeError):  # the last two: a clause of another kind of value
        return False
    return [case.output for case in cases] == (outputs if task.form is Form.CALL else [to_stdout(o) for o in outputs])


@functools.cache
def _codes() -> dict[str, str]:
    """The expression that a refine step's text stands for, over all variants of all operations."""
    filled = [variant.filled(value) for one in OPERATIONS.values() for value in one.values for variant in one.variants]
    return {variant.pseudocode: variant.code for variant in reversed(filled)}  # of equal texts the first counts


class Shuffled:
    """Deals a model's scores out at random, those of paths' ends to paths' ends; the same step gets the same again.

    Args:
      scores: pairs (whether no step may follow, score).
    """

    def __init__(self, scores: Sequence[tuple[bool, float]], seed: int):
        self._scores = {end: [score for kind, score in scores if kind == end] for end in (False, True)}
        self._seed = seed

    def __call__(self, tree: Tree, step: Node) -> float:
        path = [*(tree.nodes[index].tokens for index in tree.path(step.parent)), step.tokens]
        drawn = int(content_hash(self._seed, tree.problem.id, path), 16)
        pool = self._scores[step.terminal] or self._scores[not step.terminal]
        return pool[drawn % len(pool)]
