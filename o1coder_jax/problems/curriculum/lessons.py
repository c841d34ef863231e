"""Test cases to learn from: short inputs that find mistakes, and the written traces of test inputs.

The values are this package's own; no text that a model wrote is ever run here.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from o1coder_jax.problems.curriculum.behaviour import CRASHED, Composition, codes_of, run, run_each
from o1coder_jax.problems.curriculum.cases import mutants
from o1coder_jax.problems.curriculum.task import read_inputs, task_of
from o1coder_jax.problems.curriculum.tracing import trace
from o1coder_jax.problems.curriculum.values import Kind, Value, distinct_inputs, empty, short_input
from o1coder_jax.records import Problem, TestCase

CANDIDATES = 12
"""Inputs from which the short ones are chosen; from many it would always be the shortest that find what is known."""

KILL_CHARACTERS = 20
"""Characters that the values of a case may be longer for each mistake that it is the first to find."""

TRIVIAL_CHARACTERS = 8
"""What an input without two different elements counts as longer."""

LARGE = ((130, 16), (40, 4))
"""Numbers beyond each size count as so many characters more: a small model sees each of them too seldom to learn to
compute with it."""


def stages_of(composition: Composition, values: Sequence[Value]) -> list[list[Value]]:
    """The values before, between and after the clauses: one list per input."""
    stages = [list(values)]
    for code in codes_of(composition):
        stages.append(run([code], stages[-1]))
    return [list(row) for row in zip(*stages, strict=True)]


def traces(problem: Problem, inputs: Sequence[Any]) -> list[str]:
    """The trace of each test input (see `tracing.py`).

    Raises `UserError` if the problem is not one of the curriculum's, or if it cannot read an input.
    """
    composition = task_of(problem).composition
    return [trace(composition, stages) for stages in stages_of(composition, read_inputs(problem, inputs))]


def worked_cases(problem: Problem, count: int, rng: random.Random) -> list[TestCase]:
    """`count` cases whose inputs are short and, together, find many of the mistakes that the curriculum knows.

    Candidates are drawn; one after another that case is taken which finds most mistakes (one that n chosen cases find
    already counts 1 / 2^n), less what it costs to write. Fewer cases if fewer different inputs were drawn.
    """
    task = task_of(problem)
    values = _candidates(task.kinds[0], task.composition, rng)
    stages = stages_of(task.composition, values)
    costs = [_cost(one) for one in stages]
    killed = _killed(task.composition, values, [one[-1] for one in stages])
    worth: dict[int, float] = dict.fromkeys(set().union(*killed), KILL_CHARACTERS)
    chosen: list[int] = []
    left = list(range(len(values)))
    while left and len(chosen) < count:
        best = max(left, key=lambda i: sum(worth[mistake] for mistake in killed[i]) - costs[i])
        left.remove(best)
        worth |= {mistake: worth[mistake] / 2 for mistake in killed[best]}
        chosen.append(best)
    rng.shuffle(chosen)
    return [task.case(values[i], stages[i][-1]) for i in chosen]


def _cost(stages: Sequence[Value]) -> int:
    """Characters of the values on the way, with what counts as such."""
    numbers = [n for stage in stages for n in (stage if isinstance(stage, list) else [stage]) if isinstance(n, int)]
    trivial = not isinstance(stages[0], int) and len(set(stages[0])) < 2
    large = sum(characters for number in numbers for size, characters in LARGE if abs(number) > size)
    return sum(len(str(stage)) for stage in stages) + TRIVIAL_CHARACTERS * trivial + large


def _candidates(kind: Kind, composition: Composition, rng: random.Random) -> list[Value]:
    """Different inputs: short ones, and the empty one."""
    named = _named(kind, composition)
    drawn = [short_input(kind, rng, named) for _ in range(CANDIDATES)]
    return list({str(value): value for value in [*drawn, empty(kind)]}.values())


def _named(kind: Kind, composition: Composition) -> list[Value]:
    """What the clauses name, and the numbers beside it, which tell a bound from the next one."""
    named = [clause.value for clause in composition if clause.value is not None]
    numbers = [one + beside for one in named if isinstance(one, int) for beside in (-1, 0, 1)]
    if kind is Kind.LIST:
        return [*numbers]
    letters = [one for one in named if isinstance(one, str) and one.isalpha()]
    return [*letters, *(str(number) for number in numbers if number in range(10))]


def _killed(composition: Composition, values: list[Value], outputs: list[Value]) -> list[set[int]]:
    """The numbers of the mistakes that each input tells from the reference."""
    found: list[set[int]] = [set() for _ in values]
    codes = codes_of(composition)
    for number, mutant in enumerate(mutants(composition)):
        results = run_each([*codes[: mutant.index], *mutant.codes], values)
        for place, (result, output) in enumerate(zip(results, outputs, strict=True)):
            if result is CRASHED or result != output:
                found[place].add(number)
    return found


def random_cases(problem: Problem, count: int, rng: random.Random) -> list[TestCase]:
    """Cases of different random inputs, drawn as the curriculum draws its own tests, without edge cases."""
    task = task_of(problem)
    values = distinct_inputs(task.kinds[0], count, rng)
    return [task.case(value, output) for value, output in zip(values, task.outputs(values), strict=True)]
