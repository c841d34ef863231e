"""Minibatches: each path once an epoch, as full as each other, packed into few shapes."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from o1coder_jax.errors import UserError
from o1coder_jax.policy_losses import ClipConfig, policy_gradient, value_error
from tests.tiny import VOCAB, decoder
from tests.train.rl_world import SCORERS, groups_of
from train.data import Example, HostBatch, example, padded_batch
from train.rl import RLConfig
from train.rl.grpo import lesson
from train.rl.lessons import Shape, minibatches
from train.step import Objective

CONFIG = RLConfig()


def answers_in(batch: HostBatch) -> list[int]:
    """The first token behind the prompt of each path in a batch."""
    return batch["tokens"][(batch["positions"] == 2) & (batch["segments"] > 0)].tolist()


def test_each_path_is_used_once_per_epoch():
    units = lesson(groups_of([[1.0, 0.0, 0.0], [1.0, 0.0, 1.0]]), SCORERS, CONFIG).units
    batches = minibatches(units, Shape(4), random.Random(0), epochs=2)
    assert sorted(itertools.chain(*map(answers_in, batches))) == sorted([10, 11, 12, 13, 14, 15] * 2)


@pytest.mark.parametrize(("paths", "parts"), [(3, [3]), (8, [4, 4]), (9, [3, 3, 3]), (10, [3, 3, 4])])
def test_no_batch_holds_the_few_that_are_left(paths: int, parts: list[int]):
    rewards = [float(i % 2) for i in range(paths)]
    units = lesson(groups_of([rewards]), SCORERS, CONFIG).units
    assert [len(answers_in(batch)) for batch in minibatches(units, Shape(4), random.Random(0))] == parts


@pytest.mark.parametrize(
    ("paths", "parts"), [(2, [1, 1]), (3, [1, 1, 1]), (5, [1, 2, 2]), (8, [2, 3, 3]), (13, [3, 3, 3, 4])]
)
def test_as_many_minibatches_however_few_paths_are_left(paths: int, parts: list[int]):
    """Three, but for two paths, which cannot be three; and for 13, which three of four do not hold."""
    units = lesson(groups_of([[float(i % 2) for i in range(paths)]]), SCORERS, CONFIG).units
    batches = minibatches(units, Shape(4), random.Random(0), epochs=2, least=3)
    assert [len(answers_in(batch)) for batch in batches] == parts * 2


def uneven_units(count: int, seed: int = 0) -> list[list[Example]]:
    """Paths of 3 to 33 tokens, each a unit, as the policy gradient and the critic take them."""
    rng = np.random.default_rng(seed)

    def unit() -> list[Example]:
        size = int(rng.integers(1, 32))
        names = ("advantage", "old", "reference", "value", "returns")
        extra = {name: rng.normal(size=size) * 0.3 for name in names}
        return [example(rng.integers(1, VOCAB, 2).tolist(), rng.integers(1, VOCAB, size).tolist(), **extra)]

    return [unit() for _ in range(count)]


@pytest.mark.parametrize(
    "objective",
    [Objective.of(policy_gradient, clip=ClipConfig(kl=0.1)), Objective.of(value_error, clip=0.2)],
    ids=["policy", "critic"],
)
def test_packed_paths_teach_what_padded_ones_do(objective: Objective):
    units = uneven_units(24)
    [batch] = minibatches(units, Shape(len(units)), random.Random(0))
    padded = padded_batch([one for unit in units for one in unit], len(units), batch["tokens"].shape[1])
    assert batch["tokens"].size < 0.7 * padded["tokens"].size
    assert batch["weight"].sum() == padded["weight"].sum()
    graph, weights = nnx.split(decoder(value_head=True))

    def taught(rows: HostBatch) -> tuple[float, Any]:
        loss, gradient = jax.value_and_grad(lambda w: objective(nnx.merge(graph, w), rows)[0])(weights)
        return float(loss), nnx.to_pure_dict(gradient)

    (packed_loss, packed), (padded_loss, other) = taught(batch), taught(padded)
    assert packed_loss == pytest.approx(padded_loss, rel=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), packed, other)


@pytest.mark.parametrize("parts", [1, 16])
def test_packed_batches_of_a_stage_have_few_shapes_and_can_be_shared_out(parts: int):
    shape, seen, rng = Shape(64, parts), [], random.Random(0)
    for seed, count in enumerate((200, 130, 20, 256, 70)):
        units = uneven_units(count, seed)
        for batch in minibatches(units, shape, rng, epochs=2, own=lambda rows: slice(rows // 2)):
            assert shape.rows % parts == 0 and batch["tokens"].shape == (shape.rows // 2, 64)
            seen.append(shape.rows)
    assert seen == sorted(seen) and len(set(seen)) <= 2
    assert seen[-1] <= 32  # 64 examples of 18 tokens fill 18 rows


def test_parts_of_a_packed_batch_hold_about_as_many_tokens():
    [batch] = minibatches(uneven_units(64), Shape(64, 4), random.Random(0))
    tokens = (batch["segments"] > 0).reshape(4, -1).sum(axis=1)
    assert tokens.max() < 1.1 * tokens.mean()


@pytest.mark.parametrize(("most", "parts"), [(20, 1), (72, 2), (88, 4), (8, 8)])
def test_packed_batch_never_has_more_rows_than_examples(most: int, parts: int):
    shape = Shape(most, parts)
    units = [[example([1, 2], [3] * 31, advantage=[0.0] * 31)] for _ in range(2 * most)]
    assert {len(batch["tokens"]) for batch in minibatches(units, shape, random.Random(0))} == {most}


def test_minibatch_that_cannot_be_split_is_refused():
    with pytest.raises(UserError, match=r"rl\.minibatch is 8, which cannot be split into 16 parts.*a multiple of 16"):
        Shape(8, 16)


def test_shape_grows_where_more_is_needed_and_stays():
    shape = Shape(4)
    for longest, expected in ((10, (2, 64)), (60, (4, 64)), (10, (4, 64)), (65, (4, 128)), (200, (4, 256))):
        assert batch_of([longest] * 4, shape) == expected
    assert batch_of([300, 10, 10, 10], shape) == (3, 320)  # longer rows, and no more of them than they need
    assert batch_of([10] * 4, shape) == (3, 320)


def batch_of(lengths: Sequence[int], shape: Shape) -> tuple[int, ...]:
    units = [[example([1, 2], [3] * (size - 2), advantage=[0.0] * (size - 2))] for size in lengths]
    [batch] = minibatches(units, shape, random.Random(0))
    return batch["tokens"].shape
