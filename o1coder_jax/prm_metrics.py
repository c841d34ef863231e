"""How a process reward model's scores are judged: ranking within a problem and among siblings, and calibration.

Steps are columns of n entries. A figure within groups (problems, or siblings) compares steps of the same group alone,
so that knowing which problems are easy earns nothing. A figure that nothing can be said about is None.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from o1coder_jax.prm import label_metrics
from o1coder_jax.steps import NAMES, Action

BINS = 10


@dataclass(frozen=True)
class ScoredSteps:
    """Scores of steps beside their labels.

    Attributes:
      score: r in [0, 1].
      label: v in [0, 1].
      problem: the number of its problem.
      parent: the number of the node that it continues; siblings share it.
      depth: from 1.
      action: as `steps.Action`.
      terminal: no step may follow.
    """

    score: Float[np.ndarray, " n"]
    label: Float[np.ndarray, " n"]
    problem: Int[np.ndarray, " n"]
    parent: Int[np.ndarray, " n"]
    depth: Int[np.ndarray, " n"]
    action: Int[np.ndarray, " n"]
    terminal: Bool[np.ndarray, " n"]

    def where(self, which: Bool[np.ndarray, " n"]) -> ScoredSteps:
        """Those steps alone."""
        return ScoredSteps(*(getattr(self, field.name)[which] for field in fields(self)))

    def __len__(self) -> int:
        return len(self.score)


def groups_of(group: Int[np.ndarray, " n"]) -> Iterator[Int[np.ndarray, " m"]]:
    """The places of each group's members."""
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order])) + 1
    yield from np.split(order, starts) if len(group) else []


def pairs_in_order(
    score: Float[np.ndarray, " n"], label: Float[np.ndarray, " n"], group: Int[np.ndarray, " n"]
) -> tuple[float | None, int]:
    """The share of pairs within a group, of different labels, that the scores order like the labels, and their number.

    Equal scores count one half. With labels 0 and 1 this is the AUC within a group, its mean over the groups that have
    both classes, weighted by their pairs.
    """
    right, count = 0.0, 0
    for places in groups_of(group):
        better = label[places][:, None] > label[places][None, :]
        ahead = score[places][:, None] - score[places][None, :]
        right += float(((ahead > 0) + 0.5 * (ahead == 0))[better].sum())
        count += int(better.sum())
    return (right / count if count else None), count


def ranks(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Ranks from 1, equal values sharing the mean of theirs."""
    _, inverse, repeats = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(repeats) - (repeats - 1) / 2)[inverse]


def correlation(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"]) -> float | None:
    """Pearson's; None where either does not vary."""
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size > 1e-12 else None


def spearman_within(
    score: Float[np.ndarray, " n"], label: Float[np.ndarray, " n"], group: Int[np.ndarray, " n"]
) -> float | None:
    """Spearman's rank correlation in each group whose labels vary, the mean of these weighted by their steps.

    Scores that do not vary there say nothing: 0.
    """
    total, count = 0.0, 0
    for places in groups_of(group):
        if np.ptp(label[places]) > 0:
            total += len(places) * (correlation(ranks(score[places]), ranks(label[places])) or 0.0)
            count += len(places)
    return total / count if count else None


def reliability_table(
    score: Float[np.ndarray, " n"], label: Float[np.ndarray, " n"], bins: int = BINS
) -> list[dict[str, float]]:
    """One row for each bin of scores that holds any: its `count`, mean `score` and mean `label`."""
    bin_of = np.minimum((score * bins).astype(int), bins - 1)
    return [
        {
            "from": number / bins,
            "to": (number + 1) / bins,
            "count": int((bin_of == number).sum()),
            "score": float(score[bin_of == number].mean()),
            "label": float(label[bin_of == number].mean()),
        }
        for number in np.unique(bin_of)
    ]


def calibration_error(table: Sequence[dict[str, float]]) -> float | None:
    """Expected calibration error: sum over bins of (count / n) |mean score - mean label| (arXiv 1706.04599, eq. 3)."""
    count = sum(row["count"] for row in table)
    return sum(row["count"] * abs(row["score"] - row["label"]) for row in table) / count if count else None


def figures(steps: ScoredSteps, threshold: float = 0.5) -> dict[str, float | None]:
    """The figures of one set of steps.

    Args:
      threshold: a label of at least this is a good step, where a figure asks for two classes.

    Returns:
      `steps`, `good` (the share of good ones), `auc` (pooled), `auc_within` a problem, `siblings` (ranked right),
      `spearman` (within a problem), `calibration_error`, `log_loss`, `accuracy`.
    """
    if not len(steps):
        return {"steps": 0}
    good = steps.label >= threshold
    siblings, pairs = pairs_in_order(steps.score, steps.label, steps.parent)
    return {
        "steps": len(steps),
        "good": float(good.mean()),
        "auc_within": pairs_in_order(steps.score, good.astype(float), steps.problem)[0],
        "siblings": siblings,
        "sibling_pairs": pairs,
        "spearman": spearman_within(steps.score, steps.label, steps.problem),
        "calibration_error": calibration_error(reliability_table(steps.score, steps.label)),
        **label_metrics(steps.score, steps.label, threshold),
    }


def judged(steps: ScoredSteps, threshold: float = 0.5) -> dict[str, Any]:
    """All figures: `non_terminal` and `terminal` steps apart, `pooled`, and by depth and action.

    Depths are those of steps that are not terminal; of actions, a step of `none` is no well-formed step.
    """
    open_steps = steps.where(~steps.terminal)

    def by(values: Int[np.ndarray, " n"], of: ScoredSteps) -> Iterable[tuple[int, dict[str, float | None]]]:
        return ((int(value), figures(of.where(values == value), threshold)) for value in np.unique(values))

    return {
        "non_terminal": figures(open_steps, threshold),
        "terminal": figures(steps.where(steps.terminal), threshold),
        "pooled": figures(steps, threshold),
        "by_depth": {str(depth): found for depth, found in by(open_steps.depth, open_steps)},
        "by_action": {NAMES.get(Action(action), "none"): found for action, found in by(steps.action, steps)},
        "reliability": reliability_table(open_steps.score, open_steps.label),
    }


def split_halves(
    outcomes: Sequence[Sequence[bool]], problem: Int[np.ndarray, " n"], parent: Int[np.ndarray, " n"], threshold: float
) -> dict[str, float | None]:
    """How well labels agree with themselves: the rate of every other outcome, judged as a score of the other half's.

    Args:
      outcomes: of each step's continuations, at least two of each.

    Returns:
      `auc_within`, `siblings` and `spearman` as in `figures`, each from half of the outcomes on both sides, so that a
      model can be above them; and `reliability`, the correlation of the halves within problems stepped up to all
      outcomes by 2 r / (1 + r) (Spearman 1910, Brown 1910). Its root is the highest correlation with these labels that
      any score can have.
    """
    if not len(outcomes):
        return {"auc_within": None, "siblings": None, "spearman": None, "reliability": None}
    first, second = (np.array([float(np.mean(one[start::2])) for one in outcomes]) for start in (0, 1))
    centred = [np.concatenate([half[at] - half[at].mean() for at in groups_of(problem)]) for half in (first, second)]
    r = correlation(*centred)
    return {
        "auc_within": pairs_in_order(first, (second >= threshold).astype(float), problem)[0],
        "siblings": pairs_in_order(first, second, parent)[0],
        "spearman": spearman_within(first, second, problem),
        "reliability": None if r is None else 2 * r / (1 + r),
    }
