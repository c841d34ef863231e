"""Finished trees to process records."""

from __future__ import annotations

from dataclasses import dataclass

from o1coder_jax.records import ProcessRecord, StepRecord, content_hash
from search.tree import Node, Tree


@dataclass(frozen=True)
class Provenance:
    """Where records come from: the run, the round of search, and hashes of weights and tokenizer."""

    run: str
    iteration: int
    policy: str
    tokenizer: str


def harvest(tree: Tree, provenance: Provenance) -> list[ProcessRecord]:
    """One record for each visited leaf of a tree: good and bad paths alike, each step with Q/N and N."""
    tests = content_hash([test.to_json() for test in tree.problem.tests])
    records = []
    for index, leaf in enumerate(tree.nodes):
        if not leaf.terminal or not leaf.visits:
            continue
        records.append(
            ProcessRecord(
                problem_id=tree.problem.id,
                prompt_tokens=tree.prompt,
                steps=tuple(_step(tree.nodes[i], i) for i in tree.path(index)),
                code=leaf.code,
                verdict=leaf.judgement.verdict if leaf.judgement is not None else None,
                reward=leaf.reward,
                ended=leaf.ended,
                run=provenance.run,
                iteration=provenance.iteration,
                tree=tree.number,
                policy=provenance.policy,
                tokenizer=provenance.tokenizer,
                tests=tests,
            )
        )
    return records


def _step(node: Node, index: int) -> StepRecord:
    return StepRecord(
        text=node.text,
        tokens=node.tokens,
        action=int(node.action),
        value=node.value,
        visits=node.visits,
        log_probability=node.log_probability,
        node=index,
        parent=node.parent,
    )
