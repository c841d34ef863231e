"""Rewards: the terminal's v, the aggregation phi, and the schedules of its weight."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from o1coder_jax.errors import UserError
from o1coder_jax.records import Judgement, Verdict

ProcessForm = Literal["phi", "sum", "min"]
"""How the process rewards of a path become one number, see `step_credits`."""


def terminal_reward(judgement: Judgement, alpha: float) -> float | None:
    """v^m = alpha * compile + (1 - alpha) * pass rate, in [0, 1] (arXiv 2412.00154, section 3.2).

    Returns:
      None when the sandbox could not check: such a verdict adds to neither Q nor N.
    """
    if judgement.verdict is Verdict.INFRA_ERROR:
        return None
    return alpha * judgement.compiled + (1 - alpha) * judgement.pass_rate


@dataclass(frozen=True)
class PhiConfig:
    """phi(R, r^1:m) = a(t) * R + (1 - a(t)) * (1/m) * sum_j gamma^j r^j (arXiv 2412.00154, section 3.5).

    Attributes:
      gamma: discount of the process rewards, in [0, 1].
      outcome_weight: a(0).
      floor: a(t) never falls below it.
      schedule: how a(t) falls from a(0) to the floor.
      horizon: t at the floor; t counts the rounds of sampling that RL has done in all iterations, not gradient steps.
    """

    gamma: float = 0.9
    outcome_weight: float = 1.0
    floor: float = 0.5
    schedule: Literal["constant", "linear", "logarithmic", "cosine"] = "linear"
    horizon: int = 100

    def __post_init__(self) -> None:
        if not 0 <= self.gamma <= 1:
            raise UserError(f"rl.phi.gamma is {self.gamma}; it must lie in [0, 1]")
        if not 0 <= self.floor <= self.outcome_weight <= 1:
            raise UserError(
                f"rl.phi: floor is {self.floor} and outcome_weight {self.outcome_weight}; "
                "they must keep 0 <= floor <= outcome_weight <= 1"
            )
        if self.horizon < 1:
            raise UserError(f"rl.phi.horizon is {self.horizon}; it must be at least 1 round")

    def weight(self, t: int) -> float:
        """a(t) in round t >= 0 of RL."""
        progress = min(t / self.horizon, 1.0)
        fallen = {
            "constant": 0.0,
            "linear": progress,
            "logarithmic": math.log1p(min(t, self.horizon)) / math.log1p(self.horizon),
            "cosine": 0.5 * (1 - math.cos(math.pi * progress)),
        }[self.schedule]
        return self.outcome_weight - (self.outcome_weight - self.floor) * fallen


def phi(outcome: float, process: Sequence[float], *, weight: float, gamma: float) -> float:
    """The aggregated reward of a path.

    Args:
      outcome: R in [0, 1].
      process: r^1..r^m in [0, 1]; empty for a path without a step.
      weight: a(t).
      gamma: discount; the first step has gamma^1.
    """
    if not process:
        return weight * outcome
    mean = sum(gamma**j * r for j, r in enumerate(process, 1)) / len(process)
    return weight * outcome + (1 - weight) * mean


def step_credits(
    outcome: float, process: Sequence[float], *, weight: float, gamma: float, form: ProcessForm = "phi"
) -> list[float]:
    """What each step of a path earns; the sum is the path's reward.

    With a = a(t), step j earns (1 - a) times

    - `phi`: gamma^j r^j / m, so that the sum is `phi`;
    - `sum`: gamma^j r^j, without 1/m: a longer path can earn more, which a policy learns to exploit;
    - `min`: r^j at the worst step (the first of equal ones) and 0 at the others (PURE, arXiv 2504.15275, its
      softmin at temperature 0): no step that is added can raise it.

    The last step earns a R as well.

    Args:
      outcome: R in [0, 1].
      process: r^1..r^m in [0, 1].
      weight: a(t).
      gamma: discount of `phi` and `sum`; the first step has gamma^1.

    Returns:
      m credits; of a path without a step one, a R.
    """
    if not process:
        return [weight * outcome]
    if form == "min":
        worst = min(range(len(process)), key=process.__getitem__)
        credits = [r if j == worst else 0.0 for j, r in enumerate(process)]
    else:
        share = len(process) if form == "phi" else 1
        credits = [gamma**j * r / share for j, r in enumerate(process, 1)]
    credits = [(1 - weight) * credit for credit in credits]
    credits[-1] += weight * outcome
    return credits
