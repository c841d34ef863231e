"""Between steps 2 and 3: new labels for old trees, where a problem's tests have changed.

    python -m train.relabel --config configs/tiny.yaml --iteration 2

With `labels.relabel` every tree of the run is compared with the tests that its problem has now (`labels.tests`): those
in its part's file, and with `all` those that the test case generator wrote. Where they differ, all programs of the tree
are judged again and its values computed anew, as in `search/labels.py`; nothing is generated. The new rows go to
`trees.jsonl` and `process.jsonl` behind the old ones, and the stages that learn take a tree's last labels; where
verdicts have changed, the ledger is told how the tree's rollouts fare now. A tree of which a program could not be
checked keeps the labels that it has, and the next round tries it again.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from o1coder_jax.records import Problem, TestCase
from search.labels import changed, relabel
from search.store import StoredTree, read_tree
from search.tree import tests_hash
from train.ledger import LEDGER, of_tree, rollouts_counted
from train.run import Stage
from train.session import Session, StageName


@dataclass(frozen=True)
class LabelsConfig:
    """What the programs of a search are judged with.

    Attributes:
      tests: `own`, the problem's own tests; `all`, these and the tests that the generator wrote for it.
      relabel: before each round's fine-tuning, judge trees again whose problem has other tests now. With `all` and
        `tcg.coevolve` each round may bring some; with `own` none but those written into the run's
        `problems/selfplay.jsonl` by hand.
    """

    tests: Literal["own", "all"] = "own"
    relabel: bool = False


def judged(session: Session, problems: list[Problem]) -> list[Problem]:
    """The problems with the tests that a search's programs meet now."""
    if session.config.labels.tests == "own":
        return problems
    session.require("tcg", "train.tcg")
    written = {
        row["problem_id"]: tuple(TestCase(test["input"], test["output"]) for test in row["tests"])
        for row in session.run.read("tests.jsonl")
    }
    return [_with(problem, written.get(problem.id, ())) for problem in problems]


def _with(problem: Problem, tests: tuple[TestCase, ...]) -> Problem:
    """The problem with further tests behind its own, without those that repeat one."""
    fresh = [test for test in tests if test not in problem.tests]
    return dataclasses.replace(problem, tests=(*problem.tests, *fresh)) if fresh else problem


def run(session: Session, iteration: int) -> None:
    """Gives trees whose problems have other tests by now the labels that these give."""
    names = StageName(iteration)
    session.require(names("search"), f"train.reason --iteration {iteration}")
    with session.run.stage_scope(names("relabel")) as stage:
        stage.result |= session.once(lambda: _relabelled(session, stage)) or {}
        session.judging.costs()  # begins to count anew


def _relabelled(session: Session, stage: Stage) -> dict[str, Any]:
    problems = {problem.id: problem for problem in judged(session, session.parts.selfplay)}
    tests = {name: tests_hash(problem) for name, problem in problems.items()}
    trees: dict[tuple[int, int], StoredTree] = {}
    for number, row in enumerate(session.run.read("trees.jsonl"), 1):
        stored = read_tree(row, f"trees.jsonl, record {number}")
        trees[stored.provenance.iteration, stored.tree.number] = stored
    stale = [stored for stored in trees.values() if stored.tree.tests != tests.get(stored.tree.problem.id)]
    tried = list(relabel(stale, problems, session.judging.judge))
    whole = [(old, new) for old, new in zip(stale, tried, strict=True) if not new.tree.infra_errors]
    unchecked = sum(stored.tree.infra_errors for stored in tried)
    if left := len(tried) - len(whole):
        print(
            f"{stage.name}: {left} trees keep their labels, {unchecked} of their programs could not be checked; "
            "the next round tries again",
            flush=True,
        )
    after, differ = [new for _, new in whole], [changed(*pair) for pair in whole]
    stage.append("trees.jsonl", after)
    changes, counted = zip(after, differ, strict=True), rollouts_counted(session)
    told = [of_tree(new.tree, new.provenance.iteration, counted) for new, count in changes if count]
    stage.append(LEDGER, [tally for tally in told if tally.samples])
    return {
        "trees": len(trees),
        "relabelled": len(after),
        "left": left,
        "verdicts_changed": sum(differ),
        "process_records": stage.append("process.jsonl", [record for stored in after for record in stored.records()]),
        "executions": sum(stored.tree.tests_run for stored in tried),
        "infra_errors": unchecked,
    }


if __name__ == "__main__":
    from train.command import stage_command

    stage_command(run, "relabel", __doc__)
