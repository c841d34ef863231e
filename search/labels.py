"""New verdicts for stored trees, and the values that follow from them; nothing is generated.

Every program that was judged is judged again, and every N and Q / N is computed anew from the rollouts, which end where
they ended: the same verdicts give the same values to the bit. The provenance of the trees and records names the
tests that the earlier values came from.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from o1coder_jax.errors import UserError
from o1coder_jax.records import Problem
from search.growing import Judge
from search.store import StoredTree
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
