"""Each objective against a plain numpy computation; masks; the direction of gradients."""

from __future__ import annotations

import dataclasses
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from o1coder_jax import fused_scores, losses
from o1coder_jax.losses import weighted_mean
from o1coder_jax.transformer import Transformer
from tests.models.objectives import (
    B,
    S,
    change_by_descent,
    close,
    compute,
    make_batch,
    make_model,
    make_plain,
    masked_mean,
    sigmoid,
    with_rows,
)
from tests.tiny import SHAPE, decoder


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def batch():
    return make_batch()


@pytest.fixture(scope="module")
def plain(model, batch):
    return make_plain(model, batch)


def test_log_probability_is_the_plain_one(model, batch, plain):
    picked, entropy = compute(losses.token_scores, model, batch)
    inside = batch["segments"] > 0
    np.testing.assert_allclose(picked[inside], plain["picked"][inside], atol=1e-5)
    np.testing.assert_allclose(entropy[inside], plain["entropy"][inside], atol=1e-5)


def whole_logits(model, batch):
    """A loss of both outcomes from all logits at once."""
    scores = jax.nn.log_softmax(model.logits(losses.states(model, batch))[:, :-1])
    picked = jnp.take_along_axis(scores, batch["tokens"][:, 1:, None], axis=-1)[..., 0]
    entropy = -jnp.sum(jnp.exp(scores) * scores, axis=-1)
    return jnp.sum((0.3 * entropy - picked) * batch["weight"][:, 1:])


def in_parts(model, batch):
    picked, entropy = losses.token_scores(model, batch)
    return jnp.sum((0.3 * entropy - picked) * batch["weight"])


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("columns", [5, 13])
def test_vocabulary_in_parts_equals_the_whole(batch, monkeypatch, columns, tied):
    """Parts that do and do not divide the vocabulary of 13, forward and backward."""
    model = decoder(dataclasses.replace(SHAPE, tied_embeddings=tied))
    monkeypatch.setattr(fused_scores, "SCORES_BYTES", 0)
    monkeypatch.setattr(fused_scores, "LEAST_COLUMNS", columns)
    parts, whole = (
        nnx.jit(lambda m, f=function: nnx.value_and_grad(lambda m: f(m, batch))(m))(model)
        for function in (in_parts, whole_logits)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5), parts, whole)


@pytest.mark.parametrize("tied", [True, False])
def test_loss_takes_a_tenth_of_the_memory_of_whole_logits(tied):
    """Loss and gradients as they are compiled for 4,096 tokens and 150,000 words."""
    config = dataclasses.replace(SHAPE, width=256, tied_embeddings=tied, dtype="bfloat16")
    graph, weights = nnx.split(nnx.eval_shape(lambda: Transformer(config, 150_000, rngs=nnx.Rngs(0))))
    hidden = jax.ShapeDtypeStruct((1, 4096, 256), jnp.bfloat16)
    targets = jax.ShapeDtypeStruct((1, 4096), jnp.int32)

    def whole(model, hidden, targets):
        scores = jax.nn.log_softmax(model.logits(hidden))
        return jnp.take_along_axis(scores, targets[..., None], axis=-1)

    def in_parts(model, hidden, targets):
        return losses.log_probability(model, hidden, targets)[0]

    def temporary_bytes(function):
        def loss(weights, hidden, targets):
            return -jnp.sum(function(nnx.merge(graph, weights), hidden, targets))

        compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(weights, hidden, targets).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary_bytes(in_parts) <= 0.1 * temporary_bytes(whole)


def test_sft_is_the_mean_negative_log_probability(model, batch, plain):
    loss, metrics = compute(losses.sft, model, batch)
    close(loss, -masked_mean(plain["picked"], batch["weight"]))
    close(metrics["entropy"], masked_mean(plain["entropy"], batch["weight"]))


