"""The objectives of reinforcement learning against plain numpy; masks; the direction of gradients."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from flax import nnx

from o1coder_jax.errors import UserError
from o1coder_jax.policy_losses import ClipConfig, policy_gradient, state_values, value_error
from tests.models.objectives import (
    B,
    S,
    change_by_descent,
    close,
    compute,
    jitted_gradient,
    make_batch,
    make_model,
    make_plain,
    masked_mean,
    with_rows,
)

CLIP = ClipConfig(low=0.2, high=0.3, kl=0.1)


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def batch():
    return make_batch()


@pytest.fixture(scope="module")
def plain(model, batch):
    return make_plain(model, batch)


def naive_policy_gradient(batch, plain, clip):
    ratio = np.exp(plain["picked"] - batch["old"])
    clipped = np.clip(ratio, 1 - clip.low, 1 + clip.high)
    surrogate = np.minimum(ratio * batch["advantage"], clipped * batch["advantage"])
    drift = batch["reference"] - plain["picked"]
    divergence = np.exp(drift) - drift - 1
    return masked_mean(np.where(batch["weight"] > 0, clip.kl * divergence - surrogate, 0), batch["weight"])


def test_policy_gradient_by_hand(model, batch, plain):
    loss, _ = compute(policy_gradient, model, batch, clip=CLIP)
    close(loss, naive_policy_gradient(batch, plain, CLIP))


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [(1.5, 1.0, -1.3), (1.5, -1.0, 1.5), (0.5, 1.0, -0.5), (0.5, -1.0, 0.8), (1.1, 2.0, -2.2)],
)
def test_clip_in_numbers(model, batch, plain, ratio, advantage, expected):
    """Clipped to [0.8, 1.3]; of the two the worse counts."""
    everywhere = np.full((B, S), advantage)
    one = with_rows(batch, old=plain["picked"] - np.log(ratio), advantage=everywhere)
    loss, metrics = compute(policy_gradient, model, one, clip=ClipConfig(low=0.2, high=0.3, kl=0.0))
    assert float(loss) == pytest.approx(expected, abs=1e-5)
    assert float(metrics["ratio"]) == pytest.approx(ratio, abs=1e-5)


def test_penalty_in_numbers(model, batch, plain):
    """log ref - log pi is -0.5 everywhere: exp(-0.5) + 0.5 - 1 is 0.10653, and a tenth of it counts."""
    one = with_rows(batch, old=plain["picked"], reference=plain["picked"] - 0.5, advantage=np.zeros((B, S)))
    loss, _ = compute(policy_gradient, model, one, clip=CLIP)
    assert float(loss) == pytest.approx(0.010653, abs=2e-6)


def test_policy_gradient_counts_what_it_clips(model, batch, plain):
    ratio = np.exp(plain["picked"] - batch["old"])
    over = (batch["advantage"] > 0) & (ratio > 1 + CLIP.high) | (batch["advantage"] < 0) & (ratio < 1 - CLIP.low)
    _, metrics = compute(policy_gradient, model, batch, clip=CLIP)
    close(metrics["clip_share"], masked_mean(over, batch["weight"]))


def test_policy_gradient_at_the_sampling_policy_is_minus_the_mean_advantage(model, batch, plain):
    same = with_rows(batch, old=plain["picked"], reference=plain["picked"])
    loss, metrics = compute(policy_gradient, model, same, clip=CLIP)
    assert float(loss) == pytest.approx(-masked_mean(batch["advantage"], batch["weight"]), abs=1e-5)
    assert float(metrics["ratio"]) == pytest.approx(1.0, abs=1e-5)


def test_policy_gradient_follows_the_sign_of_the_advantage(model, batch, plain):
    for sign in (1.0, -1.0):
        advantage = np.zeros((B, S))
        advantage[1] = sign
        one = with_rows(batch, old=plain["picked"], reference=plain["picked"], advantage=advantage)
        assert sign * change_by_descent(policy_gradient, model, one, clip=CLIP)[1] > 0


def test_policy_gradient_is_silent_where_it_clips(model, batch, plain):
    """A ratio far above the clip with a positive advantage, and far below it with a negative one."""
    rising = np.where(batch["advantage"] > 0, 2.0, -2.0)
    clipped = with_rows(batch, old=plain["picked"] - rising)
    gradient = change_by_descent(policy_gradient, model, clipped, clip=ClipConfig(kl=0.0))
    np.testing.assert_allclose(gradient, 0, atol=1e-7)


@pytest.mark.parametrize("cispo", [False, True])
@pytest.mark.parametrize("name", ["old", "reference", "advantage"])
@pytest.mark.parametrize("value", [1e6, -1e6, np.inf])
def test_entries_without_weight_have_no_influence(model, batch, name, value, cispo):
    """Extreme numbers under the mask change neither loss nor metrics (nor make them infinite)."""
    changed = with_rows(batch, **{name: np.where(batch["weight"] > 0, batch[name], value)})
    before, after = (compute(policy_gradient, model, b, clip=CLIP, cispo=cispo) for b in (batch, changed))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b), after, before)


@pytest.mark.parametrize("name", ["returns", "value"])
def test_values_without_a_decision_have_no_influence(model, valued, name):
    changed = with_rows(valued, **{name: np.where(valued["weight"] > 0, valued[name], np.inf)})
    before, after = (compute(value_error, model, b, clip=0.2) for b in (valued, changed))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b), after, before)


@pytest.mark.parametrize("name", ["old", "advantage", "reference"])
def test_masked_entries_give_no_gradient(model, batch, name):
    """An infinite number under the mask must not turn the gradient into NaN."""
    changed = with_rows(batch, **{name: np.where(batch["weight"] > 0, batch[name], -np.inf)})
    before = change_by_descent(policy_gradient, model, batch, clip=CLIP)
    np.testing.assert_allclose(change_by_descent(policy_gradient, model, changed, clip=CLIP), before, rtol=1e-5)


# CISPO.


def test_cispo_by_hand(model, batch, plain):
    ratio = np.minimum(np.exp(plain["picked"] - batch["old"]), 1 + CLIP.high)
    drift = batch["reference"] - plain["picked"]
    values = CLIP.kl * (np.exp(drift) - drift - 1) - ratio * batch["advantage"] * plain["picked"]
    loss, metrics = compute(policy_gradient, model, batch, clip=CLIP, cispo=True)
    close(loss, masked_mean(np.where(batch["weight"] > 0, values, 0), batch["weight"]))
    close(metrics["clip_share"], masked_mean(np.exp(plain["picked"] - batch["old"]) > 1 + CLIP.high, batch["weight"]))


def test_cispo_keeps_the_gradient_where_the_clip_silences_it(model, batch, plain):
    over = with_rows(batch, old=plain["picked"] - 2.0, advantage=np.ones((B, S)))
    change = change_by_descent(policy_gradient, model, over, clip=ClipConfig(kl=0.0), cispo=True)
    assert change.sum() > 0


def test_cispo_pushes_away_from_what_was_worse(model, batch, plain):
    worse = with_rows(batch, old=plain["picked"], advantage=-np.ones((B, S)))
    assert change_by_descent(policy_gradient, model, worse, clip=ClipConfig(kl=0.0), cispo=True).sum() < 0


# A mean over paths.


def test_weights_that_sum_to_one_per_row_average_over_rows(model, batch, plain):
    share = batch["weight"] / batch["weight"].sum(axis=1, keepdims=True)
    same = with_rows(batch, old=plain["picked"], reference=plain["picked"], weight=share)
    loss, _ = compute(policy_gradient, model, same, clip=CLIP)
    assert float(loss) == pytest.approx(-batch["advantage"][:, 0].mean(), abs=1e-5)


# The critic.


@pytest.fixture(scope="module")
def valued(batch):
    rng = np.random.default_rng(1)
    return with_rows(batch, returns=rng.normal(size=(B, S)), value=rng.normal(size=(B, S)))


def test_value_before_a_token_is_the_score_after_the_one_before(model, batch, plain):
    values = np.asarray(compute(state_values, model, batch))
    inside = batch["segments"][:, 1:] > 0
    np.testing.assert_allclose(values[:, 1:][inside], plain["score"][:, :-1][inside], atol=1e-5)
    assert not values[:, 0].any()


def test_value_error_by_hand(model, valued, plain):
    total = count = 0.0
    for row in range(B):
        for place in range(S):
            if valued["weight"][row, place]:
                value, goal, before = (
                    plain["score"][row, place - 1],
                    *(valued[n][row, place] for n in ("returns", "value")),
                )
                near = min(max(value, before - 0.2), before + 0.2)
                total += 0.5 * max((value - goal) ** 2, (near - goal) ** 2)
                count += 1
    loss, _ = compute(value_error, model, valued, clip=0.2)
    close(loss, total / count)


def value_change(model, batch, clip):
    """The change of the mean value along the gradient's descent."""
    gradient = jitted_gradient(value_error, clip=clip)(model, batch)
    moved = nnx.merge(nnx.graphdef(model), jax.tree.map(lambda w, g: w - 1e-3 * g, nnx.state(model), gradient))
    before, after = (np.asarray(compute(state_values, m, batch)) for m in (model, moved))
    return masked_mean(after - before, batch["weight"])


def test_value_moves_towards_the_return(model, batch, plain):
    own = np.pad(plain["score"][:, :-1], ((0, 0), (1, 0)))
    for sign in (1.0, -1.0):
        assert sign * value_change(model, with_rows(batch, value=own, returns=own + sign), 0.2) > 0


def test_value_beyond_its_clip_stays(model, batch, plain):
    """It came as far as it may from V_old, towards the return."""
    own = np.pad(plain["score"][:, :-1], ((0, 0), (1, 0)))
    assert value_change(model, with_rows(batch, value=own - 0.5, returns=own + 1), 0.2) == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [({"low": 0.0}, "low 0.0"), ({"low": 1.0}, "low 1.0"), ({"high": 0.0}, "high 0.0"), ({"kl": -1.0}, "kl is -1.0")],
)
def test_clip_out_of_range_is_refused(settings, complaint):
    with pytest.raises(UserError, match=complaint):
        ClipConfig(**settings)
