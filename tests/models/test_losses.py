"""Each objective against a plain numpy computation; masks; the direction of gradients."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from o1coder_jax import fused_scores, losses
from o1coder_jax.errors import UserError
from o1coder_jax.losses import ClipConfig, group_advantages, weighted_mean
from o1coder_jax.transformer import Transformer
from tests.tiny import SHAPE, decoder

B, S = 4, 12
LENGTHS = (12, 7, 9, 5)
PROMPT = 3
CLIP = ClipConfig(low=0.2, high=0.3, kl=0.1)


@pytest.fixture(scope="module")
def model():
    return decoder(value_head=True)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    inside = np.arange(S) < np.array(LENGTHS)[:, None]
    weight = (inside & (np.arange(S) >= PROMPT)).astype(np.float32)
    last = (np.arange(S) == np.array(LENGTHS)[:, None] - 1).astype(np.float32)
    return {
        "tokens": np.where(inside, rng.integers(1, 13, (B, S)), 0).astype(np.int32),
        "positions": np.tile(np.arange(S, dtype=np.int32), (B, 1)),
        "segments": inside.astype(np.int32),
        "weight": weight,
        "last": last,
        "label": rng.random((B, S)).astype(np.float32),
        "old": (-rng.random((B, S)) * 4).astype(np.float32),
        "reference": (-rng.random((B, S)) * 4).astype(np.float32),
        "advantage": np.tile(rng.normal(size=(B, 1)), (1, S)).astype(np.float32),
    }


def with_rows(batch, **changes):
    return batch | {name: np.asarray(value, np.float32) for name, value in changes.items()}


@pytest.fixture(scope="module")
def plain(model, batch):
    """log p of every token, the entropy there, and the raw score after it, in numpy: dictionary of (B, S)."""
    hidden = np.asarray(
        nnx.jit(lambda m, *x: m.read(*x))(model, *(batch[n] for n in ("tokens", "positions", "segments")))
    )
    logits = hidden.astype(np.float64) @ np.asarray(model.embedding[...], np.float64).T
    scores = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    picked, entropy = np.zeros((B, S)), np.zeros((B, S))
    picked[:, 1:] = np.take_along_axis(scores[:, :-1], batch["tokens"][:, 1:, None], axis=-1)[..., 0]
    entropy[:, 1:] = -(np.exp(scores) * scores).sum(-1)[:, :-1]
    value = hidden.astype(np.float64) @ np.asarray(model.value[...], np.float64) + float(model.value_bias[...])
    return {"picked": picked, "entropy": entropy, "score": value}


@functools.cache
def jitted(objective, **settings):
    return nnx.jit(functools.partial(objective, **settings))


def compute(objective, model, batch, **settings):
    return jitted(objective, **settings)(model, batch)


def masked_mean(values, weight):
    return (values * weight).sum() / weight.sum()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def close(actual, expected):
    assert float(actual) == pytest.approx(float(expected), rel=2e-5, abs=2e-6)


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


def test_dpo_starts_at_log_two(model, pair_batch, plain):
    own = (plain["picked"] * pair_batch["weight"]).sum(axis=1)
    loss, _ = compute(losses.dpo, model, with_rows(pair_batch, reference=own), beta=0.3, sft_weight=0.0)
    assert float(loss) == pytest.approx(np.log(2), abs=1e-5)


def test_dpo_padding_pairs_have_no_influence(model, pair_batch):
    masked = with_rows(pair_batch, valid=[1, 1, 0, 0])
    changed = with_rows(masked, reference=[*SCORES[:2], 50.0, -50.0])
    first, second = (compute(losses.dpo, model, b, beta=0.3, sft_weight=0.2)[0] for b in (masked, changed))
    assert float(first) == float(second)


@functools.cache
def jitted_gradient(objective, **settings):
    return nnx.jit(nnx.grad(lambda model, batch: objective(model, batch, **settings)[0]))


def change_by_descent(objective, model, batch, **settings):
    """How fast each row's weighted log-probability changes along the gradient's descent."""
    gradient = jitted_gradient(objective, **settings)(model, batch)
    step = 1e-3 / max(float(jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient)))), 1e-6)
    state = nnx.state(model)
    moved = nnx.merge(nnx.graphdef(model), jax.tree.map(lambda w, g: w - step * g, state, gradient))
    before, after = (compute(losses.sequence_scores, m, batch) for m in (model, moved))
    return np.asarray(after - before) / step


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


def test_pairwise_prm_padding_pairs_have_no_influence(model, batch, plain):
    score = (plain["score"] * batch["last"]).sum(axis=1)
    masked = with_rows(batch, weight=batch["last"], valid=[0, 0, 1, 1])
    close(compute(losses.prm_pairwise, model, masked)[0], -np.log(sigmoid(score[2] - score[3])))


def naive_policy_gradient(batch, plain, clip):
    ratio = np.exp(plain["picked"] - batch["old"])
    clipped = np.clip(ratio, 1 - clip.low, 1 + clip.high)
    surrogate = np.minimum(ratio * batch["advantage"], clipped * batch["advantage"])
    drift = batch["reference"] - plain["picked"]
    divergence = np.exp(drift) - drift - 1
    taken = batch["weight"] > 0
    values = np.where(taken, clip.kl * divergence - surrogate, 0)
    return masked_mean(values, batch["weight"]), masked_mean(np.where(taken, divergence, 0), batch["weight"])


def test_policy_gradient_by_hand(model, batch, plain):
    loss, metrics = compute(losses.policy_gradient, model, batch, clip=CLIP)
    expected, divergence = naive_policy_gradient(batch, plain, CLIP)
    close(loss, expected)
    close(metrics["kl"], divergence)


def test_policy_gradient_counts_what_it_clips(model, batch, plain):
    ratio = np.exp(plain["picked"] - batch["old"])
    over = (batch["advantage"] > 0) & (ratio > 1 + CLIP.high) | (batch["advantage"] < 0) & (ratio < 1 - CLIP.low)
    _, metrics = compute(losses.policy_gradient, model, batch, clip=CLIP)
    close(metrics["clip_share"], masked_mean(over, batch["weight"]))


def test_policy_gradient_at_the_sampling_policy_is_minus_the_mean_advantage(model, batch, plain):
    same = with_rows(batch, old=plain["picked"], reference=plain["picked"])
    loss, metrics = compute(losses.policy_gradient, model, same, clip=CLIP)
    assert float(loss) == pytest.approx(-masked_mean(batch["advantage"], batch["weight"]), abs=1e-5)
    assert float(metrics["ratio"]) == pytest.approx(1.0, abs=1e-5)


def test_policy_gradient_follows_the_sign_of_the_advantage(model, batch, plain):
    for sign in (1.0, -1.0):
        advantage = np.zeros((B, S))
        advantage[1] = sign
        one = with_rows(batch, old=plain["picked"], reference=plain["picked"], advantage=advantage)
        assert sign * change_by_descent(losses.policy_gradient, model, one, clip=CLIP)[1] > 0


def test_policy_gradient_is_silent_where_it_clips(model, batch, plain):
    """A ratio far above the clip with a positive advantage, and far below it with a negative one."""
    rising = np.where(batch["advantage"] > 0, 2.0, -2.0)
    clipped = with_rows(batch, old=plain["picked"] - rising)
    gradient = change_by_descent(losses.policy_gradient, model, clipped, clip=ClipConfig(kl=0.0))
    np.testing.assert_allclose(gradient, 0, atol=1e-7)


@pytest.mark.parametrize("name", ["old", "reference", "advantage", "label"])
@pytest.mark.parametrize("value", [1e6, -1e6, np.inf])
def test_entries_without_weight_have_no_influence(model, batch, name, value):
    """Extreme numbers under the mask change neither loss nor metrics (nor make them infinite)."""
    if name == "label":
        objective, settings, own = losses.prm_pointwise, {}, with_rows(batch, weight=batch["last"])
    else:
        objective, settings, own = losses.policy_gradient, {"clip": CLIP}, batch
    changed = with_rows(own, **{name: np.where(own["weight"] > 0, own[name], value)})
    before, after = (compute(objective, model, b, **settings) for b in (own, changed))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b), after, before)


def test_masked_entries_give_no_gradient(model, batch):
    """An infinite `old` under the mask must not turn the gradient into NaN."""
    changed = with_rows(batch, old=np.where(batch["weight"] > 0, batch["old"], -np.inf))
    before = change_by_descent(losses.policy_gradient, model, batch, clip=CLIP)
    np.testing.assert_allclose(change_by_descent(losses.policy_gradient, model, changed, clip=CLIP), before, rtol=1e-5)


def test_batch_without_weight_has_loss_zero(model, batch):
    loss, _ = compute(losses.sft, model, with_rows(batch, weight=np.zeros((B, S))))
    assert float(loss) == 0.0


def test_weighted_mean_by_hand():
    assert float(weighted_mean(jnp.array([1.0, jnp.nan, 4.0]), jnp.array([1.0, 0.0, 0.5]))) == 2.0


def test_group_advantages_by_hand():
    rewards = np.array([[1.0, 0.0, 0.5], [0.3, 0.3, 0.3]])
    advantages, alive = group_advantages(rewards, np.ones((2, 3), bool))
    np.testing.assert_allclose(advantages, [[0.5, -0.5, 0.0], [0, 0, 0]], atol=1e-12)
    assert alive.tolist() == [True, False]


def test_unchecked_members_are_left_out_of_their_group():
    rewards = np.array([[1.0, 0.0, 9.0], [1.0, 9.0, 9.0], [9.0, 9.0, 9.0]])
    usable = np.array([[True, True, False], [True, False, False], [False, False, False]])
    advantages, alive = group_advantages(rewards, usable)
    np.testing.assert_allclose(advantages, [[0.5, -0.5, 0.0], [0, 0, 0], [0, 0, 0]])
    assert alive.tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [({"low": 0.0}, "low 0.0"), ({"low": 1.0}, "low 1.0"), ({"high": 0.0}, "high 0.0"), ({"kl": -1.0}, "kl is -1.0")],
)
def test_clip_out_of_range_is_refused(settings, complaint):
    with pytest.raises(UserError, match=complaint):
        ClipConfig(**settings)
