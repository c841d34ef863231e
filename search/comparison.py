"""What methods of search are compared by: settings, outcomes, paired bootstrap intervals, the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import yaml

from o1coder_jax import config as configuration
from o1coder_jax.config import parse
from o1coder_jax.errors import UserError
from o1coder_jax.significance import interval
from search.config import SearchConfig
from search.tree import Node, Tree

RATERS = ("prm", "oracle", "shuffled")
MOST_PATHS = 10_000  # of a baseline, which its tokens bound
WIDENED_ROLLOUTS = 4  # times those of the first method, for one that widens


@dataclass(frozen=True)
class CompareConfig:
    """A comparison.

    Attributes:
      run: folder of the run whose settings, problems and models are used.
      policy, prm: checkpoints in it; `prm` null does without. A value head (`head-001`) goes with the policy that it
        was fitted on (`policy-001`).
      problems: a part of the run's problems (`heldout`, `validation`, `selfplay`, `training`), or a file of its format.
      count: of these, the first so many.
      rollouts: of the first method; one comparison for each number.
      seed, resamples: of the search and the bootstrap.
      output: folder for the results.
      search: settings that differ from the run's, for all methods.
      methods: by name, the settings that differ from these, as `{preset: puct}` or `{baseline: {kind: best_of_n}}`;
        with `rater: oracle` or `rater: shuffled` one of the bounds of `search/bounds.py` stands in for `prm`.
    """

    run: str
    methods: dict[str, dict[str, Any]]
    policy: str = "policy-000"
    prm: str | None = None
    problems: str = "heldout"
    count: int = 200
    rollouts: list[int] = field(default_factory=lambda: [8])
    seed: int = 0
    resamples: int = 10_000
    output: str = "runs/compare"
    search: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.methods:
            raise UserError("methods is empty; name at least one method of search")
        if not self.rollouts:
            raise UserError("rollouts is empty; give at least one number")
        for name, value in (("count", self.count), ("resamples", self.resamples), ("rollouts", min(self.rollouts))):
            if value < 1:
                raise UserError(f"{name} is {value}; it must be at least 1")
        if self.seed < 0:
            raise UserError(f"seed is {self.seed}; it must not be negative")
        for name in self.methods:
            if (rater := self.rater(name)) not in RATERS:
                raise UserError(f"methods.{name}: rater is {rater!r}; use one of {', '.join(RATERS)}")
        for name, changes in (("search", self.search), *self.methods.items()):
            if budget := {"rollouts", "tree_tokens"} & changes.keys():
                raise UserError(
                    f"{name} sets {sorted(budget)[0]}; the budget is the same for all: use rollouts at the top"
                )

    def settings(self, base: SearchConfig, method: str) -> SearchConfig:
        """The search settings of a method."""
        common = changed(base, self.search, "search")
        own = {key: value for key, value in self.methods[method].items() if key != "rater"}
        return changed(common, own, f"methods.{method}")

    def rater(self, method: str) -> str:
        """What rates steps for a method that asks."""
        return str(self.methods[method].get("rater", "prm"))


def changed(config: SearchConfig, changes: dict[str, Any], where: str) -> SearchConfig:
    """Settings with nested changes; raises a `UserError` that names the place."""
    settings = flat(configuration.to_dict(config)) | flat(changes)
    flags = [f"--{key}={yaml.safe_dump(value).splitlines()[0]}" for key, value in settings.items()]
    try:
        return parse(SearchConfig, flags)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return leaves


@dataclass(frozen=True)
class Outcome:
    """What a method made of a problem.

    Attributes:
      problem: its id.
      solved: some program passed the problem's own tests.
      passed: the program that it hands in (`answer`) passes the hidden tests; None when that could not be checked.
      tokens, executions: generated, and programs run.
      accepted: different programs that passed the problem's own tests.
    """

    problem: str
    solved: bool
    passed: bool | None
    tokens: int
    executions: int
    accepted: int = 0


@dataclass(frozen=True)
class Row:
    """What a method made of all problems.

    Attributes:
      method, rollouts: its name, and the budget that it ran under.
      outcomes: in the order of the problems, the same for all methods.
      seconds: of the search alone.
      rated: tokens that the process reward model computed.
      truncated_prompts: statements that were cut to `search.prompt_tokens`.
    """

    method: str
    rollouts: int
    outcomes: Sequence[Outcome]
    seconds: float
    rated: int
    truncated_prompts: int


def most_rollouts(settings: SearchConfig, first: int) -> int:
    """How many rollouts (of a baseline: paths) a method may take within its tokens; `first` are the first method's."""
    if settings.baseline.kind != "none":
        return MOST_PATHS
    return first * (WIDENED_ROLLOUTS if settings.resolved().expansions > 1 else 1)


def answer(tree: Tree) -> str | None:
    """The program to hand in: the first that the own tests accept, else that of the highest reward; None without any.

    Of equals the first drawn; a program that was not judged ranks last.
    """
    programs = [node for node in tree.nodes if node.code is not None]
    return max(programs, key=_worth).code if programs else None


def _worth(node: Node) -> tuple[bool, float]:
    accepted = node.judgement is not None and node.judgement.accepted
    return accepted, -1.0 if node.reward is None else node.reward


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
            "accepted": float(np.mean([outcome.accepted for outcome in row.outcomes])),
            "rated_tokens": row.rated / len(row.outcomes),
            "seconds": row.seconds,
            "truncated_prompts": row.truncated_prompts,
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
    "accepted",
    "seconds",
)


def table(entries: Sequence[dict[str, Any]]) -> str:
    """Markdown; tokens, executions and accepted programs are per problem. Cut prompts are told below it."""
    lines = [HEAD, ("---",) * len(HEAD)]
    for entry in entries:
        cells = [entry["method"]]
        for name in ("solved", "passed"):
            cells += _cells(entry[name]) if name in entry else ["-"] * 3
        cells += [f"{entry['tokens']:.0f}", f"{entry['executions']:.1f}", f"{entry['accepted']:.2f}"]
        cells.append(f"{entry['seconds']:.0f}")
        lines.append(tuple(cells))
    cut = [f"{entry['method']} {entry['truncated_prompts']}" for entry in entries if entry["truncated_prompts"]]
    note = f"\nPrompts that were cut to search.prompt_tokens: {', '.join(cut)}\n" if cut else ""
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + note


def curve(entries: Sequence[dict[str, Any]]) -> str:
    """Markdown: the rate of solved problems of each method at each budget, with the programs that were run for it."""
    budgets = sorted({entry["rollouts"] for entry in entries})
    first = {entry["rollouts"]: entry for entry in reversed(entries)}
    lines = [["solved (executions)", *(f"{first[budget]['tokens']:.0f} tokens" for budget in budgets)]]
    lines.append(["---"] * len(lines[0]))
    for method in dict.fromkeys(entry["method"] for entry in entries):
        own = {entry["rollouts"]: entry for entry in entries if entry["method"] == method}
        cells = [
            f"{own[budget]['solved']['rate']:.3f} ({own[budget]['executions']:.1f})" if budget in own else "-"
            for budget in budgets
        ]
        lines.append([method, *cells])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cells(found: dict[str, Any]) -> list[str]:
    low, high = found["interval"]
    less, more = found["difference_interval"]
    rate, difference = f"{found['rate']:.3f} [{low:.3f}, {high:.3f}]", f"{found['difference']:+.3f}"
    return [str(found["count"]), rate, f"{difference} [{less:+.3f}, {more:+.3f}]"]
