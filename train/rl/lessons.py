"""From groups of paths to examples, with probabilities under the policy as it is and under the reference."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array

from o1coder_jax.advantages import divergence, mismatch, truncated_importance
from o1coder_jax.errors import UserError
from o1coder_jax.losses import token_scores
from o1coder_jax.mesh import host_copy, row_shards, shard_rows
from o1coder_jax.transformer import Transformer
from train.data import ALL, Example, HostBatch, example, first_fit, laid_batch, padded_batch, round_up
from train.rl.config import RLConfig
from train.rl.rounds import Path

LENGTH_BUCKET = 32
PACKED_BUCKET = 64  # of rows that examples share, where more width leaves few places empty
Scores = Callable[[Sequence[Example]], list[np.ndarray]]
"""A number for every token of each example."""


@dataclass(frozen=True)
class Scorers:
    """log p of every token under the policy as it is now, and under the reference; None: that is the policy itself."""

    policy: Scores
    reference: Scores | None


@dataclass(frozen=True)
class Lesson:
    """What a round teaches.

    Attributes:
      units: examples that stay together in a batch: single paths, or a chosen and a rejected one.
      figures: for the metrics.
    """

    units: list[list[Example]]
    figures: dict[str, float] = field(default_factory=dict)


def spread(path: Path, of_steps: Sequence[float]) -> np.ndarray:
    """A number for each step as one for each of its tokens."""
    return np.repeat(np.array(of_steps, np.float32), path.lengths)


def path_example(path: Path, advantages: Sequence[float], config: RLConfig) -> Example:
    """A path with each step's advantage on its tokens.

    With `sequence` the tokens of a path weigh 1 together, so that the batch's mean is one over paths.
    """
    count = len(path.tokens)
    if path.sampled is not None:
        known = {"old": path.sampled}
    else:  # of a tree's path the sum is known, which says nothing of a single token
        known = {"shared": [path.log_probability / count] * count} if path.nodes else {}
    out = example(path.prompt, path.tokens, advantage=spread(path, advantages), **known)
    if config.loss.length == "sequence":
        out["weight"] = out["weight"] / np.float32(count)
    return out


def with_probabilities(examples: Sequence[Example], scorers: Scorers) -> tuple[list[Example], dict[str, float]]:
    """Adds `now` and `reference`, log-probabilities before this round's updates.

    Returns:
      The examples, and how far the policy is from the reference (if that is another one) and from the sampler (where
      its probabilities are known) on the tokens that are learned from. Of a tree's paths the sums alone are known:
      `mismatch_path` is the mean of a path's |log pi_trainer - log pi_sampler| over its number of tokens.
    """
    now = scorers.policy(examples)
    reference = scorers.reference(examples) if scorers.reference else now
    scored = [one | {"now": n, "reference": r} for one, n, r in zip(examples, now, reference, strict=True)]

    def of(chosen: Sequence[Example], *names: str) -> list[np.ndarray]:
        return [np.concatenate([one[name][one["weight"] > 0] for one in chosen]) for name in names]

    measured = divergence(*of(scored, "now", "reference")) if scorers.reference else {}
    known = [one for one in scored if "old" in one]
    measured |= mismatch(*of(known, "now", "old")) if known else {}
    if summed := [one for one in scored if "shared" in one]:
        differences = [(one["now"] - one["shared"])[one["weight"] > 0].mean(dtype=np.float64) for one in summed]
        measured["mismatch_path"] = float(np.mean(np.abs(differences)))
    return scored, measured


def corrected(one: Example, config: RLConfig) -> Example:
    """An example of `with_probabilities` as the policy gradient takes it: `old` is whose policy `rl.mismatch` says."""
    out = dict(one)
    now, _ = out.pop("now"), out.pop("shared", None)
    if "old" not in out or config.mismatch == "truncated":
        if "old" in out:
            out["advantage"] = out["advantage"] * truncated_importance(now, out["old"], config.mismatch_cap)
        out["old"] = now
    return out


def advantage_figures(examples: Sequence[Example]) -> dict[str, float]:
    """Over the tokens that are learned from."""
    if not examples:
        return {"advantage_mean": 0.0, "advantage_deviation": 0.0, "advantage_largest": 0.0}
    values = np.concatenate([one["advantage"][one["weight"] > 0] for one in examples])
    return {
        "advantage_mean": float(values.mean()),
        "advantage_deviation": float(values.std()),
        "advantage_largest": float(abs(values).max()),
    }


@functools.partial(jax.jit, static_argnames=("graph", "score"))
def _computed(
    graph: nnx.GraphDef[Transformer], weights: Any, batch: dict[str, Array], *, score: Callable[..., Array]
) -> Array:
    return score(nnx.merge(graph, weights), batch)


def probabilities(model: Transformer, batch: dict[str, Array]) -> Array:
    """log p of every token."""
    return token_scores(model, batch)[0]


def per_token(
    score: Callable[..., Array],
    graph: nnx.GraphDef[Transformer],
    weights: Any,
    examples: Sequence[Example],
    mesh: Mesh,
    *,
    rows: int,
) -> list[np.ndarray]:
    """What a function of a model and a batch gives for each token of each example, in every process."""
    rows = round_up(rows, row_shards(mesh))
    order = sorted(range(len(examples)), key=lambda i: len(examples[i]["tokens"]))
    out: list[np.ndarray] = [np.zeros(0, np.float32)] * len(examples)
    for start in range(0, len(order), rows):
        chosen = order[start : start + rows]
        length = round_up(max(len(examples[i]["tokens"]) for i in chosen), LENGTH_BUCKET)
        batch = padded_batch([{"tokens": examples[i]["tokens"]} for i in chosen], rows, length)
        with jax.set_mesh(mesh):
            found = host_copy(_computed(graph, weights, shard_rows(mesh, batch), score=score))
        for row, index in enumerate(chosen):
            out[index] = found[row, : len(examples[index]["tokens"])]
    return out


@dataclass
class Shape:
    """Of the packed minibatches of a stage. The length only grows, and so do the rows of one length: a step is compiled
    for few shapes.

    Attributes:
      most: examples in a batch.
      parts: of equally many rows, each with about as many tokens as the others; `UserError` if it does not divide
        `most`.
      rows, length: places of a batch. Rows come in eighths of `most`, or as many at a time as there are parts.
    """

    most: int
    parts: int = 1
    rows: int = 0
    length: int = 0

    def __post_init__(self) -> None:
        if self.most % self.parts:
            raise UserError(
                f"rl.minibatch is {self.most}, which cannot be split into {self.parts} parts (over the devices, and "
                f"into microbatches); make it a multiple of {self.parts}"
            )

    def hold(self, examples: Sequence[Example], count: int) -> None:
        """Makes room for any `count` that are like these."""
        longest = round_up(max(len(one["tokens"]) for one in examples), PACKED_BUCKET)
        if longest > self.length:
            self.rows, self.length = 0, longest
        each = len(first_fit(examples, self.length)) / len(examples)
        self._hold_rows(min(math.ceil(1.04 * each * count), count))

    def packed(self, examples: Sequence[Example]) -> HostBatch:
        """A batch of these."""
        found = first_fit(examples, self.length)
        self._hold_rows(len(found))
        rows: list[list[Example]] = [[] for _ in range(self.rows)]
        for number, row in enumerate(found):  # the fullest first: dealt out, or the last parts would hold the padding
            rows[number % self.parts * (self.rows // self.parts) + number // self.parts] = row
        return laid_batch(rows, self.rows, self.length)

    def _hold_rows(self, count: int) -> None:
        step = round_up(-(-self.most // 8), self.parts)
        self.rows = max(self.rows, min(round_up(count, step), self.most))


def minibatches(
    units: Sequence[list[Example]],
    shape: Shape,
    rng: random.Random,
    *,
    epochs: int = 1,
    least: int = 1,
    own: Callable[[int], slice] = lambda rows: ALL,
) -> Iterator[HostBatch]:
    """Shuffled batches of at most `shape.most` examples; each unit is in one batch of each epoch.

    Batches are as few as hold all units, but `least` or more while there is a unit for each; and as full as each other:
    a step on the few examples that would be left moves the weights as far as any other, and knows less.

    Single examples are packed into rows. Pairs have two rows each, with the reference's log-probability of each whole
    row, and say which rows are no padding.

    Args:
      shape: of packed batches; grows if it has to.
      own: given a batch's number of rows, those of this process, which alone are handed on.
    """
    order, width = list(units), len(units[0])
    count = max(-(-len(order) // (shape.most // width)), min(least, len(order)))
    every = [one for unit in units for one in unit]
    if width == 1:
        shape.hold(every, -(-len(order) // count))
    longest = round_up(max(len(one["tokens"]) for one in every), LENGTH_BUCKET)
    for _ in range(epochs):
        rng.shuffle(order)
        for number in range(count):
            part = order[number * len(order) // count : (number + 1) * len(order) // count]
            examples = [one for unit in part for one in unit]
            batch = _pairs(examples, shape.most, longest) if width == 2 else shape.packed(examples)
            mine = own(len(batch["tokens"]))
            yield {name: values[mine] for name, values in batch.items()}


def _pairs(examples: Sequence[Example], rows: int, length: int) -> HostBatch:
    batch = padded_batch(examples, rows, length)
    batch["reference"] = np.where(batch["weight"] > 0, batch["reference"], 0.0).sum(axis=1)
    batch["valid"] = (np.arange(rows) < len(examples)).astype(np.float32)
    return batch
