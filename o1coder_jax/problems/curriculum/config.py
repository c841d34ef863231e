"""The curriculum's settings, and what `build` gives."""

from __future__ import annotations

import dataclasses

from o1coder_jax.errors import UserError
from o1coder_jax.records import Problem

LONGEST = 5
PART_NAMES = ("training", "selfplay", "validation", "heldout")


@dataclasses.dataclass(frozen=True)
class TeacherConfig:
    """How unreliable the teacher is; every number is a probability or a share, in [0, 1].

    Attributes:
      systematic_share: of the cells (operation, context), those with a mistake as their likeliest variant.
      systematic_mistake: probability of that mistake.
      systematic_correct: of the right variant there; what is left goes to the other mistakes.
      random_correct: of the right variant in all other cells; what is left goes to the mistakes.
    """

    systematic_share: float = 0.43
    systematic_mistake: float = 0.55
    systematic_correct: float = 0.25
    random_correct: float = 0.8

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not 0 <= value <= 1:
                raise UserError(f"teacher.{field.name} is {value}; choose a number from 0 to 1")
        if self.systematic_mistake + self.systematic_correct > 1:
            raise UserError(
                f"teacher.systematic_mistake + teacher.systematic_correct is "
                f"{self.systematic_mistake + self.systematic_correct:g}; lower one, their sum is at most 1"
            )
        if self.systematic_mistake <= self.systematic_correct:
            raise UserError(
                f"teacher.systematic_mistake is {self.systematic_mistake}, not above teacher.systematic_correct "
                f"({self.systematic_correct}); raise it, a systematic mistake is the likeliest variant"
            )
        if self.random_correct <= 0.5:
            raise UserError(
                f"teacher.random_correct is {self.random_correct}; choose one above 0.5, "
                "the right variant is the likeliest there"
            )


@dataclasses.dataclass(frozen=True)
class CurriculumConfig:
    """Sizes of the four parts, and what the problems look like.

    Attributes:
      training, selfplay, validation, heldout: numbers of problems.
      min_operations, max_operations: clauses per problem, in equal shares where there are enough problems.
      heldout_operations, selfplay_operations: numbers of clauses of the held-out problems, as [4, 5], and of those of
        self-play and validation; empty: those of training.
      unseen_phrasings: the last phrasing of every operation is used in held-out problems alone, and no other there.
      stdin_share: share of problems in stdin form; the others are in call form.
      tests: own tests per problem.
      hidden_tests: hidden tests per problem; further ones are added where a mistake would survive these.
      instances: most training or selfplay problems from one template (sequence of operations); they differ in
        parameters. Validation and heldout have one problem per template.
      teacher: see `TeacherConfig`.
    """

    training: int = 1000
    selfplay: int = 600
    validation: int = 120
    heldout: int = 500
    min_operations: int = 2
    max_operations: int = 4
    heldout_operations: tuple[int, ...] = ()
    selfplay_operations: tuple[int, ...] = ()
    unseen_phrasings: bool = False
    stdin_share: float = 0.5
    tests: int = 8
    hidden_tests: int = 50
    instances: int = 2
    teacher: TeacherConfig = dataclasses.field(default_factory=TeacherConfig)

    def __post_init__(self) -> None:
        for name in PART_NAMES:
            _check(name, getattr(self, name), 0, 100_000)
        _check("min_operations", self.min_operations, 1, LONGEST)
        _check("max_operations", self.max_operations, self.min_operations, LONGEST)
        for name in ("heldout_operations", "selfplay_operations"):
            for length in getattr(self, name):
                _check(name, length, 1, LONGEST)
        _check("tests", self.tests, 1, 100)
        _check("hidden_tests", self.hidden_tests, 1, 500)
        _check("instances", self.instances, 1, 100)
        if not 0 <= self.stdin_share <= 1:
            raise UserError(f"curriculum.stdin_share is {self.stdin_share}; choose a number from 0 to 1")

    def lengths(self, part: str) -> list[int]:
        """The numbers of clauses that the problems of one of `PART_NAMES` have, fewest first."""
        own = {"heldout": self.heldout_operations, "training": ()}.get(part, self.selfplay_operations)
        return sorted(set(own)) or list(range(self.min_operations, self.max_operations + 1))

    def size(self, part: str) -> int:
        """The number of problems of one of `PART_NAMES`."""
        return {
            "training": self.training,
            "selfplay": self.selfplay,
            "validation": self.validation,
            "heldout": self.heldout,
        }[part]


def _check(name: str, value: int, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise UserError(f"curriculum.{name} is {value!r}; choose a whole number from {low} to {high}")


@dataclasses.dataclass(frozen=True)
class Parts:
    """The problems of a run. No behaviour, and no template that computes it, is in two parts."""

    training: list[Problem]
    selfplay: list[Problem]
    validation: list[Problem]
    heldout: list[Problem]

    @property
    def all(self) -> list[Problem]:
        return [*self.training, *self.selfplay, *self.validation, *self.heldout]
