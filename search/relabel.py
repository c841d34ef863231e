"""Judges the programs of stored trees once more, with the tests that their problems have now; nothing is generated.

    python -m search.relabel TREES.jsonl --problems PROBLEMS.jsonl -o OUT.jsonl [--records PROCESS.jsonl]

Every program that was judged is judged again, and every N and Q / N is computed anew from the rollouts, which end where
they ended: the same verdicts give the same values to the bit. The provenance of the trees and records names the
tests that the earlier values came from.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from o1coder_jax.errors import UserError, run_command
from o1coder_jax.records import Problem, read_problems, write_jsonl
from sandbox.pool import Pool, SandboxConfig, submission_for
from search.growing import Judge
from search.store import StoredTree, read_trees
from search.tree import tests_hash


def relabel(trees: Sequence[StoredTree], problems: Mapping[str, Problem], judge: Judge) -> Iterator[StoredTree]:
    """Yields the trees with the judge's verdicts in place of theirs; the trees that are given stay as they are."""
    for stored in trees:
        if stored.tree.problem.id not in problems:
            raise UserError(f"the tree of {stored.tree.problem.id} has no problem in the problem file; add it")
    futures = [
        {i: judge(problems[stored.tree.problem.id], node.code) for i, node in enumerate(stored.tree.nodes)
         if node.code is not None and node.judgement is not None}
        for stored in trees
    ]  # fmt: skip
    for stored, verdicts in zip(trees, futures, strict=True):
        tree = copy.deepcopy(stored.tree)
        tree.problem = problems[tree.problem.id]
        tree.tests, earlier = tests_hash(tree.problem), tree.tests
        judgements = {index: future.result() for index, future in verdicts.items()}
        ends = {rollout.end for rollout in tree.rollouts}
        for index, judgement in judgements.items():
            node = tree.nodes[index]
            node.judgement = judgement
            if index in ends:
                node.judge(judgement, tree.alpha)
        tree.tests_run = sum(len(judgement.tests) for judgement in judgements.values() if judgement.checked)
        tree.infra_errors = sum(not judgement.checked for judgement in judgements.values())
        tree.back_up()
        yield StoredTree(tree, dataclasses.replace(stored.provenance, relabelled_from=earlier))


def changed(before: StoredTree, after: StoredTree) -> int:
    """How many programs have another verdict."""
    verdicts = [
        [node.judgement.verdict for node in stored.tree.nodes if node.judgement is not None]
        for stored in (before, after)
    ]
    return sum(a is not b for a, b in zip(*verdicts, strict=True))


def main() -> None:
    default = SandboxConfig()
    parser = argparse.ArgumentParser(
        prog="python -m search.relabel", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trees", type=Path, help="a trees.jsonl")
    parser.add_argument("--problems", type=Path, required=True, help="problems.jsonl with the new tests")
    parser.add_argument("-o", "--output", type=Path, required=True, help="where the trees go")
    parser.add_argument("--records", type=Path, help="where their process records go; none are written without it")
    parser.add_argument("--workers", type=int, default=default.workers)
    parser.add_argument("--isolation", default=default.isolation, choices=("auto", "full", "reduced", "trusted"))
    arguments = parser.parse_args()
    problems = {problem.id: problem for problem in read_problems(arguments.problems)}
    trees = list(read_trees(arguments.trees))
    for path in filter(None, (arguments.output, arguments.records)):
        path.parent.mkdir(parents=True, exist_ok=True)
    with Pool(SandboxConfig(workers=arguments.workers, isolation=arguments.isolation)) as pool:
        print(f"sandbox: {pool.isolation}", flush=True)
        after = list(relabel(trees, problems, lambda problem, code: pool.submit(submission_for(problem, code))))
    write_jsonl(arguments.output, after)
    differ = sum(map(changed, trees, after))
    unchecked = sum(stored.tree.infra_errors for stored in after)
    judged = sum(node.judgement is not None for stored in after for node in stored.tree.nodes)
    solved = [sum(stored.tree.solved for stored in part) for part in (trees, after)]
    print(f"{arguments.output}: {len(after)} trees, {judged} programs, {differ} verdicts changed")
    print(f"solved: {solved[0]} before, {solved[1]} now" + (f"; {unchecked} could not be checked" * bool(unchecked)))
    if arguments.records:
        count = write_jsonl(arguments.records, (record for stored in after for record in stored.records()))
        print(f"{arguments.records}: {count} records")


if __name__ == "__main__":
    run_command(main)
