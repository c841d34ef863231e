"""Advantages: of paths in a group, of their steps, of the steps of a tree, and by a critic; and what corrects them.

N paths, S places of a padded row. What concerns single groups is NumPy, for groups and paths differ in size.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from o1coder_jax.estimates import expected

Carry = tuple[Array, Array, Array]
EQUAL = 1e-9  # rewards that differ by less are the same


def group_advantages(
    rewards: np.ndarray, usable: np.ndarray, *, deviation: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Reward minus the mean of its group, over the usable members (GRPO, arXiv 2402.03300, section 4.1).

    Args:
      rewards: (..., members).
      usable: same shape, False where the reward could not be checked.
      deviation: divide by the deviation of the group, as GRPO was published; without, easy and hard problems weigh
        what their rewards differ by (arXiv 2503.20783).

    Returns:
      Advantages, 0 where not usable, and a mask (...,) of groups whose rewards differ: the others carry no
      gradient.
    """
    count = usable.sum(axis=-1, keepdims=True).clip(min=1)
    mean = np.where(usable, rewards, 0).sum(axis=-1, keepdims=True) / count
    advantages = np.where(usable, rewards - mean, 0.0)
    alive = np.asarray((abs(advantages) > EQUAL).any(axis=-1))
    if deviation:
        spread = np.sqrt((advantages**2).sum(axis=-1, keepdims=True) / count)
        advantages = np.where(spread > EQUAL, advantages / np.where(spread > EQUAL, spread, 1.0), 0.0)
    return advantages, alive


def step_advantages(
    credits: Sequence[Sequence[float]], usable: Sequence[bool], *, deviation: bool = False
) -> list[list[float]]:
    """What a path earns from a step on, minus the mean of that over the paths of its group that reached this step.

    The baseline of step j depends on j alone, so it does not bias the gradient; of a step that no other path reached
    the advantage is 0.

    Args:
      credits: of each path's steps, see `rewards.step_credits`.
      usable: False for paths whose reward could not be checked: theirs are 0, and they move no mean.
      deviation: divide by the deviation of the paths' rewards.
    """
    to_go = [np.cumsum(np.array(own, float)[::-1])[::-1] for own in credits]
    taken = [own for own, fine in zip(to_go, usable, strict=True) if fine]
    spread = float(np.std([own[0] for own in taken])) if deviation and taken else 1.0
    longest = max((len(own) for own in taken), default=0)
    means = [float(np.mean([own[j] for own in taken if len(own) > j])) for j in range(longest)]
    return [
        [(value - means[j]) / spread for j, value in enumerate(own.tolist())]
        if fine and spread > EQUAL
        else [0.0] * len(own)
        for own, fine in zip(to_go, usable, strict=True)
    ]


def tree_advantages(
    paths: Sequence[Sequence[int]], rewards: Sequence[float], log_probabilities: Sequence[float]
) -> list[list[float]]:
    """Advantages of the steps of a tree (TreeRL, arXiv 2506.11902).

    A(n) = ((V(n) - V(root)) + (V(n) - V(parent of n))) / sqrt(L(n)), where V(n) is the mean reward of the paths through
    node n and L(n) their number: a step that many paths share is learned from in each of them.

    V weighs a path by its probability, so the rewards of paths minus V(root) have the mean 0 under the policy. The loss
    takes each path once, whatever its probability (`grpo.examples_of`), and there their mean is another: with a right
    path of probability 0.9 and a wrong one of 0.1, of a step each, the advantages are 0.2 and -1.8. So unlikely paths
    are learned from more than by the policy gradient, which would weigh each path's term by its probability.

    Args:
      paths: the nodes of each path, from below the root to a leaf.
      rewards: of each path.
      log_probabilities: what each path weighs in V, see `estimates.expected`.

    Returns:
      For each path one advantage per node.
    """
    through: dict[int | None, list[int]] = {None: list(range(len(paths)))}  # None is the root
    for number, path in enumerate(paths):
        for node in path:
            through.setdefault(node, []).append(number)
    value = {
        node: expected([rewards[i] for i in own], [log_probabilities[i] for i in own]) or 0.0
        for node, own in through.items()
    }
    return [
        [
            (2 * value[node] - value[None] - value[before]) / len(through[node]) ** 0.5
            for before, node in zip([None, *path[:-1]], path, strict=True)
        ]
        for path in paths
    ]


