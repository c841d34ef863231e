"""Compares methods of search on the same problems, at equal tokens.

    python -m search.compare --config configs/compare.yaml

The first method runs with each number of `rollouts`; every other method gets, problem by problem, the tokens that the
first generated there. A rollout or path that was begun within the budget is finished, so that what each method really
used is in the table. MCTS methods also keep to the same number of rollouts; those that widen (`search.expansions`) may
take four times as many, because a rollout that reaches what is drawn already costs no tokens. Writes `compare.json`
(with the outcome of every problem) and `compare.md` to the folder `output`; with several budgets the last table is the
curve over them. Methods may ask one of the bounds of `search/bounds.py` in place of the process reward model.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from o1coder_jax import config as configuration
from o1coder_jax.config import parse
from o1coder_jax.errors import UserError, run_command
from o1coder_jax.policy import Policy
from o1coder_jax.prm import RewardModel
from o1coder_jax.records import Judgement, Problem, ProcessRecord
from sandbox.pool import Pool, submission_for
from search.bounds import Oracle, Shuffled
from search.comparison import CompareConfig, Outcome, Row, answer, curve, most_rollouts, summary, table
from search.config import SearchConfig
from search.growing import Opinion
from search.tree import Tree
from search.waves import Search
from train.prm_scores import step_scores
from train.run_files import write_json, write_text
from train.run_stages import read_records
from train.trained import Trained

SHUFFLED_PATHS = 500  # of the run's trees, whose steps' scores are dealt out


@dataclass(frozen=True)
class Comparison:
    """What all methods share; `rated` is the policy of those that ask a process reward model, with its value head."""

    config: CompareConfig
    trained: Trained
    policy: Policy
    rated: Policy
    reward_model: RewardModel | None
    problems: list[Problem]
    pool: Pool

    @cached_property
    def bounds(self) -> dict[str, Opinion]:
        """What methods may ask in place of the process reward model."""
        asked = {self.config.rater(method) for method in self.config.methods}
        found: dict[str, Opinion] = {"oracle": Oracle()} if "oracle" in asked else {}
        return found | ({"shuffled": self._shuffled()} if "shuffled" in asked else {})

    def _shuffled(self) -> Opinion:
        """Deals out what the model says of steps of the run's trees."""
        rows = itertools.islice(read_records(self.trained.folder, "process.jsonl"), SHUFFLED_PATHS)
        records = [ProcessRecord.from_json(row) for row in rows]
        rater = self.rated if self.reward_model is None else self.reward_model
        scores = step_scores(rater.graph, rater.weights, records, self.trained.mesh)
        ends = {(r.iteration, r.tree, r.steps[-1].node) for r in records if r.ended}
        return Shuffled([(place in ends, score) for place, score in scores.items()], self.config.seed)

    def run(self, method: str, settings: SearchConfig, rollouts: int, tokens: Sequence[int] | None) -> Row:
        """Runs a method on all problems; `tokens` bounds each of them."""
        paths = rollouts if tokens is None else most_rollouts(settings, rollouts)
        rater = self.config.rater(method) if asks(settings) else ""
        search = Search(
            self.rated if rater == "prm" else self.policy,
            self.problems,
            self.judge,
            dataclasses.replace(settings, rollouts=paths),
            self.trained.mesh,
            seed=self.config.seed,
            iteration=0,
            reward_model=self.reward_model if rater == "prm" else None,
            tree_tokens=tokens,
            opinion=self.bounds.get(rater),
        )
        start = time.monotonic()
        trees = sorted(search, key=lambda tree: tree.number)
        seconds = time.monotonic() - start
        return Row(method, rollouts, self.outcomes(trees), seconds, search.counters.rated, search.truncated_prompts)

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
            accepted = len({node.code for node in tree.nodes if node.judgement is not None and node.judgement.accepted})
            found.append(Outcome(tree.problem.id, tree.solved, passed, tree.tokens, tree.executions, accepted))
        return found


def asks(settings: SearchConfig) -> bool:
    """Whether a method has steps rated."""
    return settings.resolved().value_weight > 0 or settings.baseline.rated


def compare(config: CompareConfig) -> None:
    """Runs a comparison and writes its results."""
    trained = Trained.open(Path(config.run))
    settings = {method: config.settings(trained.config.search, method) for method in config.methods}
    problems = trained.problems(config.problems)[: config.count]
    if not problems:
        raise UserError(f"problems: {config.problems} of {config.run} is empty")
    policy = trained.policy(config.policy)
    rated, reward_model = (policy, None) if config.prm is None else trained.rater(config.prm, policy)
    for method, one in settings.items():
        if config.prm is None and asks(one) and config.rater(method) != "oracle":
            raise UserError(f"methods.{method} asks a process reward model; name its checkpoint under prm")
    rows: list[Row] = []
    with Pool(trained.config.sandbox) as pool:
        shared = Comparison(config, trained, policy, rated, reward_model, problems, pool)
        for rollouts in config.rollouts:
            first: Row | None = None
            for method, one in settings.items():
                tokens = None if first is None else [max(outcome.tokens, 1) for outcome in first.outcomes]
                rows.append(shared.run(method, one, rollouts, tokens))
                first = first or rows[-1]
                print(f"{method}, {rollouts} rollouts: {rows[-1].seconds:.0f} s", flush=True)
                write(config, rows)  # so that what was found outlives an interruption
    print(f"\n{write(config, rows)}\n{config.output}: compare.json, compare.md")


def write(config: CompareConfig, rows: Sequence[Row]) -> str:
    """Writes the results so far; returns the tables."""
    count, run = len(rows[0].outcomes), Path(config.run).name
    text, entries = f"{count} problems of {config.problems}, {config.policy} of {run}\n", []
    for rollouts in config.rollouts:
        if some := [row for row in rows if row.rollouts == rollouts]:
            entries += summary(some, seed=config.seed, resamples=config.resamples)
            text += f"\nTokens of {rollouts} rollouts of {some[0].method}\n\n{table(entries[-len(some) :])}"
    if len(config.rollouts) > 1:
        text += f"\n{curve(entries)}"
    outcomes = [dataclasses.asdict(row) for row in rows]
    facts = {"config": configuration.to_dict(config), "rows": entries, "outcomes": outcomes}
    write_json(Path(config.output) / "compare.json", facts)
    write_text(Path(config.output) / "compare.md", text)
    return text


def main() -> None:
    compare(parse(CompareConfig, prog="python -m search.compare", description=(__doc__ or "").split("\n")[0]))


if __name__ == "__main__":
    run_command(main)
