"""What methods of search are compared by: outcomes problem by problem, paired bootstrap intervals, and the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from search.tree import Node, Tree


@dataclass(frozen=True)
class Outcome:
    """What a method made of a problem.

    Attributes:
      problem: its id.
      solved: some program passed the problem's own tests.
      passed: the program that it hands in (`answer`) passes the hidden tests; None when that could not be checked.
      tokens, executions: generated, and programs run.
    """

    problem: str
    solved: bool
    passed: bool | None
    tokens: int
    executions: int


@dataclass(frozen=True)
class Row:
    """What a method made of all problems.

    Attributes:
      method, rollouts: its name, and the budget that it ran under.
      outcomes: in the order of the problems, the same for all methods.
      seconds: of the search alone.
      rated: tokens that the process reward model computed.
    """

    method: str
    rollouts: int
    outcomes: Sequence[Outcome]
    seconds: float
    rated: int


def answer(tree: Tree) -> str | None:
    """The program to hand in: the first that the own tests accept, else that of the highest reward; None without any.

    Of equals the first drawn; a program that was not judged ranks last.
    """
    programs = [node for node in tree.nodes if node.code is not None]
    return max(programs, key=_worth).code if programs else None


def _worth(node: Node) -> tuple[bool, float]:
    accepted = node.judgement is not None and node.judgement.accepted
    return accepted, -1.0 if node.reward is None else node.reward


def interval(values: Float[np.ndarray, " n"], *, seed: int, resamples: int) -> tuple[float, float]:
    """95 % of the means over resampled problems (percentile bootstrap, Efron and Tibshirani 1993, chapter 13).

    The same seed draws the same problems: intervals of differences of two methods are paired.
    """
    draws = np.random.default_rng(seed).integers(len(values), size=(resamples, len(values)))
    low, high = np.percentile(values[draws].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def summary(rows: Sequence[Row], *, seed: int, resamples: int) -> list[dict[str, Any]]:
    """One entry for each row; differences are to the first row. Problems that one method could not check count nowhere
    in the pass rates."""
    checked = [i for i in range(len(rows[0].outcomes)) if all(row.outcomes[i].passed is not None for row in rows)]
    solved = [np.array([outcome.solved for outcome in row.outcomes], float) for row in rows]
    passed = [np.array([bool(row.outcomes[i].passed) for i in checked], float) for row in rows]
    entries = []
    for row, own, hidden in zip(rows, solved, passed, strict=True):
        entry: dict[str, Any] = {
            "method": row.method,
            "rollouts": row.rollouts,
            "problems": len(row.outcomes),
            "checked": len(checked),
            "tokens": float(np.mean([outcome.tokens for outcome in row.outcomes])),
            "executions": float(np.mean([outcome.executions for outcome in row.outcomes])),
            "rated_tokens": row.rated / len(row.outcomes),
            "seconds": row.seconds,
        }
        for name, values, first in (("solved", own, solved[0]), ("passed", hidden, passed[0])):
            if len(values):
                entry[name] = {
                    "count": int(values.sum()),
                    "rate": float(values.mean()),
                    "interval": interval(values, seed=seed, resamples=resamples),
                    "difference": float((values - first).mean()),
                    "difference_interval": interval(values - first, seed=seed, resamples=resamples),
                }
        entries.append(entry)
    return entries


HEAD = (
    "method",
    "solved",
    "rate [95 %]",
    "difference",
    "hidden tests passed",
    "rate [95 %]",
    "difference",
    "tokens",
    "executions",
    "seconds",
)


def table(entries: Sequence[dict[str, Any]]) -> str:
    """Markdown; tokens and executions are per problem."""
    lines = [HEAD, ("---",) * len(HEAD)]
    for entry in entries:
        cells = [entry["method"]]
        for name in ("solved", "passed"):
            cells += _cells(entry[name]) if name in entry else ["-"] * 3
        cells += [f"{entry['tokens']:.0f}", f"{entry['executions']:.1f}", f"{entry['seconds']:.0f}"]
        lines.append(tuple(cells))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cells(found: dict[str, Any]) -> list[str]:
    low, high = found["interval"]
    less, more = found["difference_interval"]
    rate, difference = f"{found['rate']:.3f} [{low:.3f}, {high:.3f}]", f"{found['difference']:+.3f}"
    return [str(found["count"]), rate, f"{difference} [{less:+.3f}, {more:+.3f}]"]
