"""Iterative DPO: pairs from sampled groups, or from the trees of this iteration's search (arXiv 2305.18290)."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

from o1coder_jax.records import ProcessRecord, Verdict, sibling_pairs
from train.data import Example, example
from train.rl.config import DPOConfig
from train.rl.lessons import Lesson, Scorers, with_probabilities
from train.rl.rounds import Group

Pair = list[Example]
"""Chosen and rejected."""


def sampled_pairs(groups: Sequence[Group], margin: float) -> list[Pair]:
    """The best against the worst path of each group; ties, and paths that could not be checked, are left out."""
    pairs = []
    for group in groups:
        usable = [path for path in group if path.usable]
        if not usable:
            continue
        best, worst = (choose(usable, key=lambda path: path.reward) for choose in (max, min))
        if best.reward - worst.reward >= margin:
            pairs.append([example(path.prompt, path.tokens, old=path.sampled) for path in (best, worst)])
    return pairs


def path_pairs(records: Iterable[ProcessRecord], rng: random.Random) -> list[Pair]:
    """One correct path against one wrong one of each tree that has both; which ones is drawn.

    A path without a program is wrong; one whose program could not be checked, or that has not ended, is neither.
    """
    trees: dict[tuple[int, int], tuple[list[ProcessRecord], list[ProcessRecord]]] = {}
    for record in records:
        if record.verdict is not Verdict.INFRA_ERROR and record.ended:
            right, wrong = trees.setdefault((record.iteration, record.tree), ([], []))
            (right if record.correct else wrong).append(record)
    return [
        [_whole(rng.choice(right)), _whole(rng.choice(wrong))] for right, wrong in trees.values() if right and wrong
    ]


def _whole(record: ProcessRecord) -> Example:
    return example(record.prompt_tokens, [token for step in record.steps for token in step.tokens])


def step_pairs(records: Iterable[ProcessRecord], margin: float) -> list[Pair]:
    """Siblings whose values differ: the loss is on the two steps alone."""
    return [
        [example(pair.prompt_tokens + pair.path_tokens, step.tokens) for step in (pair.winner, pair.loser)]
        for pair in sibling_pairs(records, margin)
    ]


class StoredPairs:
    """Draws pairs from the trees of a round of search."""

    def __init__(self, records: Sequence[ProcessRecord], config: DPOConfig):
        self._records, self._config = records, config
        self._steps = step_pairs(records, config.margin) if config.pairs == "steps" else []

    def draw(self, count: int, rng: random.Random) -> list[Pair]:
        """At most so many."""
        pairs = self._steps if self._config.pairs == "steps" else path_pairs(self._records, rng)
        return rng.sample(pairs, min(count, len(pairs)))


def lesson(pairs: Sequence[Pair], scorers: Scorers) -> Lesson:
    """What DPO learns from pairs.

    Args:
      scorers: the reference is that of this round.
    """
    scored, measured = with_probabilities([one for pair in pairs for one in pair], scorers) if pairs else ([], {})
    flat = [{name: one[name] for name in ("tokens", "weight", "reference")} for one in scored]
    return Lesson([flat[i : i + 2] for i in range(0, len(flat), 2)], {"pairs": float(len(pairs))} | measured)
