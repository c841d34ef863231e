"""The reward model's beginning, and the figures that judge it."""

from __future__ import annotations

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from o1coder_jax.prm import auc, label_metrics, score_tokens, with_value_head
from tests.tiny import SHAPE, VOCAB, decoder

TOKENS = np.array([[3, 1, 4, 1, 5]], np.int32)
SEGMENTS = np.ones_like(TOKENS)


@pytest.fixture(scope="module")
def policy():
    return nnx.split(decoder())


@pytest.fixture(scope="module")
def started(policy):
    return with_value_head(*policy, SHAPE, VOCAB)


def test_every_score_starts_at_one_half(started):
    assert score_tokens(*started, TOKENS, SEGMENTS).tolist() == [[0.5] * 5]


def test_weights_are_the_policys(policy, started):
    own, copied = (nnx.to_pure_dict(weights) for weights in (policy[1], started[1]))
    assert set(copied) - set(own) == {"value", "value_bias"}
    jax.tree.map(np.testing.assert_array_equal, {name: copied[name] for name in own}, own)


def test_weights_are_copies(policy, started):
    """Training donates buffers: the policy's must survive."""
    own, copied = (nnx.to_pure_dict(weights)["embedding"] for weights in (policy[1], started[1]))
    assert own.unsafe_buffer_pointer() != copied.unsafe_buffer_pointer()


def test_score_is_the_sigmoid_of_the_head(started):
    graph, weights = started
    model = nnx.merge(graph, jax.tree.map(jnp.copy, weights))
    model.value[...] = jnp.arange(SHAPE.width) / 10
    hidden = model.read(TOKENS, np.arange(5)[None], SEGMENTS)
    expected = 1 / (1 + np.exp(-np.asarray(hidden) @ (np.arange(SHAPE.width) / 10)))
    np.testing.assert_allclose(score_tokens(*nnx.split(model), TOKENS, SEGMENTS), expected, atol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_score_of_two_answers_is_their_softmax(tied):
    model = decoder(dataclasses.replace(SHAPE, tied_embeddings=tied))
    model.answers = (7, 2)
    logits = np.asarray(model.logits(model.read(TOKENS, np.arange(5)[None], SEGMENTS)))[..., [7, 2]]
    both = np.exp(logits - logits.max(axis=-1, keepdims=True))
    expected = both[..., 0] / both.sum(axis=-1)
    np.testing.assert_allclose(score_tokens(*nnx.split(model), TOKENS, SEGMENTS), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("scores", "positive", "area"),
    [
        ([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1], 1.0),
        ([0.1, 0.2, 0.8, 0.9], [1, 1, 0, 0], 0.0),
        ([0.1, 0.4, 0.3, 0.9], [0, 0, 1, 1], 0.75),
        ([0.5, 0.5, 0.5, 0.5], [0, 1, 0, 1], 0.5),
        ([0.2, 0.5, 0.5, 0.9], [0, 0, 1, 1], 0.875),
    ],
)
def test_auc_by_hand(scores, positive, area):
    assert auc(np.array(scores), np.array(positive, bool)) == pytest.approx(area)


def test_auc_is_the_share_of_pairs_in_order():
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(0, 6, 40) / 5, rng.random(40) < 0.4
    pairs = itertools.product(scores[positive], scores[~positive])
    assert auc(scores, positive) == pytest.approx(np.mean([(a > b) + 0.5 * (a == b) for a, b in pairs]))


@pytest.mark.parametrize("positive", [[True, True], [False, False], []])
def test_auc_of_one_class_is_none(positive):
    assert auc(np.array([0.1, 0.9][: len(positive)]), np.array(positive, bool)) is None


def test_label_metrics_by_hand():
    metrics = label_metrics(np.array([0.9, 0.4, 0.6, 0.2]), np.array([1.0, 0.5, 0.25, 0.0]))
    loss = -(
        math.log(0.9)
        + 0.5 * math.log(0.4)
        + 0.5 * math.log(0.6)
        + 0.25 * math.log(0.6)
        + 0.75 * math.log(0.4)
        + math.log(0.8)
    )
    assert metrics["log_loss"] == pytest.approx(loss / 4)
    assert metrics["accuracy"] == 0.5
    assert metrics["auc"] == 0.75


def test_log_loss_of_a_certain_mistake_is_finite():
    assert label_metrics(np.array([0.0, 1.0]), np.array([1.0, 0.0]))["log_loss"] == pytest.approx(
        -math.log(1e-6), rel=0.01
    )
