"""Estimators of what a policy can do."""

from __future__ import annotations

import math
from collections.abc import Sequence


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """The unbiased estimator 1 - C(n - c, k) / C(n, k) (arXiv 2107.03374).

    Args:
      samples: n >= k.
      correct: c, how many of them pass.
      k: draws.
    """
    if k > samples:
        raise ValueError(f"pass@{k} needs at least {k} samples, not {samples}")
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


def expected(values: Sequence[float], log_probabilities: Sequence[float]) -> float | None:
    """The mean over different paths, each weighed by its probability; None of nothing.

    What a search finds once, however likely, counts so as often as the policy would draw it: sum_i p_i v_i / sum_i p_i.

    Args:
      values: of each path.
      log_probabilities: of each path, up to a constant; all equal for samples, which are as many as they are likely.
    """
    if not values:
        return None
    most = max(log_probabilities)
    weights = [math.exp(one - most) for one in log_probabilities]
    return sum(weight * value for weight, value in zip(weights, values, strict=True)) / sum(weights)


def mean(values: list[float]) -> float | None:
    """The mean; None of nothing."""
    return sum(values) / len(values) if values else None
