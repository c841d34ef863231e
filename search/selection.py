"""Which child a rollout moves to.

    uct      Q/N + c sqrt(ln N_parent / N) (Kocsis and Szepesvari 2006); never-visited children first, at random
    puct     Q/N + c P sqrt(N_parent) / (1 + N) (Silver et al. 2017), P from the steps' log-probabilities
    gumbel   sequential halving at the root, the improved policy's deterministic choice below it
             (Danihelka et al. 2022)
    boltzmann  what the policy has left to draw, weighed by what was rewarded: see `boltzmann.py`

N counts rollouts that await their verdict, Q does not: a virtual loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from o1coder_jax.errors import UserError
from search.forest import Forest

SELECTION = 2**31 - 1  # folded into a tree's seed before its rollout; candidates fold in their small numbers instead
GUMBEL = 2**31 - 2
LARGEST = 1e6  # of a weight: more says nothing more, and float32 holds it beside what it is added to


@dataclass(frozen=True)
class SelectionConfig:
    """How a child is chosen.

    Attributes:
      rule: see the top of this file.
      exploration: c.
      schedule: how c goes from its full value to a tenth over the rollouts.
      reselect: terminals that were judged may be reached again, as in the published code; otherwise what is
        exhausted is closed.
      visit_weight, value_scale: c_visit and c_scale of the gumbel rule.
      sharpness: of the boltzmann rule: how many nats a mean reward of 1 is worth.
      exhausted: of the boltzmann rule: below this share left a node is closed.
    """

    rule: Literal["uct", "puct", "gumbel", "boltzmann"] = "uct"
    exploration: float = 2.0
    schedule: Literal["constant", "linear", "exponential"] = "constant"
    reselect: bool = False
    visit_weight: float = 50.0
    value_scale: float = 0.1
    sharpness: float = 2.0
    exhausted: float = 0.1

    def __post_init__(self) -> None:
        for name in ("exploration", "visit_weight", "value_scale", "sharpness", "exhausted"):
            if not 0 <= getattr(self, name) <= LARGEST:
                raise UserError(f"search.selection.{name} is {getattr(self, name)}; it must lie in [0, {LARGEST:g}]")
        if self.exhausted >= 1:
            raise UserError(
                f"search.selection.exhausted is {self.exhausted}, which closes every node at once; give less than 1"
            )
        if self.rule == "boltzmann" and self.reselect:
            raise UserError(
                "search.selection.reselect is true, but the boltzmann rule draws no path twice; set it to false"
            )

    def weight(self, progress: Float[Array, "..."]) -> Float[Array, "..."]:
        """c when `progress` in [0, 1] of the rollouts are done."""
        decay = {"constant": progress * 0 + 1, "linear": 1 - 0.9 * progress, "exponential": 0.1**progress}
        return self.exploration * decay[self.schedule]


@dataclass(frozen=True)
class Family:
    """A node in each tree and its children, as the rules see them: (T,) and (T, K)."""

    node: Int[Array, " T"]
    child: Int[Array, "T K"]
    open: Bool[Array, "T K"]
    visits: Float[Array, "T K"]
    mean: Float[Array, "T K"]
    prior: Float[Array, "T K"]
    parent_visits: Float[Array, " T"]


def family(forest: Forest, node: Int[Array, " T"], *, use_value: bool) -> Family:
    """Children that are absent or closed are not open. Where a child has no visits, `mean` is its own value, if
    there is a process reward model, and its parent's mean if there is none."""
    tree = forest.trees
    child = forest.children[tree, node]
    at = (tree[:, None], child)
    counted = forest.visits[at]
    visits = counted + forest.pending[at]
    parent_counted, parent_pending = forest.visits[tree, node], forest.pending[tree, node]
    parent_mean = forest.total[tree, node] / jnp.maximum(parent_counted, 1)
    guess = forest.value[at] if use_value else jnp.broadcast_to(parent_mean[:, None], child.shape)
    return Family(
        node=node,
        child=child,
        open=(child != Forest.NONE) & ~forest.closed[at],
        visits=visits.astype(jnp.float32),
        mean=jnp.where(visits == 0, guess, forest.total[at] / jnp.maximum(visits, 1)),
        prior=jnp.where(child == Forest.NONE, -jnp.inf, forest.prior[at]),
        parent_visits=(parent_counted + parent_pending).astype(jnp.float32),
    )