def test_sft_on_packed_rows_equals_separate_rows(model, batch):
    """Two sequences in one row, their prompts without weight, equal the same two in rows of their own."""

    def row(parts):
        fields = {name: np.zeros((1, 24), np.float32 if name == "weight" else np.int32) for name in batch}
        at = 0
        for number, (r, length) in enumerate(parts, 1):
            place = slice(at, at + length)
            fields["tokens"][0, place] = batch["tokens"][r, :length]
            fields["positions"][0, place] = np.arange(length)
            fields["segments"][0, place] = number
            fields["weight"][0, place] = batch["weight"][r, :length]
            at += length
        return fields

    separate = jax.tree.map(lambda *x: np.concatenate(x), row([(0, 12)]), row([(2, 9)]))
    packed = jax.tree.map(lambda *x: np.concatenate(x), row([(0, 12), (2, 9)]), row([]))
    close(compute(losses.sft, model, packed)[0], compute(losses.sft, model, separate)[0])


SCORES = np.array([-9.0, -11.0, -10.0, -9.5], np.float32)


@pytest.fixture(scope="module")
def pair_batch(batch):
    return with_rows(batch, reference=SCORES, valid=np.ones(B))


def test_dpo_by_hand(model, pair_batch, plain):
    beta, share = 0.3, 0.2
    score = (plain["picked"] * pair_batch["weight"]).sum(axis=1)
    gain = score - SCORES
    margin = beta * (gain[[0, 2]] - gain[[1, 3]])
    per_token = -score[[0, 2]] / pair_batch["weight"].sum(axis=1)[[0, 2]]
    loss, metrics = compute(losses.dpo, model, pair_batch, beta=beta, sft_weight=share)
    close(loss, (-np.log(sigmoid(margin)) + share * per_token).mean())
    close(metrics["margin"], margin.mean())
    close(metrics["accuracy"], (margin > 0).mean())
    close(metrics["kl"], -gain.sum() / pair_batch["weight"].sum())
    close(metrics["entropy"], masked_mean(plain["entropy"], pair_batch["weight"]))


def test_dpo_in_numbers(model, pair_batch, plain):
    """The chosen have gained 2 and the rejected lost 1: a margin of 0.5 * 3, and -log sigmoid(1.5) is 0.20141."""
    own = (plain["picked"] * pair_batch["weight"]).sum(axis=1)
    gained = with_rows(pair_batch, reference=own - [2.0, -1.0, 2.0, -1.0])
    loss, metrics = compute(losses.dpo, model, gained, beta=0.5, sft_weight=0.0)
    assert float(metrics["margin"]) == pytest.approx(1.5, abs=1e-4) and float(metrics["accuracy"]) == 1.0
    assert float(loss) == pytest.approx(0.201413, abs=2e-5)


def test_dpo_starts_at_log_two(model, pair_batch, plain):
    own = (plain["picked"] * pair_batch["weight"]).sum(axis=1)
    loss, _ = compute(losses.dpo, model, with_rows(pair_batch, reference=own), beta=0.3, sft_weight=0.0)
    assert float(loss) == pytest.approx(np.log(2), abs=1e-5)


def test_dpo_padding_pairs_have_no_influence(model, pair_batch):
    masked = with_rows(pair_batch, valid=[1, 1, 0, 0])
    changed = with_rows(masked, reference=[*SCORES[:2], 50.0, -50.0])
    first, second = (compute(losses.dpo, model, b, beta=0.3, sft_weight=0.2)[0] for b in (masked, changed))
    assert float(first) == float(second)


def test_dpo_parts_the_chosen_from_the_rejected(model, pair_batch):
    single = with_rows(pair_batch, valid=[1, 1, 0, 0])
    change = change_by_descent(losses.dpo, model, single, beta=0.3, sft_weight=0.0)
    assert change[0] - change[1] > 0


def test_sft_raises_the_log_probability(model, batch):
    assert change_by_descent(losses.sft, model, batch).sum() > 0


