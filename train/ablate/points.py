"""What a cell measures: points, each a policy (or a method of search) with its marks by problem and its costs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from train.fared import UNKNOWN, Fared, fared
from train.rivals.budget import Budget
from train.session import Session
from train.tcg.measures import Share


@dataclass(frozen=True)
class Point:
    """One measurement.

    Attributes:
      label: such as `round 1`.
      costs: `tokens`, `executions`, `updates`, `seconds`; of a search per problem, tokens and executions.
      fared: of a policy, as JSON values of `Fared`.
      outcomes: of a search: strings `solved` and `passed` with one sign for each problem, lists `tokens`, `executions`.
      figures: of another model, by name.
      shares: those of the figures that are shares over problems, as JSON values of `Share`.
      validation: greedy, of a policy.
    """

    label: str
    costs: dict[str, float]
    fared: dict[str, Any] = field(default_factory=dict)
    outcomes: dict[str, Any] = field(default_factory=dict)
    validation: float | None = None
    figures: dict[str, float] = field(default_factory=dict)
    shares: dict[str, dict[str, list[int]]] = field(default_factory=dict)

    def marks(self, measure: str) -> Float[np.ndarray, " n"]:
        """Marks by problem, NaN where unknown, or one figure; empty where the point does not have this measure."""
        if measure in self.shares:
            return np.array(Share(**self.shares[measure]).marks())
        if measure in self.figures:
            return np.array([self.figures[measure]])
        if measure in self.outcomes:
            return np.array([np.nan if sign == UNKNOWN else float(sign) for sign in self.outcomes[measure]])
        if not self.fared or not (measure == "greedy" or measure.startswith("pass@")):
            return np.zeros(0)
        return Fared.from_json(self.fared).marks(measure)


def costs_of(budget: Budget) -> dict[str, float]:
    """A budget as costs."""
    return {
        "tokens": budget.tokens,
        "executions": budget.executions,
        "updates": budget.updates,
        "seconds": budget.seconds,
    }


def measured(
    session: Session,
    label: str,
    checkpoint: str,
    costs: dict[str, float],
    *,
    samples: int = 0,
    sampled_problems: int = 0,
) -> Point:
    """Measures a policy on the held-out problems and on validation; beside the greedy answer `samples` others to the
    first `sampled_problems` held-out ones (0: to all).

    It is a stage of the run, so that a cell that was stopped does not measure again.
    """
    name = f"point-{label.replace(' ', '-')}-{checkpoint}"
    if session.run.stage(name) is None:
        with session.run.stage_scope(name) as stage:
            policy = session.load_policy(checkpoint)
            heldout = fared(session, policy, session.parts.heldout, samples=samples, sampled=sampled_problems or None)
            chosen = fared(session, policy, session.parts.validation, samples=0)
            stage.result |= {"fared": heldout.to_json(), "validation": chosen.rate("greedy")}
            session.judging.costs()  # begins to count anew
    result = session.require(name, "train.ablate")
    return Point(label, costs, fared=result["fared"], validation=result["validation"])
