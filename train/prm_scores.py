"""Scores of a reward model at the steps of records, and what they are worth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from o1coder_jax.mesh import host_copy, row_shards, shard_rows
from o1coder_jax.prm import score_tokens
from o1coder_jax.prm_metrics import ScoredSteps, judged, split_halves
from o1coder_jax.records import ProcessRecord
from o1coder_jax.transformer import Transformer
from train.continuations import Continued, Place
from train.data import padded_batch, round_up
from train.prm_examples import relabelled

LENGTH_BUCKET = 64
Graph = nnx.GraphDef[Transformer]


def score_sequences(
    graph: Graph, weights: Any, sequences: Sequence[Sequence[int]], mesh: Mesh, *, rows: int = 64
) -> list[np.ndarray]:
    """r after every token of each sequence, in order."""
    rows = round_up(rows, row_shards(mesh))
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    out: list[np.ndarray] = [np.zeros(0)] * len(sequences)
    for start in range(0, len(order), rows):
        chosen = order[start : start + rows]
        length = round_up(max(len(sequences[i]) for i in chosen), LENGTH_BUCKET)
        batch = padded_batch([{"tokens": np.array(sequences[i], np.int32)} for i in chosen], rows, length)
        with jax.set_mesh(mesh):
            scores = host_copy(score_tokens(graph, weights, *shard_rows(mesh, (batch["tokens"], batch["segments"]))))
        for row, index in enumerate(chosen):
            out[index] = scores[row, : len(sequences[index])]
    return out


def step_scores(graph: Graph, weights: Any, records: Sequence[ProcessRecord], mesh: Mesh) -> dict[Place, float]:
    """r of every step of the records, at its last token."""
    paths = [[*record.prompt_tokens, *(t for step in record.steps for t in step.tokens)] for record in records]
    found: dict[Place, float] = {}
    for record, scores in zip(records, score_sequences(graph, weights, paths, mesh), strict=True):
        at = len(record.prompt_tokens)
        for step in record.steps:
            at += len(step.tokens)
            found[record.iteration, record.tree, step.node] = float(scores[at - 1])
    return found


def labelled_steps(records: Iterable[ProcessRecord], scores: Mapping[Place, float]) -> tuple[ScoredSteps, list[Place]]:
    """The steps of records that have a value, each node once, with their scores; and their places."""
    rows: dict[Place, tuple[float, ...]] = {}
    problems: dict[str, int] = {}
    parents: dict[Place, int] = {}
    for record in records:
        problem = problems.setdefault(record.problem_id, len(problems))
        for depth, step in enumerate(record.steps, 1):
            place = (record.iteration, record.tree, step.node)
            if step.value is None or place in rows:
                continue
            parent = parents.setdefault((record.iteration, record.tree, step.parent), len(parents))
            terminal = bool(record.ended) and depth == len(record.steps)
            rows[place] = (scores[place], step.value, problem, parent, depth, step.action, terminal)
    columns = np.array(list(rows.values()), float).reshape(-1, 7).T
    kinds = (float, float, int, int, int, int, bool)
    return ScoredSteps(*(column.astype(kind) for column, kind in zip(columns, kinds, strict=True))), list(rows)


def figures_of(
    graph: Graph,
    weights: Any,
    mesh: Mesh,
    records: Sequence[ProcessRecord],
    continued: Mapping[Place, Continued],
    threshold: float,
) -> dict[str, Any]:
    """How a model scores the steps of records.

    Returns:
      `auc`, `log_loss` and `accuracy` over all steps by the trees' values; `by_tree`, all figures by them; and where
      steps were continued `by_continuations`, by their success, with `halves`: how far these labels agree with
      themselves.
    """
    scores = step_scores(graph, weights, records, mesh)
    by_tree = judged(labelled_steps(records, scores)[0], threshold)
    found: dict[str, Any] = {name: by_tree["pooled"].get(name) for name in ("auc", "log_loss", "accuracy")}
    found["by_tree"] = by_tree
    problems = {one.problem_id for one in continued.values()}
    fresh = [record for record in relabelled(records, continued) if record.problem_id in problems]
    if fresh:
        steps, places = labelled_steps(fresh, scores)
        halved = {place for place, one in continued.items() if len(one.checked) > 1}
        at = np.array([place in halved for place in places])
        outcomes = [continued[place].checked for place, chosen in zip(places, at, strict=True) if chosen]
        halves = split_halves(outcomes, steps.problem[at], steps.parent[at], threshold)
        found["by_continuations"] = judged(steps, threshold) | {"halves": halves}
    return found
