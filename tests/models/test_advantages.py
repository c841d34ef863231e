"""Advantages against numbers by hand and against the sums of their definitions, written out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from o1coder_jax.advantages import (
    divergence,
    gae,
    group_advantages,
    mismatch,
    step_advantages,
    tree_advantages,
    truncated_importance,
)

# Groups.


def test_group_advantages_by_hand():
    rewards = np.array([[1.0, 0.0, 0.5], [0.3, 0.3, 0.3]])
    advantages, alive = group_advantages(rewards, np.ones((2, 3), bool))
    np.testing.assert_allclose(advantages, [[0.5, -0.5, 0.0], [0, 0, 0]], atol=1e-12)
    assert alive.tolist() == [True, False]


def test_unchecked_members_are_left_out_of_their_group():
    rewards = np.array([[1.0, 0.0, np.inf], [1.0, 9.0, 9.0], [9.0, 9.0, 9.0]])
    usable = np.array([[True, True, False], [True, False, False], [False, False, False]])
    advantages, alive = group_advantages(rewards, usable)
    np.testing.assert_allclose(advantages, [[0.5, -0.5, 0.0], [0, 0, 0], [0, 0, 0]])
    assert alive.tolist() == [True, False, False]


def test_division_by_the_deviation_by_hand():
    """The deviation of (1, 0) is one half; of equal rewards nothing is divided."""
    rewards, usable = np.array([[1.0, 0.0, 7.0], [0.3, 0.3, 0.3]]), np.array([[True, True, False], [True] * 3])
    advantages, alive = group_advantages(rewards, usable, deviation=True)
    np.testing.assert_allclose(advantages, [[1.0, -1.0, 0.0], [0, 0, 0]])
    assert alive.tolist() == [True, False]


@pytest.mark.parametrize("deviation", [False, True])
def test_group_advantages_as_written_out(deviation):
    rng = np.random.default_rng(3)
    rewards, usable = rng.random((6, 5)), rng.random((6, 5)) < 0.7
    found, _ = group_advantages(rewards, usable, deviation=deviation)
    for group in range(6):
        taken = [float(rewards[group, i]) for i in range(5) if usable[group, i]]
        mean = sum(taken) / len(taken)
        spread = math.sqrt(sum((one - mean) ** 2 for one in taken) / len(taken)) if deviation else 1.0
        for i in range(5):
            expected = (rewards[group, i] - mean) / spread if usable[group, i] and spread > 0 else 0.0
            assert found[group, i] == pytest.approx(expected)


# Steps.


def test_step_advantages_by_hand():
    """Returns to go: (3, 2), (1, 1), and 4 of a path that ends after its first step."""
    advantages = step_advantages([[1.0, 2.0], [0.0, 1.0], [4.0]], [True, True, True])
    assert advantages == [pytest.approx([3 - 8 / 3, 0.5]), pytest.approx([1 - 8 / 3, -0.5]), pytest.approx([4 - 8 / 3])]


def test_first_step_has_the_advantage_of_the_path():
    rng = np.random.default_rng(0)
    credits = [rng.random(n).tolist() for n in (2, 4, 1, 3)]
    rewards = np.array([sum(own) for own in credits])
    found = [own[0] for own in step_advantages(credits, [True] * 4)]
    np.testing.assert_allclose(found, group_advantages(rewards, np.ones(4, bool))[0])


def test_step_that_no_other_path_reached_has_no_advantage():
    assert step_advantages([[0.0, 0.0, 5.0], [1.0]], [True, True])[0][1:] == [0.0, 0.0]


def test_unchecked_path_moves_no_step():
    some = step_advantages([[1.0, 2.0], [0.0, 1.0]], [True, True])
    assert step_advantages([[1.0, 2.0], [9.0, 9.0, 9.0], [0.0, 1.0]], [True, False, True]) == [
        some[0],
        [0.0, 0.0, 0.0],
        some[1],
    ]


def test_steps_are_divided_by_the_deviation_of_the_paths():
    plain = step_advantages([[1.0, 2.0], [0.0, 1.0]], [True, True])
    divided = step_advantages([[1.0, 2.0], [0.0, 1.0]], [True, True], deviation=True)
    np.testing.assert_allclose(divided, np.array(plain) / 1.0)
    assert step_advantages([[1.0], [1.0]], [True, True], deviation=True) == [[0.0], [0.0]]


# Trees.


def test_tree_advantages_by_hand():
    """Node 1 leads to leaves 3 (right) and 4 (wrong), node 2 is a leaf (wrong): values 1/2, 0, and 1/3 at the root."""
    found = tree_advantages([[1, 3], [1, 4], [2]], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0])
    shared = ((0.5 - 1 / 3) + (0.5 - 1 / 3)) / np.sqrt(2)
    right, wrong = (1 - 1 / 3) + (1 - 0.5), (0 - 1 / 3) + (0 - 0.5)
    assert found == [
        pytest.approx([shared, right]),
        pytest.approx([shared, wrong]),
        pytest.approx([-2 / 3]),
    ]


def test_tree_whose_paths_all_earn_the_same_has_none():
    assert tree_advantages([[1, 2], [1, 3]], [0.4, 0.4], [1.0, 0.5]) == [pytest.approx([0, 0])] * 2


def test_tree_without_a_path_has_none():
    assert tree_advantages([], [], []) == []


def test_paths_that_a_tree_found_once_weigh_by_how_likely_they_are():
    """Of three different paths one is right and nine times in ten the policy's: V(root) is 0.9, not 1/3."""
    right, wrong, other = tree_advantages([[1], [2], [3]], [1.0, 0.0, 0.0], np.log([0.9, 0.06, 0.04]).tolist())
    assert [*right, *wrong, *other] == pytest.approx([2 * (1 - 0.9), 2 * (0 - 0.9), 2 * (0 - 0.9)])


