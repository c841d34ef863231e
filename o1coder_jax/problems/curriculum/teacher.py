"""A teacher with habits: seeded, and wrong in a way that more samples do not always cure.

Its habits belong to cells, (operation, context). In a systematic cell the likeliest variant is one fixed
mistake; elsewhere it is the right one. A wrong clause is written in its refine step and translated
faithfully, so the program does what the pseudocode says.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import random
from collections.abc import Callable, Sequence

from o1coder_jax.problems.curriculum import wording
from o1coder_jax.problems.curriculum.behaviour import CRASHES, run
from o1coder_jax.problems.curriculum.catalogue import OPERATIONS, operation
from o1coder_jax.problems.curriculum.config import CurriculumConfig, TeacherConfig
from o1coder_jax.problems.curriculum.operations import CORRECT, Operation, Variant
from o1coder_jax.problems.curriculum.parting import draw_template
from o1coder_jax.problems.curriculum.task import CONTEXTS, FIRST, LATER, Task, read_inputs, task_of
from o1coder_jax.problems.curriculum.values import INPUT_KINDS, to_stdout
from o1coder_jax.records import Form, Problem

Cell = tuple[str, str]
"""Operation and context."""

CANDIDATES = 41
REFERENCE_PATHS = 600
STRATUM = 5
"""Neighbouring cells of the catalogue that share out their systematic ones, so that seeds are alike."""


def cells() -> list[Cell]:
    """Every cell that can occur and has a mistake, similar operations side by side."""
    return [
        (item.name, context)
        for context in CONTEXTS
        for item in OPERATIONS.values()
        if item.mistakes and (context != FIRST or any(item.output(kind) for kind in INPUT_KINDS))
    ]


class Teacher:
    """Answers with the habits that `seed` draws.

    Attributes:
      habits: the systematic cells, each with the name of its mistake.
    """

    def __init__(self, config: CurriculumConfig | TeacherConfig, seed: int):
        self._config = config.teacher if isinstance(config, CurriculumConfig) else config
        self.habits = _draw_habits(self._config.systematic_share, random.Random(f"teacher/{seed}"))

    def most_likely(self, problem: Problem) -> str:
        """The text of the likeliest path, steps joined with their markers."""
        return self._answer(task_of(problem), self._likeliest)

    def sample(self, problem: Problem, rng: random.Random) -> str:
        """A path whose clauses are drawn one by one from their cells."""
        return self._answer(task_of(problem), lambda cell: self._sampled(cell, rng))

    def correct(self, problem: Problem) -> str:
        """The path without a mistake."""
        return self._answer(task_of(problem), lambda cell: operation(cell[0]).correct)

    def misconceptions(self, problem: Problem) -> list[str]:
        """The habits in the likeliest answer, in clause order, as `operation/context/mistake`."""
        return [
            f"{cell[0]}/{cell[1]}/{self.habits[cell]}" for cell in _cells_of(task_of(problem)) if cell in self.habits
        ]

    def probabilities(self, cell: Cell) -> dict[str, float]:
        """The distribution over the names of a cell's variants, `correct` first."""
        mistakes = [mistake.name for mistake in operation(cell[0]).mistakes]
        if not mistakes:
            return {CORRECT: 1.0}
        habit = self.habits.get(cell)
        if habit is None:
            return _spread({CORRECT: self._config.random_correct}, mistakes)
        favoured = {CORRECT: self._config.systematic_correct, habit: self._config.systematic_mistake}
        if len(mistakes) == 1:
            favoured[habit] = 1 - self._config.systematic_correct
        return _spread(favoured, [name for name in mistakes if name != habit])

    def likeliest_variants(self, problem: Problem) -> list[Variant]:
        """The variants of the likeliest answer, clause by clause, with their parameters filled in."""
        return _variants(task_of(problem), self._likeliest)

    def _likeliest(self, cell: Cell) -> Variant:
        habit = self.habits.get(cell)
        return operation(cell[0]).correct if habit is None else operation(cell[0]).mistake(habit)

    def _sampled(self, cell: Cell, rng: random.Random) -> Variant:
        weights = self.probabilities(cell)
        name = rng.choices(list(weights), list(weights.values()))[0]
        return operation(cell[0]).correct if name == CORRECT else operation(cell[0]).mistake(name)

    def _answer(self, task: Task, choose: Callable[[Cell], Variant]) -> str:
        return wording.answer(task.kinds, task.form, _variants(task, choose))


