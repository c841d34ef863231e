"""Finished trees on disk: one JSON line each, with everything that records, labels and pictures are made from.

    {"problem": {"id", "statement", ...}, "number", "prompt", "provenance", "tests", "rollouts": [[end, leaf, again]],
     "nodes": [{"parent", "tokens", "text", "action", "value", "visits", "judgement", ...}], ...}

The problem's tests and solutions are left out: their hash says which they were.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from o1coder_jax.errors import UserError
from o1coder_jax.records import Judgement, PairRecord, Problem, ProcessRecord, Verdict, read_jsonl, sibling_pairs
from o1coder_jax.steps import Action
from search.harvest import Provenance, harvest
from search.tree import Node, Rollout, Tree

_COUNTS = ("number", "alpha", "value_weight", "tests", "tokens", "executions", "tests_run", "infra_errors")
_PLAIN = (
    "parent",
    "depth",
    "text",
    "log_probability",
    "ended",
    "code",
    "reward",
    "visits",
    "value",
    "prior",
    "opinion",
)


@dataclass(frozen=True)
class StoredTree:
    """A finished tree and where it comes from; the problem of one that was read back has no tests and no solutions."""

    tree: Tree
    provenance: Provenance

    def to_json(self) -> dict[str, Any]:
        tree = self.tree
        problem = dataclasses.replace(tree.problem, tests=(), hidden=(), solutions=())
        return {
            "problem": problem.to_json(),
            "provenance": dataclasses.asdict(self.provenance),
            **{name: getattr(tree, name) for name in _COUNTS},
            "prompt": list(tree.prompt),
            "rollouts": [[rollout.end, rollout.leaf, rollout.again] for rollout in tree.rollouts],
            "nodes": [_node_row(node) for node in tree.nodes],
        }

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> StoredTree:
        tree = Tree(
            problem=Problem.from_json(row["problem"]),
            prompt=tuple(row["prompt"]),
            nodes=[_node(one) for one in row["nodes"]],
            rollouts=[Rollout(*one) for one in row["rollouts"]],
            **{name: row[name] for name in _COUNTS},
        )
        _check(tree)
        return cls(tree, Provenance(**row["provenance"]))

    def records(self) -> list[ProcessRecord]:
        """Its visited paths."""
        return harvest(self.tree, self.provenance)

    def pairs(self, margin: float) -> list[PairRecord]:
        """Its visited siblings whose values differ by the margin at least."""
        return sibling_pairs(self.records(), margin)


def read_trees(path: str | os.PathLike[str]) -> Iterator[StoredTree]:
    """Yields the trees of a file; a line that holds none is a `UserError` that gives its number."""
    for number, row in enumerate(read_jsonl(path), 1):
        yield read_tree(row, f"{path}, record {number}")


def read_tree(row: Any, where: str) -> StoredTree:
    """The tree of a JSON value; `UserError` if it is none, `where` naming the place."""
    try:
        return StoredTree.from_json(row)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(f"{where}: not a tree ({error!r}); mend or remove it") from error


def records_and_pairs(trees: Iterable[StoredTree], margin: float) -> tuple[list[ProcessRecord], list[PairRecord]]:
    """What reward models are trained on: all paths, and all pairs of siblings."""
    records, pairs = [], []
    for stored in trees:
        records += stored.records()
        pairs += stored.pairs(margin)
    return records, pairs


def _check(tree: Tree) -> None:
    """Raises `ValueError` if a number points nowhere."""
    if not tree.nodes or tree.nodes[0].parent != -1:
        raise ValueError("node 0 is not the root")
    if any(not 0 <= node.parent < index for index, node in enumerate(tree.nodes[1:], 1)):
        raise ValueError("a node's parent does not come before it")
    if any(not 0 <= node.given <= len(node.tokens) for node in tree.nodes):
        raise ValueError("a node was given more tokens than it has")
    if any(not (0 <= r.end < len(tree.nodes) and -1 <= r.leaf < len(tree.nodes)) for r in tree.rollouts):
        raise ValueError("a rollout ends at no node")


def _node_row(node: Node) -> dict[str, Any]:
    judgement = node.judgement
    verdict = judgement and {
        "verdict": judgement.verdict,
        "compiled": judgement.compiled,
        "passed": judgement.passed,
        "total": judgement.total,
    }
    plain = {name: getattr(node, name) for name in _PLAIN} | ({"given": node.given} if node.given else {})
    return {**plain, "tokens": list(node.tokens), "action": int(node.action), "judgement": verdict}


def _node(row: dict[str, Any]) -> Node:
    verdict = row["judgement"]
    return Node(
        **{name: row[name] for name in _PLAIN},
        tokens=tuple(row["tokens"]),
        given=row.get("given", 0),
        action=Action(row["action"]),
        judgement=None if verdict is None else Judgement(**{**verdict, "verdict": Verdict(verdict["verdict"])}),
    )
