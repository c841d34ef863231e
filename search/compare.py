"""Compares methods of search on the same problems, at equal tokens.

    python -m search.compare --config configs/compare.yaml

The first method runs with each number of `rollouts`; every other method gets, problem by problem, the tokens that the
first generated there. A rollout or path that was begun within the budget is finished, so that what each method really
used is in the table. MCTS methods also keep to the same number of rollouts. Writes `compare.json` (with the outcome of
every problem) and `compare.md` to the folder `output`.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from o1coder_jax import config as configuration
from o1coder_jax.config import parse
from o1coder_jax.errors import UserError, run_command
from o1coder_jax.policy import Policy
from o1coder_jax.prm import RewardModel
from o1coder_jax.records import Judgement, Problem
from sandbox.pool import Pool, submission_for
from search.comparison import Outcome, Row, answer, summary, table
from search.config import SearchConfig
from search.tree import Tree
from search.waves import Search
from train.run_files import write_json, write_text
from train.trained import Trained

MOST_PATHS = 10_000  # of a baseline, which its tokens bound


@dataclass(frozen=True)
class CompareConfig:
    """A comparison.

    Attributes:
      run: folder of the run whose settings, problems and models are used.
      policy, prm: checkpoints in it; `prm` null does without.
      problems: a part of the run's problems (`heldout`, `validation`, `selfplay`, `training`), or a file of its format.
      count: of these, the first so many.
      rollouts: of the first method; one comparison for each number.
      seed, resamples: of the search and the bootstrap.
      output: folder for the results.
      search: settings that differ from the run's, for all methods.
      methods: by name, the settings that differ from these, as `{preset: puct}` or `{baseline: {kind: best_of_n}}`.
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
        for name, changes in (("search", self.search), *self.methods.items()):
            if budget := {"rollouts", "tree_tokens"} & changes.keys():
                raise UserError(
                    f"{name} sets {sorted(budget)[0]}; the budget is the same for all: use rollouts at the top"
                )

    def settings(self, base: SearchConfig, method: str) -> SearchConfig:
        """The search settings of a method."""
        common = changed(base, self.search, "search")
        return changed(common, self.methods[method], f"methods.{method}")


def changed(config: SearchConfig, changes: dict[str, Any], where: str) -> SearchConfig:
    """Settings with nested changes; raises a `UserError` that names the place."""
    settings = flat(configuration.to_dict(config)) | flat(changes)
    try:
        return parse(
            SearchConfig, [f"--{key}={yaml.safe_dump(value).split(chr(10))[0]}" for key, value in settings.items()]
        )
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return leaves


@dataclass(frozen=True)
class Comparison:
    """What all methods share."""

    config: CompareConfig
    trained: Trained
    policy: Policy
    reward_model: RewardModel | None
    problems: list[Problem]
    pool: Pool

    def run(self, method: str, settings: SearchConfig, rollouts: int, tokens: Sequence[int] | None) -> Row:
        """Runs a method on all problems; `tokens` bounds each of them."""
        paths = rollouts if settings.baseline.kind == "none" or tokens is None else MOST_PATHS
        needs = settings.resolved().value_weight > 0 or settings.baseline.rated
        search = Search(
            self.policy,
            self.problems,
            self.judge,
            dataclasses.replace(settings, rollouts=paths),
            self.trained.mesh,
            seed=self.config.seed,
            iteration=0,
            reward_model=self.reward_model if needs else None,
            tree_tokens=tokens,
        )
        start = time.monotonic()
        trees = sorted(search, key=lambda tree: tree.number)
        seconds = time.monotonic() - start
        return Row(method, rollouts, self.outcomes(trees), seconds, search.counters.rated)

    def judge(self, problem: Problem, code: str) -> Future[Judgement]:
        return self.pool.submit(submission_for(problem, code))

    def outcomes(self, trees: Sequence[Tree]) -> list[Outcome]:
        """Judges what is handed in on the hidden tests."""
        verdicts = []
        for tree in trees:
            code = answer(tree)
            work = None if code is None else submission_for(tree.problem, code, hidden=True, stop_at_failure=True)
            verdicts.append(None if work is None else self.pool.submit(work))
        found = []
        for tree, future in zip(trees, verdicts, strict=True):
            judgement = None if future is None else future.result()
            passed = False if judgement is None else judgement.accepted if judgement.checked else None
            found.append(Outcome(tree.problem.id, tree.solved, passed, tree.tokens, tree.executions))
        return found


def compare(config: CompareConfig) -> list[dict[str, Any]]:
    """Runs a comparison and writes its results; returns one entry for each budget and method."""
    trained = Trained.open(Path(config.run))
    settings = {method: config.settings(trained.config.search, method) for method in config.methods}
    problems = trained.problems(config.problems)[: config.count]
    if not problems:
        raise UserError(f"problems: {config.problems} of {config.run} is empty")
    reward_model = None if config.prm is None else trained.reward_model(config.prm)
    for method, one in settings.items():
        if reward_model is None and (one.resolved().value_weight > 0 or one.baseline.rated):
            raise UserError(f"methods.{method} asks a process reward model; name its checkpoint under prm")
    entries: list[dict[str, Any]] = []
    found: list[Row] = []
    text = f"{len(problems)} problems of {config.problems}, {config.policy} of {Path(config.run).name}\n"
    with Pool(trained.config.sandbox) as pool:
        shared = Comparison(config, trained, trained.policy(config.policy), reward_model, problems, pool)
        for rollouts in config.rollouts:
            rows: list[Row] = []
            for method, one in settings.items():
                tokens = [max(outcome.tokens, 1) for outcome in rows[0].outcomes] if rows else None
                rows.append(shared.run(method, one, rollouts, tokens))
                print(f"{method}: {rows[-1].seconds:.0f} s", flush=True)
            entries += (some := summary(rows, seed=config.seed, resamples=config.resamples))
            found += rows
            text += f"\nTokens of {rollouts} rollouts of {rows[0].method}\n\n{table(some)}"
    output = Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    outcomes = [dataclasses.asdict(row) for row in found]
    write_json(
        output / "compare.json", {"config": configuration.to_dict(config), "rows": entries, "outcomes": outcomes}
    )
    write_text(output / "compare.md", text)
    print(f"\n{text}\n{output}/compare.json, compare.md")
    return entries


def main() -> None:
    compare(parse(CompareConfig, prog="python -m search.compare", description=(__doc__ or "").split("\n")[0]))


if __name__ == "__main__":
    run_command(main)