def teacher_accuracy(problems: Sequence[Problem], teacher: Teacher) -> float:
    """The share of problems whose likeliest answer passes all hidden tests; 0 if there are no problems.

    Runs the variants' own expressions in this process; the sandbox judges the same from the answers' text.
    """
    passed = sum(passes(problem, teacher.likeliest_variants(problem)) for problem in problems)
    return passed / len(problems) if problems else 0.0


def passes(problem: Problem, variants: Sequence[Variant]) -> bool:
    """True if a chain of variants gives the expected output on every hidden test."""
    values = read_inputs(problem, [case.input for case in problem.hidden])
    try:
        outputs = run([variant.code for variant in variants], values)
    except CRASHES:
        return False
    texts = [to_stdout(output) for output in outputs]
    return (outputs if problem.form is Form.CALL else texts) == [case.output for case in problem.hidden]


def _variants(task: Task, choose: Callable[[Cell], Variant]) -> list[Variant]:
    pairs = zip(_cells_of(task), task.composition, strict=True)
    return [choose(cell).filled(clause.value) for cell, clause in pairs]


def _cells_of(task: Task) -> list[Cell]:
    return [(clause.operation, context) for clause, context in zip(task.composition, task.contexts(), strict=True)]


def _spread(favoured: dict[str, float], others: Sequence[str]) -> dict[str, float]:
    """Shares what `favoured` leaves evenly among the others."""
    rest = (1 - sum(favoured.values())) / len(others) if others else 0.0
    return favoured | dict.fromkeys(others, rest)


@functools.cache
def _reference_paths() -> list[list[Cell]]:
    """Cells of templates like those of a default curriculum, the same in every run."""
    rng = random.Random("teacher/reference")
    used: collections.Counter[str] = collections.Counter()
    paths: list[list[Cell]] = []
    while len(paths) < REFERENCE_PATHS:
        template = draw_template(2 + len(paths) % 3, used, rng)
        if template is not None:
            kind, names = template
            used.update((kind, *names))
            paths.append([(name, FIRST if index == 0 else LATER) for index, name in enumerate(names)])
    return paths


def _draw_habits(share: float, rng: random.Random) -> dict[Cell, str]:
    """The draw, out of `CANDIDATES`, with the median share of untouched reference paths: no seed is an odd one."""
    candidates = [_draw_candidate(share, rng) for _ in range(CANDIDATES)]
    candidates.sort(key=lambda habits: sum(habits.keys().isdisjoint(path) for path in _reference_paths()))
    return candidates[CANDIDATES // 2]


def _draw_candidate(share: float, rng: random.Random) -> dict[Cell, str]:
    """Marks `share` of the cells, evenly along the catalogue, and draws a mistake for each."""
    everywhere = cells()
    marked: list[Cell] = []
    for start in range(0, len(everywhere), STRATUM):
        stratum = everywhere[start : start + STRATUM]
        rng.shuffle(stratum)
        upto = round(share * min(start + STRATUM, len(everywhere)))
        marked.extend(stratum[: upto - len(marked)])
    return {cell: rng.choice(_names(operation(cell[0]))) for cell in marked}


def _names(item: Operation) -> list[str]:
    return [mistake.name for mistake in item.mistakes]


@dataclasses.dataclass(frozen=True, slots=True)
class Reach:
    """How often 32 samples contain a right answer, over problems: mean, and the share of problems below one half."""

    mean: float
    rare: float


def reach(problems: Sequence[Problem], teacher: Teacher, *, samples: int = 32) -> Reach:
    """Chance that `samples` answers hold at least one without a mistake (mistakes that do not show count as wrong)."""
    chances = []
    for problem in problems:
        right = 1.0
        for cell in _cells_of(task_of(problem)):
            right *= teacher.probabilities(cell)[CORRECT]
        chances.append(1 - (1 - right) ** samples)
    if not chances:
        return Reach(0.0, 0.0)
    return Reach(sum(chances) / len(chances), sum(chance < 0.5 for chance in chances) / len(chances))
