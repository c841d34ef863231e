"""Where problems come from: the seeded curriculum, or TACO / APPS rows from a path.

A file source goes `from_file` -> gold filter (`train/gold.py`) -> `split`; the curriculum builds its parts itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from o1coder_jax.errors import UserError
from o1coder_jax.problems import taco
from o1coder_jax.problems.curriculum import CurriculumConfig, Parts
from o1coder_jax.problems.selection import Rejected, cut, hold_back, place, without_duplicates
from o1coder_jax.records import Problem

__all__ = ["CurriculumConfig", "Parts", "ProblemsConfig", "Rejected", "from_file", "split"]

_REASONS_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class ProblemsConfig:
    """Which problems a run uses.

    Attributes:
      source: `curriculum` (made here, seeded) or `taco` (TACO or APPS rows from `path`).
      path: for `taco`: a JSON or JSONL file, an APPS problem folder, or a folder of either.
      curriculum: settings of the curriculum; unused for files.
      selfplay_share, validation_share, heldout_share: parts of a file's problems; training gets the rest.
      max_tests: own tests kept per problem of a file.
      max_hidden_tests: tests per problem of a file that are held back for reported accuracy.
      max_statement_chars: a problem with a longer statement is set aside.
      gold_solutions: reference solutions that the gold filter runs per problem.
    """

    source: Literal["curriculum", "taco"] = "curriculum"
    path: str | None = None
    curriculum: CurriculumConfig = dataclasses.field(default_factory=CurriculumConfig)
    selfplay_share: float = 0.5
    validation_share: float = 0.125
    heldout_share: float = 0.25
    max_tests: int = 16
    max_hidden_tests: int = 32
    max_statement_chars: int = 8000
    gold_solutions: int = 3

    def __post_init__(self) -> None:
        if self.source not in ("curriculum", "taco"):
            raise UserError(f"problems.source: {self.source!r} is not known; choose curriculum or taco")
        if self.source == "taco" and not self.path:
            raise UserError("problems.path: missing; source taco needs the path of a TACO or APPS file or folder")
        for name in ("selfplay_share", "validation_share", "heldout_share"):
            if not 0 < getattr(self, name) < 1:
                raise UserError(f"problems.{name}: {getattr(self, name)} is not between 0 and 1; choose a share")
        if self.training_share <= 0:
            raise UserError(
                f"problems: selfplay_share + validation_share + heldout_share = {1 - self.training_share:g} leaves "
                "nothing for training; choose shares that sum to less than 1"
            )
        for name in ("max_tests", "max_hidden_tests", "max_statement_chars", "gold_solutions"):
            if getattr(self, name) < 1:
                raise UserError(f"problems.{name}: {getattr(self, name)} is too small; choose 1 or more")

    @property
    def training_share(self) -> float:
        """What the other parts leave, rounded so that float dust does not count as a share."""
        return round(1 - self.selfplay_share - self.validation_share - self.heldout_share, 9)


def from_file(config: ProblemsConfig, seed: int) -> tuple[list[Problem], list[Rejected]]:
    """Loads the problems of `config.path`, before the gold filter, with hidden tests held back.

    Returns the problems and those that were set aside (unusable rows, long or repeated statements).
    Raises a `UserError` for a missing, empty or broken file.
    """
    if not config.path:
        raise UserError("problems.path: missing; give the path of a TACO or APPS file or folder")
    loaded, rejected = taco.load(Path(config.path))
    short = []
    for problem in loaded:
        length, limit = len(problem.statement), config.max_statement_chars
        if length <= limit:
            short.append(problem)
        else:
            reason = f"statement of {length} characters, more than problems.max_statement_chars ({limit})"
            rejected.append(Rejected(problem.id, place(problem), reason))
    unique, repeated = without_duplicates(short)
    held_back = [
        hold_back(problem, max_tests=config.max_tests, max_hidden=config.max_hidden_tests, seed=seed)
        for problem in unique
    ]
    return held_back, rejected + repeated


def split(problems: Sequence[Problem], config: ProblemsConfig, seed: int, rejected: Sequence[Rejected] = ()) -> Parts:
    """Deals a file's problems to the four parts, by a seeded hash of the statement; repeated statements are dropped.

    No part is empty when there are four problems or more; with fewer, the order is selfplay, heldout, training.

    Args:
      problems: what the gold filter kept.
      config: gives the shares.
      seed: of the run.
      rejected: what was set aside so far, for the message of the error.

    Raises:
      UserError: there are no problems.
    """
    unique, _ = without_duplicates(problems)
    if not unique:
        raise _no_problems_left(config, rejected)
    shares = (config.selfplay_share, config.heldout_share, config.training_share, config.validation_share)
    selfplay, heldout, training, validation = cut(unique, shares, seed)
    return Parts(training=training, selfplay=selfplay, validation=validation, heldout=heldout)


def _no_problems_left(config: ProblemsConfig, rejected: Sequence[Rejected]) -> UserError:
    reasons = "; ".join(f"{row.where}: {row.reason}" for row in rejected[:_REASONS_SHOWN])
    more = f"; and {len(rejected) - _REASONS_SHOWN} more" if len(rejected) > _REASONS_SHOWN else ""
    return UserError(
        f"no problems left of {config.path}: all {len(rejected)} were set aside ({reasons or 'none given'}{more}); "
        "give a file with tests that its reference solutions pass"
    )
