"""What a finished rollout leaves behind: visits, rewards and closed subtrees."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from search.forest import Forest


def settle(forest: Forest, which: Bool[Array, " T"], reward: Float[Array, " T"], counted: Bool[Array, " T"]) -> Forest:
    """Backs up the reward of the terminal under each chosen cursor and starts the next rollout.

    Every node on the path, the terminal included, gets N + 1 and Q + reward, so value = Q / N holds everywhere.
    A reward that could not be checked (`counted` False) adds to neither. The terminal is closed, and so is every
    ancestor whose children are all closed: selection never comes back to an exhausted subtree.
    """
    return jax.vmap(_settle_one)(forest, which, reward, counted)


def _settle_one(tree: Forest, settles: Bool[Array, ""], reward: Float[Array, ""], counted: Bool[Array, ""]) -> Forest:
    def on_path(state: tuple[Array, Array, Array, Array]) -> Array:
        return state[0] != Forest.NONE

    def up(state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        node, visits, total, closed = state
        child = tree.children[node]
        exhausted = tree.terminal[node] | (tree.expanded[node] & jnp.all((child == Forest.NONE) | closed[child]))
        return (
            tree.parent[node],
            visits.at[node].add(counted),
            total.at[node].add(jnp.where(counted, reward, 0.0)),
            closed.at[node].set(exhausted),
        )

    start = jnp.where(settles, tree.cursor, Forest.NONE)
    _, visits, total, closed = jax.lax.while_loop(on_path, up, (start, tree.visits, tree.total, tree.closed))
    return replace(
        tree,
        visits=visits,
        total=total,
        closed=closed,
        cursor=jnp.where(settles, 0, tree.cursor),
        rollouts=tree.rollouts + settles,
    )
