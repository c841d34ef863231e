"""Which rivals a run has, and their settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from o1coder_jax.errors import UserError
from train.step import OptimizerConfig

Rival = Literal["continued", "filtered", "rejection", "random", "one_shot"]


@dataclass(frozen=True)
class RejectionConfig:
    """Rejection-sampling SFT: sample, keep what passes the own tests, fine-tune, and again.

    Attributes:
      samples: answers to a problem at a time; problems are gone through until the tokens are spent.
      rounds: of sampling and fine-tuning, which share the tokens and updates; 0: as many as the loop had.
      updates: in all rounds together; 0: as many as the loop made.
      paths_per_problem: distinct right answers kept per problem, the latest rounds' first.
      from_base: every round fine-tunes the base, not the policy of the round before.
      skip_solved: problems that have `paths_per_problem` right answers get no further samples while others lack some.
      temperature: of the samples.
      optimizer: null: that of `sft`.
    """

    samples: int = 8
    rounds: int = 0
    updates: int = 0
    paths_per_problem: int = 4
    from_base: bool = False
    skip_solved: bool = True
    temperature: float = 1.0
    optimizer: OptimizerConfig | None = None

    def __post_init__(self) -> None:
        for name in ("samples", "paths_per_problem"):
            if getattr(self, name) < 1:
                raise UserError(f"rivals.rejection.{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("rounds", "updates"):
            if getattr(self, name) < 0:
                raise UserError(f"rivals.rejection.{name} is {getattr(self, name)}; it must not be negative")
        if self.temperature <= 0:
            raise UserError(f"rivals.rejection.temperature is {self.temperature}; it must be above 0")


@dataclass(frozen=True)
class RivalsConfig:
    """What is compared with the loop when it has ended.

    Attributes:
      run: `continued` trains the base on with its teacher; `filtered` fine-tunes it on the teacher's answers to
        self-play problems that pass the own tests; `rejection` on its own answers that do; `random` keeps as many
        answers, but drawn at random; `one_shot` is `rejection` in one round. Empty: no comparison.
      samples: answers to a held-out problem, for pass@k with k up to it.
      problems: held-out problems that are sampled for, the first so many; greedy answers are given to all.
      resamples: of the bootstrap.
      rejection: see there; `random` and `one_shot` take the same settings.
    """

    run: tuple[Rival, ...] = ()
    samples: int = 64
    problems: int = 120
    resamples: int = 10_000
    rejection: RejectionConfig = field(default_factory=RejectionConfig)

    def __post_init__(self) -> None:
        for name in ("samples", "problems", "resamples"):
            if getattr(self, name) < 1:
                raise UserError(f"rivals.{name} is {getattr(self, name)}; it must be at least 1")
        if len(set(self.run)) < len(self.run):
            raise UserError(f"rivals.run is {', '.join(self.run)}; name each rival once")
