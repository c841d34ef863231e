"""What the loop spent, which its rivals may spend as well."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from train.session import Session, StageName
from train.step import OptimizerConfig

STAGES = ("coevolve", "search", "relabel", "sft", "prm", "rl", "head")  # of a round; evaluation costs nobody anything


@dataclass(frozen=True)
class Budget:
    """Costs of making a policy from the base.

    Attributes:
      tokens: generated; the loop's are those of the test case generator (its own measures included), the search, the
        labels of the reward model if answers are drawn for them, and RL.
      executions: tests that programs met.
      updates: of the policy's weights.
      rounds: of generation and learning.
      seconds: of wall clock.
    """

    tokens: int
    executions: int
    updates: int
    rounds: int
    seconds: float = 0.0


def rounds_done(session: Session) -> int:
    """The loop's rounds that are finished."""
    results = session.run.results()
    return max((i for i in range(1, session.config.iterations + 1) if StageName(i)("evaluate") in results), default=0)


def spent(results: dict[str, dict[str, Any]], seconds: dict[str, float], rounds: int) -> Budget:
    """What the loop spent on its policy in so many rounds, from the results and seconds of its stages."""
    stages = {"tcg"} | {StageName(i)(name) for i in range(1, rounds + 1) for name in STAGES}
    done = {name: results[name] for name in stages if name in results}
    return Budget(
        tokens=sum(result.get("tokens_generated", 0) for result in done.values()),
        executions=sum(result.get("executions", 0) for result in done.values()),
        updates=sum(done[name]["policy_updates"] for name in done if name.endswith(("-sft", "-rl"))),
        rounds=rounds,
        seconds=sum(seconds.get(name, 0.0) for name in done),
    )


def optimizer_of(session: Session) -> OptimizerConfig:
    """How rivals learn: their own settings, else those of the loop's fine-tuning."""
    return session.config.rivals.rejection.optimizer or session.config.sft.optimizer
