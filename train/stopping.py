"""When the loop ends before its last round: validation has converged, or the budget is used up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from o1coder_jax.errors import UserError
from train.run_stages import FinishedStage
from train.session import StageName


@dataclass(frozen=True)
class StoppingConfig:
    """What ends the loop before round `iterations`. The first round is always done.

    Attributes:
      patience: rounds in a row whose policy is not better on validation than an earlier one; 0: any number.
      seconds: of all stages together; a round begins only while the time of the last one is left. 0: no limit. Runs
        with the same seed may then end after different rounds, since machines differ.
      tokens: generated, in the same way.
    """

    patience: int = 0
    seconds: float = 0.0
    tokens: int = 0

    def __post_init__(self) -> None:
        for name in ("patience", "seconds", "tokens"):
            if getattr(self, name) < 0:
                raise UserError(f"stopping.{name} is {getattr(self, name)}; it must not be negative")


def reason_to_stop(config: StoppingConfig, finished: Sequence[FinishedStage], iteration: int) -> str:
    """Why round `iteration` is not begun; empty if it is.

    Args:
      finished: all stages so far.
    """
    stages = {stage.name: stage for stage in finished}
    if iteration == 1 or any(name.startswith(StageName(iteration)("")) for name in stages):
        return ""
    evaluated = [stages.get(StageName(i)("evaluate")) for i in range(iteration)]
    scores = [stage.result["validation_greedy"] or 0.0 for stage in evaluated if stage is not None]
    since_best = len(scores) - 1 - scores.index(max(scores)) if scores else 0
    if config.patience and since_best >= config.patience:
        return f"validation is no better than {since_best} round{'s' * (since_best > 1)} ago (stopping.patience)"
    last = [stage for name, stage in stages.items() if name.startswith(StageName(iteration - 1)(""))]
    for name, spent, round_took in (
        ("seconds", _seconds(finished), _seconds(last)),
        ("tokens", _tokens(finished), _tokens(last)),
    ):
        limit = getattr(config, name)
        if limit and spent + round_took > limit:
            return f"{spent:,.0f} {name} are used, and a round takes {round_took:,.0f} (stopping.{name} {limit:,})"
    return ""


def _seconds(stages: Sequence[FinishedStage]) -> float:
    return float(sum(stage.seconds for stage in stages))


def _tokens(stages: Sequence[FinishedStage]) -> int:
    return int(sum(stage.result.get("tokens_generated", 0) for stage in stages))
