"""The boltzmann rule: drawing from the policy without replacement, tilted towards what has been rewarded.

A walk chooses among a node's children and a fresh draw. Each weighs

    left * exp(sharpness * mean)

where `left` is the probability that the policy comes this way to an end that no rollout has reached: of a child, its
own probability times the share of what is below it that is left; of a fresh draw, what the children do not cover. No
path is drawn twice, a step that the policy is sure of is drawn once, and tokens go where something new is likely.

A fresh draw is of the whole policy. One that repeats a child, which has the probability 1 - U where U is not covered,
is in vain, and the walk begins again at the root. So, with sharpness 0, a new step s of node n comes with a weight
P(n) U p(s | n); exact sampling without replacement (UniqueRandomizer, Shi et al. 2020) has no U there, and takes 1 / U
draws for each new step. The factor leaves nodes whose children cover much for those where a draw is likely to bring
something. The tilt is that of the policy which gains most reward for its divergence from the model's (Rafailov et al.
2023, equation 4).

Probabilities are the model's own, those of temperature 1 without truncation; with other settings more draws repeat a
child, and the bound on expansions holds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from search.forest import Forest
from search.selection import SELECTION, Family, SelectionConfig
from search.widening import spent


@dataclass(frozen=True)
class Arms:
    """Scores to choose by: of the children (T, K), minus infinity where they are not open, and of a fresh draw (T,)."""

    children: Float[Array, "T K"]
    fresh: Float[Array, " T"]


def arms(forest: Forest, kin: Family, config: SelectionConfig, expansions: int) -> Arms:
    """Log-weights with Gumbel noise, so that the largest is a draw; the noise is a function of (seed, rollout, draws in
    vain so far, node)."""
    tree, node = forest.trees, kin.node
    noise = _noise(forest, node)
    chance, left = _of_children(forest, kin.child)
    weight = _log(chance * left) + config.sharpness * kin.mean
    children = jnp.where(kin.open, weight + noise[:, 1:], -jnp.inf)
    total, visits = forest.total[tree, node], forest.visits[tree, node] + forest.pending[tree, node]
    fresh = _log(uncovered(forest, node)) + config.sharpness * total / jnp.maximum(visits, 1)
    fresh = jnp.where(forest.drawn[tree, node] < expansions, fresh + noise[:, 0], -jnp.inf)
    return Arms(children, fresh)


def uncovered(forest: Forest, node: Int[Array, " T"]) -> Float[Array, " T"]:
    """The probability that a draw at a node is none of its children."""
    chance, _ = _of_children(forest, forest.children[forest.trees, node])
    return jnp.maximum(1 - jnp.sum(chance, axis=1), 0.0)


def _log(mass: Array) -> Array:
    return jnp.log(jnp.maximum(mass, 1e-30))  # so that what is open is never out of the question


State = tuple[Array, Array, Array, Array]


def spend(
    forest: Forest, which: Bool[Array, " T"], node: Int[Array, " T"], config: SelectionConfig, expansions: int
) -> Forest:
    """Takes nodes to which no walk shall come again out of what is left at them and above, and closes what is
    exhausted by that: nothing is left at a closed node.

    A node is exhausted when less than `config.exhausted` is left, or when all its children are closed and it may not be
    expanded again, or hardly anything can be drawn there that they are not.

    Args:
      node: terminals that were reached, or nodes that were expanded for the last time.
    """
    tree = forest.trees
    mass = forest.mass
    assert mass is not None

    def climbing(state: State) -> Array:
        return jnp.any(state[0] != Forest.NONE)

    def climb(state: State) -> State:
        node, gone, left, closed = state
        at = (tree, jnp.where(node == Forest.NONE, forest.places, node))
        left = left.at[at].add(-gone, mode="drop")
        now = replace(forest, closed=closed)
        none_open = spent(now, node) & (forest.drawn[tree, node] > 0)
        last = (forest.drawn[tree, node] >= expansions) | (uncovered(forest, node) < config.exhausted)
        done = forest.terminal[tree, node] | (left[tree, node] < config.exhausted) | (none_open & last)
        rest = jnp.where(done, left[tree, node], 0.0)
        left = left.at[at].add(-rest, mode="drop")
        closed = closed.at[at].set(closed[tree, node] | done, mode="drop")
        up = jnp.where(node == Forest.NONE, Forest.NONE, forest.parent[tree, node])
        return up, (gone + rest) * mass.chance[tree, node], left, closed

    start = jnp.where(which, node, Forest.NONE)
    _, _, left, closed = jax.lax.while_loop(climbing, climb, (start, mass.left[tree, node], mass.left, forest.closed))
    return replace(forest, mass=replace(mass, left=left), closed=closed)


def begin_again(forest: Forest, vain: Bool[Array, " T"], starts: Bool[Array, " T"]) -> Forest:
    """Walks that drew a step which was there already begin again at the root, or end if no other may start."""
    assert forest.mass is not None
    return replace(
        forest,
        cursor=jnp.where(vain, 0, forest.cursor),
        walking=forest.walking & ~(vain & ~starts),
        mass=replace(forest.mass, vain=forest.mass.vain + vain),
    )


def _of_children(forest: Forest, child: Int[Array, "T K"]) -> tuple[Float[Array, "T K"], Float[Array, "T K"]]:
    assert forest.mass is not None
    at = (forest.trees[:, None], child)
    absent = child == Forest.NONE
    return jnp.where(absent, 0.0, forest.mass.chance[at]), jnp.where(absent, 0.0, forest.mass.left[at])


def _noise(forest: Forest, node: Int[Array, " T"]) -> Float[Array, "T K1"]:
    width = forest.children.shape[2] + 1

    def one(seed: Array, *parts: Array) -> Array:
        key = jax.random.fold_in(jax.random.wrap_key_data(seed), SELECTION)
        for part in parts:
            key = jax.random.fold_in(key, part)
        return jax.random.gumbel(key, (width,))

    assert forest.mass is not None
    return jax.vmap(one)(forest.seed, forest.rollouts, forest.mass.vain, node)
