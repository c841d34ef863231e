"""Finished trees to process records."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from o1coder_jax.records import ProcessRecord, StepRecord
from search.tree import Node, Tree

WELL_FORMED_LEAST = 0.5  # below this share of well-formed steps there is a warning


@dataclass(frozen=True)
class Provenance:
    """Where trees and records come from.

    Attributes:
      run, iteration: which run, and which round of search.
      policy, tokenizer, reward_model: hashes of weights and vocabulary; no reward model is an empty one.
      seed: of the run.
      search: the settings of the search, as they were resolved.
      relabelled_from: hash of the tests that gave the values before these did; empty if there were none.
    """

    run: str
    iteration: int
    policy: str
    tokenizer: str
    reward_model: str = ""
    seed: int = 0
    search: dict[str, Any] = field(default_factory=dict)
    relabelled_from: str = ""


def harvest(tree: Tree, provenance: Provenance) -> list[ProcessRecord]:
    """One record for each visited leaf of a tree: good and bad paths alike, each step with Q/N and N.

    A leaf is a terminal, or a node below which no rollout went (where the reward model alone valued it).
    """
    inner = {node.parent for node in tree.nodes if node.visits}
    records = []
    for index, leaf in enumerate(tree.nodes):
        if not leaf.visits or index in inner or index == 0:
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
                tests=tree.tests,
                relabelled_from=provenance.relabelled_from,
            )
        )
    return records


def _step(node: Node, index: int) -> StepRecord:
    return StepRecord(
        text=node.text,
        tokens=node.tokens[node.given :],
        action=int(node.action),
        value=node.value,
        visits=node.visits,
        log_probability=node.log_probability,
        node=index,
        parent=node.parent,
        truncated=node.ended == "truncated",
    )


def step_counts(trees: Iterable[Tree]) -> dict[str, Any]:
    """How the steps of trees are formed.

    Returns:
      `steps`: in all; `well_formed`: the share of those that are a known action, closed by its marker (or a program
      closed by the end of the text), null without steps; `steps_malformed` and `steps_truncated`: the others.
    """
    ended = [node.ended for tree in trees for node in tree.nodes[1:]]
    malformed, truncated = ended.count("malformed"), ended.count("truncated")
    share = 1 - (malformed + truncated) / len(ended) if ended else None
    return {"steps": len(ended), "well_formed": share, "steps_malformed": malformed, "steps_truncated": truncated}


def formed_badly(counts: dict[str, Any]) -> str:
    """A warning when fewer than half of the steps are well-formed; empty otherwise."""
    share = counts["well_formed"]
    if share is None or share >= WELL_FORMED_LEAST:
        return ""
    return (
        f"warning: {share:.0%} of {counts['steps']} steps are well-formed ({counts['steps_malformed']} malformed, "
        f"{counts['steps_truncated']} truncated): give better examples (policy.prompt), or higher caps "
        "(search.step_tokens, search.code_tokens)"
    )