def test_pointwise_prm_by_hand(model, batch, plain):
    r = sigmoid(plain["score"])
    expected = -(batch["label"] * np.log(r) + (1 - batch["label"]) * np.log(1 - r))
    loss, metrics = compute(losses.prm_pointwise, model, with_rows(batch, weight=batch["last"]))
    close(loss, masked_mean(expected, batch["last"]))
    close(metrics["score"], masked_mean(r, batch["last"]))


def test_pairwise_prm_by_hand(model, batch, plain):
    score = (plain["score"] * batch["last"]).sum(axis=1)
    margin = score[[0, 2]] - score[[1, 3]]
    loss, metrics = compute(losses.prm_pairwise, model, with_rows(batch, weight=batch["last"], valid=np.ones(B)))
    close(loss, -np.log(sigmoid(margin)).mean())
    close(metrics["accuracy"], (margin > 0).mean())


@pytest.mark.parametrize(
    ("won", "lost", "expected"),
    [(1.0, 0.0, 0.313262), (0.0, 1.0, 1.313262), (2.5, 2.5, 0.693147), (3.0, -1.0, 0.018150)],
)
def test_pairwise_prm_in_numbers(won, lost, expected):
    """-log sigmoid(won - lost), by a model that scores the first row and the second so at their last tokens."""
    scores = np.array([[9.0, 9.0, won], [9.0, lost, 9.0]], np.float32)
    known: Any = types.SimpleNamespace(read=lambda *inputs, places: scores[..., None], values=lambda x: x[..., 0])
    two = np.zeros((2, 3), np.int32)
    batch = {"tokens": two, "positions": two, "segments": two + 1, "valid": np.ones(2, np.float32)}
    batch["weight"] = np.array([[0, 0, 1], [0, 1, 0]], np.float32)
    loss, metrics = losses.prm_pairwise(known, batch)
    assert float(loss) == pytest.approx(expected, abs=1e-6) and float(metrics["accuracy"]) == (won > lost)


def test_pairwise_prm_padding_pairs_have_no_influence(model, batch, plain):
    score = (plain["score"] * batch["last"]).sum(axis=1)
    masked = with_rows(batch, weight=batch["last"], valid=[0, 0, 1, 1])
    close(compute(losses.prm_pairwise, model, masked)[0], -np.log(sigmoid(score[2] - score[3])))


def last_values(model, batch):
    """The raw score at each row's weighted places."""
    return jnp.sum(jnp.where(batch["weight"] > 0, model.values(losses.states(model, batch)), 0.0), axis=-1)


def test_pointwise_prm_moves_the_score_to_its_label(model, batch):
    own = with_rows(batch, weight=batch["last"])
    for label, sign in ((1.0, 1), (0.0, -1)):
        labelled = with_rows(own, label=np.full((B, S), label))
        assert sign * change_by_descent(losses.prm_pointwise, model, labelled, last_values).sum() > 0


def test_pairwise_prm_parts_the_winner_from_the_loser(model, batch):
    single = with_rows(batch, weight=batch["last"], valid=[1, 1, 0, 0])
    change = change_by_descent(losses.prm_pairwise, model, single, last_values)
    assert change[0] - change[1] > 0


@pytest.mark.parametrize("value", [1e6, -1e6, np.inf])
def test_labels_without_weight_have_no_influence(model, batch, value):
    own = with_rows(batch, weight=batch["last"])
    changed = with_rows(own, label=np.where(own["weight"] > 0, own["label"], value))
    before, after = (compute(losses.prm_pointwise, model, b) for b in (own, changed))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b), after, before)


def test_batch_without_weight_has_loss_zero(model, batch):
    loss, _ = compute(losses.sft, model, with_rows(batch, weight=np.zeros((B, S))))
    assert float(loss) == 0.0


def test_weighted_mean_by_hand():
    assert float(weighted_mean(jnp.array([1.0, jnp.nan, 4.0]), jnp.array([1.0, 0.0, 0.5]))) == 2.0
