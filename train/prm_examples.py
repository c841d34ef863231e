"""What a reward model is taught: D_process as examples, with the labels of the trees or of fresh continuations."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from o1coder_jax.errors import UserError
from o1coder_jax.estimates import expected
from o1coder_jax.records import ProcessRecord, StepRecord, Verdict, content_hash, sibling_pairs
from train.continuations import Continued, Place
from train.data import ALL, BatchConfig, Batches, Example, HostBatch, chosen_batches, padded_batch

HELD_OUT_ONE_IN = 10


def held_out(record: ProcessRecord) -> bool:
    """Whether a record's problem is kept from training, by the problem's id alone."""
    return is_held_out(record.problem_id)


def is_held_out(problem_id: str) -> bool:
    return int(content_hash(problem_id), 16) % HELD_OUT_ONE_IN == 0


def path_tokens(record: ProcessRecord) -> int:
    """Length of a path with its prompt, in tokens."""
    return len(record.prompt_tokens) + sum(len(step.tokens) for step in record.steps)


def relabelled(records: Iterable[ProcessRecord], continued: Mapping[Place, Continued]) -> list[ProcessRecord]:
    """Records whose steps have the success of their continuations as values, and the number of these as visits.

    The value of a terminal is that of its program: 1 if it passed, else 0; that is certain, and counts as much as the
    most that was drawn for a step. What could not be checked, or was not continued, has no value.
    """
    most = max((len(one.checked) for one in continued.values()), default=1)

    def label(record: ProcessRecord, step: StepRecord, last: bool) -> StepRecord:
        if last and record.ended:
            unknown = record.verdict is Verdict.INFRA_ERROR
            return dataclasses.replace(step, value=None if unknown else float(record.correct), visits=most)
        found = continued.get((record.iteration, record.tree, step.node))
        if found is None:
            return dataclasses.replace(step, value=None, visits=0)
        return dataclasses.replace(step, value=found.rate, visits=len(found.checked))

    return [
        dataclasses.replace(record, steps=tuple(label(record, step, step is record.steps[-1]) for step in record.steps))
        for record in records
    ]


def by_passes(records: Sequence[ProcessRecord]) -> list[ProcessRecord]:
    """Records whose steps have as values the share of their rollouts that came to a program which passed.

    Unlike Q/N it has no part for what compiled or passed some tests. A rollout counts at every step of its path.
    """
    passed: dict[Place, int] = {}
    ended: dict[Place, int] = {}
    for record in records:
        if not record.ended:  # a leaf that the reward model rated in place of a rollout
            continue
        visits = record.steps[-1].visits
        for step in record.steps:
            place = (record.iteration, record.tree, step.node)
            passed[place] = passed.get(place, 0) + visits * record.correct
            ended[place] = ended.get(place, 0) + visits

    def label(record: ProcessRecord, step: StepRecord) -> StepRecord:
        place = (record.iteration, record.tree, step.node)
        if step.value is None or not ended.get(place):
            return dataclasses.replace(step, value=None, visits=0)
        return dataclasses.replace(step, value=passed[place] / ended[place], visits=ended[place])

    return [dataclasses.replace(one, steps=tuple(label(one, step) for step in one.steps)) for one in records]


def by_chances(records: Sequence[ProcessRecord]) -> list[ProcessRecord]:
    """Records whose steps have as values the chance that the policy which drew them comes to a program that passes.

    Of the paths that the tree knows, each weighs its probability from the step on, exp of the sum of its steps'
    log-probabilities; so the value does not depend on how often, and in which order, a search went where. What could
    not be checked is not known.
    """
    ends: dict[Place, list[tuple[float, bool]]] = {}
    for record in records:
        if record.verdict is Verdict.INFRA_ERROR or not record.ended:
            continue
        score = 0.0
        for step in reversed(record.steps):
            ends.setdefault((record.iteration, record.tree, step.node), []).append((score, record.correct))
            score += step.log_probability

    def label(record: ProcessRecord, step: StepRecord) -> StepRecord:
        found = ends.get((record.iteration, record.tree, step.node))
        if found is None:
            return dataclasses.replace(step, value=None, visits=0)
        value = expected([float(correct) for _, correct in found], [score for score, _ in found])
        return dataclasses.replace(step, value=value, visits=len(found))

    return [dataclasses.replace(one, steps=tuple(label(one, step) for step in one.steps)) for one in records]


def pointwise_examples(
    records: Iterable[ProcessRecord],
    longest: int | None = None,
    *,
    threshold: float | None = None,
    by_visits: bool = False,
) -> list[Example]:
    """Paths with the value of each visited step at its last token. A node that many paths share is labelled once.

    Args:
      longest: paths of more tokens are left out; what they share with others is labelled in those.
      threshold: for hard labels: 1 where the value is at least this, else 0.
      by_visits: a label weighs as much as it has visits, not 1.
    """
    labelled: set[tuple[int, int, int]] = set()
    examples = []
    for record in records:
        if longest is not None and path_tokens(record) > longest:
            continue
        tokens, label, weight = list(record.prompt_tokens), [], []
        label += [0.0] * len(tokens)
        weight += [0.0] * len(tokens)
        for step in record.steps:
            node = (record.iteration, record.tree, step.node)
            fresh = step.value is not None and node not in labelled
            labelled.add(node)
            value = step.value or 0.0
            tokens += step.tokens
            label += [0.0] * (len(step.tokens) - 1) + [value if threshold is None else float(value >= threshold)]
            weight += [0.0] * (len(step.tokens) - 1) + [fresh * float(step.visits if by_visits else 1)]
        if any(weight):
            examples.append(
                {
                    "tokens": np.array(tokens, np.int32),
                    "label": np.array(label, np.float32),
                    "weight": np.array(weight, np.float32),
                }
            )
    return examples


def pair_examples(records: Iterable[ProcessRecord], margin: float) -> list[tuple[Example, Example]]:
    """Pairs (winner, loser) of siblings whose values differ by the margin at least, read at their last tokens."""
    return [
        (_last_token(prefix, pair.winner.tokens), _last_token(prefix, pair.loser.tokens))
        for pair in sibling_pairs(records, margin)
        for prefix in [pair.prompt_tokens + pair.path_tokens]
    ]


def _last_token(prefix: Sequence[int], step: Sequence[int]) -> Example:
    weight = np.zeros(len(prefix) + len(step), np.float32)
    weight[-1] = 1.0
    return {"tokens": np.array([*prefix, *step], np.int32), "weight": weight}


def pair_batches(pairs: Sequence[tuple[Example, Example]], batch: BatchConfig, seed: int, own: slice = ALL) -> Batches:
    """Endless shuffled batches of pairs, winner and loser in neighbouring rows; this process's rows of them."""
    usable = [pair for pair in pairs if max(len(one["tokens"]) for one in pair) <= batch.length]
    if not usable:
        raise UserError(f"none of {len(pairs)} sibling pairs fits into prm.batch.length {batch.length}")

    def make(numbers: Sequence[int]) -> HostBatch:
        rows = [one for number in numbers for one in usable[number]]
        return padded_batch(rows, batch.rows, batch.length) | {"valid": np.ones(batch.rows, np.float32)}

    return chosen_batches(len(usable), batch.rows // 2, make, seed=seed, own=own)