def uct(kin: Family, exploration: Float[Array, " T"], chance: Float[Array, "T K"]) -> Float[Array, "T K"]:
    """Score of each child; those that are not open get minus infinity."""
    some = jnp.maximum(kin.visits, 1)
    spread = jnp.sqrt(jnp.log(jnp.maximum(kin.parent_visits, 1))[:, None] / some)
    score = kin.mean + exploration[:, None] * spread
    unvisited = kin.open & (kin.visits == 0)
    # Not one score with a large bonus: added to a large number, chance would be rounded to few values.
    fresh = jnp.any(unvisited, axis=1, keepdims=True)
    return jnp.where(fresh, _among(chance, unvisited), _among(score, kin.open))


def puct(kin: Family, exploration: Float[Array, " T"]) -> Float[Array, "T K"]:
    """As `uct`, with the prior in place of chance; equal scores go to the first child."""
    share = jax.nn.softmax(kin.prior, axis=1)
    explored = jnp.sqrt(jnp.maximum(kin.parent_visits, 1))[:, None] / (1 + kin.visits)
    return _among(kin.mean + exploration[:, None] * share * explored, kin.open)


def gumbel_inner(kin: Family, config: SelectionConfig) -> Float[Array, "T K"]:
    """Below the root: the child whose share of visits lags most behind the improved policy."""
    improved = jax.nn.softmax(kin.prior + _sigma(kin, config), axis=1)
    lag = improved - kin.visits / (1 + jnp.sum(kin.visits, axis=1, keepdims=True))
    return _among(lag, kin.open)


def gumbel_root(
    kin: Family, config: SelectionConfig, noise: Float[Array, "T K"], table: Int[Array, "K1 B"]
) -> Float[Array, "T K"]:
    """At the root: the best child among those whose turn it is in the sequential halving.

    The schedule goes on with the root's visits, not with its rollouts: a child whose verdict could not be had keeps
    its turn.

    Args:
      noise: Gumbel variables, the same for all rollouts of a tree.
      table: `halving_table`.
    """
    score = noise + jax.nn.log_softmax(kin.prior, axis=1) + _sigma(kin, config)
    width = jnp.sum(kin.child != Forest.NONE, axis=1)
    turn = table[width, jnp.minimum(kin.parent_visits.astype(jnp.int32), table.shape[1] - 1)]
    due = kin.open & (kin.visits == turn[:, None])
    # With closed children the schedule may name none: the best open child then.
    return jnp.where(jnp.any(due, axis=1, keepdims=True), _among(score, due), _among(score, kin.open))


def _sigma(kin: Family, config: SelectionConfig) -> Float[Array, "T K"]:
    most = jnp.max(kin.visits, axis=1, keepdims=True)
    return (config.visit_weight + most) * config.value_scale * kin.mean


def _among(score: Float[Array, "T K"], allowed: Bool[Array, "T K"]) -> Float[Array, "T K"]:
    return jnp.where(allowed, score, -jnp.inf)


def halving_table(width: int, rollouts: int) -> np.ndarray:
    """(K + 1, rollouts): at rollout i over k children, the visits that a child whose turn it is has had so far.

    Sequential halving (Karnin et al. 2013): log2(k) phases of equal budget; each halves the children that are left.
    """
    table = np.zeros((width + 1, max(rollouts, 1)), np.int32)
    for k in range(2, width + 1):
        table[k] = _halving(k, max(rollouts, 1))
    table[1] = np.arange(max(rollouts, 1))
    return table


def _halving(k: int, rollouts: int) -> list[int]:
    phases = int(np.ceil(np.log2(k)))
    visits, left = [0] * k, k
    sequence: list[int] = []
    while len(sequence) < rollouts:
        for _ in range(max(1, int(rollouts / (phases * left)))):
            sequence += visits[:left]
            for i in range(left):
                visits[i] += 1
        left = max(2, left // 2)
    return sequence[:rollouts]


def gumbel_noise(forest: Forest) -> Float[Array, "T K"]:
    """One Gumbel variable for each child of the root; a function of the tree's seed."""

    def one(seed: Array) -> Array:
        key = jax.random.fold_in(jax.random.wrap_key_data(seed), GUMBEL)
        return jax.random.gumbel(key, forest.children.shape[2:])

    return jax.vmap(one)(forest.seed)


def chances(forest: Forest, node: Int[Array, " T"]) -> Float[Array, "T K"]:
    """Random numbers for the children of a node in this rollout; a function of (seed, rollout, node)."""

    def one(seed: Array, rollout: Array, node: Array) -> Array:
        key = jax.random.fold_in(jax.random.wrap_key_data(seed), SELECTION)
        key = jax.random.fold_in(jax.random.fold_in(key, rollout), node)
        return jax.random.uniform(key, forest.children.shape[2:])

    return jax.vmap(one)(forest.seed, forest.rollouts, node)