# Generalised advantage estimation.


def naive_gae(rewards, values, discount, decay):
    """The sum of its definition: A_t = sum_l (discount * decay)^l delta_{t+l}."""
    nexts = [*values[1:], 0.0]
    deltas = [r + discount * after - v for r, after, v in zip(rewards, nexts, values, strict=True)]
    return [sum((discount * decay) ** (k - t) * deltas[k] for k in range(t, len(deltas))) for t in range(len(deltas))]


def test_gae_by_hand():
    """Rewards 0, 1 and values 0.5, 0.25: the errors are 0.9 * 0.25 - 0.5 and 0.75."""
    one = np.ones((1, 2), bool)
    advantages, returns = gae(np.array([[0.0, 1.0]]), np.array([[0.5, 0.25]]), one, 0.9, 0.5)
    np.testing.assert_allclose(advantages, [[-0.275 + 0.45 * 0.75, 0.75]], rtol=1e-6)
    np.testing.assert_allclose(returns, [[0.5 - 0.275 + 0.45 * 0.75, 1.0]], rtol=1e-6)


@pytest.mark.parametrize(("discount", "decay"), [(1.0, 0.95), (0.9, 0.0), (0.9, 1.0)])
def test_gae_over_tokens_is_its_definition(discount, decay):
    rng = np.random.default_rng(0)
    reward, value = rng.normal(size=(2, 3, 9))
    begins, ends = [2, 0, 4], [9, 5, 7]
    place = np.arange(9)
    decides = (place >= np.array(begins)[:, None]) & (place < np.array(ends)[:, None])
    advantages, returns = gae(np.where(decides, reward, 0), value, decides, discount, decay)
    for row, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        expected = naive_gae(reward[row, begin:end], value[row, begin:end], discount, decay)
        np.testing.assert_allclose(advantages[row, begin:end], expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(returns[row, begin:end], expected + value[row, begin:end], rtol=1e-5, atol=1e-6)
    assert not np.asarray(advantages)[~decides].any() and not np.asarray(returns)[~decides].any()


def test_gae_over_steps_is_that_of_a_path_of_steps():
    """Steps of 2, 3 and 1 tokens: what is earned within one belongs to its first token."""
    rng = np.random.default_rng(1)
    reward, value = rng.normal(size=(2, 1, 9))
    reward[:, :2] = reward[:, 8:] = 0
    starts, ends = [2, 4, 7], [4, 7, 8]
    decides = np.isin(np.arange(9), starts)[None]
    advantages, _ = gae(reward, value, decides, 0.9, 0.8)
    sums = [reward[0, a:b].sum() for a, b in zip(starts, ends, strict=True)]
    np.testing.assert_allclose(advantages[0, starts], naive_gae(sums, value[0, starts], 0.9, 0.8), rtol=1e-5)


def test_gae_does_not_read_values_where_nothing_is_decided():
    decides = np.array([[True, False, True]])
    one, other = (gae(np.ones((1, 3)), np.array([[0.5, v, 0.1]]), decides, 1.0, 0.9) for v in (0.0, np.nan))
    np.testing.assert_array_equal(one, other)


def test_whole_returns_do_not_depend_on_the_critic():
    decides = np.ones((1, 3), bool)
    _, returns = gae(np.array([[0.1, 0.2, 0.4]]), np.array([[3.0, -1.0, 2.0]]), decides, 1.0, 1.0)
    np.testing.assert_allclose(returns, [[0.7, 0.6, 0.4]], rtol=1e-5)


# The sampler's probabilities and the trainer's.


def test_truncated_importance_by_hand():
    factors = truncated_importance(np.log([0.5, 0.1, 0.9]), np.log([0.25, 0.2, 0.1]), 3.0)
    np.testing.assert_allclose(factors, [2.0, 0.5, 3.0])


def test_truncation_keeps_the_estimate_without_a_cap_unbiased():
    """The sampler's mean of f * pi_trainer / pi_sampler is the trainer's mean of f."""
    trainer, sampler, f = np.array([0.7, 0.2, 0.1]), np.array([0.3, 0.3, 0.4]), np.array([1.0, -2.0, 5.0])
    factors = truncated_importance(np.log(trainer), np.log(sampler), 1e9)
    assert (sampler * factors * f).sum() == pytest.approx((trainer * f).sum())


def test_mismatch_by_hand():
    found = mismatch(np.log([0.5, 0.1]), np.log([0.25, 0.2]))
    assert found["mismatch"] == pytest.approx(np.log(2))
    assert found["mismatch_kl"] == pytest.approx(((2 - np.log(2) - 1) + (0.5 + np.log(2) - 1)) / 2)
    assert found["mismatch_ratio"] == pytest.approx(2.0)


def test_same_probabilities_do_not_differ():
    same = np.log([0.3, 0.6])
    assert mismatch(same, same) == {"mismatch": 0.0, "mismatch_kl": 0.0, "mismatch_ratio": 1.0}


# The policy and the reference.


def test_divergence_by_hand():
    assert divergence(np.array([-0.5, -1.0]), np.array([-0.7, -2.0])) == {"kl": pytest.approx(0.6)}


def test_no_single_token_outweighs_the_others():
    """A token that came up once in a thousand though it is e^12 times as likely in the reference."""
    policy, reference = np.full(1000, -0.5), np.full(1000, -0.6)
    policy[0], reference[0] = -12.5, -0.5
    assert divergence(policy, reference)["kl"] == pytest.approx(0.0999 - 0.012)


def test_divergence_is_estimated_without_bias():
    """Its mean over the policy's own draws is the sum of p log(p / q)."""
    p, q = np.array([0.7, 0.2, 0.1]), np.array([0.3, 0.3, 0.4])
    each = [divergence(np.log(p[[i]]), np.log(q[[i]]))["kl"] for i in range(3)]
    assert (p * each).sum() == pytest.approx((p * np.log(p / q)).sum()) and (p * np.log(p / q)).sum() > 0