@jax.jit
def gae(
    reward: Float[Array, "N S"],
    value: Float[Array, "N S"],
    decides: Bool[Array, "N S"],
    discount: Float[Array, ""],
    decay: Float[Array, ""],
) -> tuple[Float[Array, "N S"], Float[Array, "N S"]]:
    """Generalised advantage estimation (arXiv 1506.02438, eq. 16), from decision to decision.

    With decisions t = 1..T of a row, delta_t = r_t + discount * V_{t+1} - V_t, V_{T+1} = 0, and A_t = delta_t +
    discount * decay * A_{t+1}. Over tokens each token is a decision; over steps the first token of each step is.

    Args:
      reward: earned at each place; what is earned between two decisions belongs to the one before.
      value: V of the state in which the place's token was chosen.
      decides: where decisions are.
      discount: per decision.
      decay: lambda; 1 gives the whole return minus V, 0 the one-step error.

    Returns:
      A and the return A + V that a critic shall predict, both at decisions, 0 elsewhere.
    """

    def back(carry: Carry, place: tuple[Array, Array, Array]) -> tuple[Carry, Array]:
        earned, next_value, next_advantage = carry
        r, v, here = place
        earned = earned + r
        advantage = earned + discount * next_value - v + discount * decay * next_advantage
        after = (
            jnp.where(here, 0.0, earned),
            jnp.where(here, v, next_value),
            jnp.where(here, advantage, next_advantage),
        )
        return after, jnp.where(here, advantage, 0.0)

    nothing = jnp.zeros(reward.shape[0])
    places = (reward.T, jnp.where(decides, value, 0.0).T, decides.T)
    _, advantages = jax.lax.scan(back, (nothing, nothing, nothing), places, reverse=True)
    return advantages.T, jnp.where(decides, advantages.T + value, 0.0)


def truncated_importance(trainer: np.ndarray, sampler: np.ndarray, cap: float) -> np.ndarray:
    """min(pi_trainer / pi_sampler, cap) of each token, from log-probabilities.

    Factors that make what was drawn from the sampler an estimate for the trainer's policy, at bounded variance
    (truncated importance sampling, Ionides 2008); an advantage times its factor is the corrected one.
    """
    return np.exp(np.minimum(trainer - sampler, np.log(cap)))


def mismatch(trainer: np.ndarray, sampler: np.ndarray) -> dict[str, float]:
    """How far two computations of the same weights differ on tokens that the sampler drew.

    Args:
      trainer, sampler: log-probabilities of the drawn tokens.

    Returns:
      `mismatch`: the mean of |log pi_trainer - log pi_sampler|; `mismatch_kl`: KL(sampler || trainer), by the
      estimator exp(d) - d - 1 with d the difference; `mismatch_ratio`: the largest pi_trainer / pi_sampler.
    """
    difference = np.asarray(trainer, np.float64) - np.asarray(sampler, np.float64)
    if not difference.size:
        return {}
    return {
        "mismatch": float(abs(difference).mean()),
        "mismatch_kl": float((np.exp(difference) - difference - 1).mean()),
        "mismatch_ratio": float(np.exp(difference.max())),
    }


def divergence(policy: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """How far a policy is from the reference, on tokens that it has just drawn.

    Args:
      policy, reference: log-probabilities of the drawn tokens.

    Returns:
      `kl`: KL(policy || reference) per token, by the mean of log pi - log ref. That is unbiased, and no single token
      outweighs the others, as with the estimator exp(d) - d - 1; by chance it may fall a little below 0. Of a tree's
      paths, each once however likely, it is an estimate of something near it.
    """
    difference = np.asarray(policy, np.float64) - np.asarray(reference, np.float64)
    return {"kl": float(difference.mean())} if difference.size else {}
