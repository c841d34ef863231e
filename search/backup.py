"""What a rollout leaves behind: visits, rewards, and closed subtrees."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from search.forest import Forest


def pass_through(
    forest: Forest,
    which: Bool[Array, " T"],
    node: Int[Array, " T"],
    *,
    visits: Int[Array, " T"] | int = 0,
    pending: Int[Array, " T"] | int = 0,
    reward: Float[Array, " T"] | float = 0.0,
    below: Int[Array, " T"] | None = None,
    below_reward: Float[Array, " T"] | float = 0.0,
) -> Forest:
    """Adds to every node from `node` up to the root.

    With `below`, nodes under it get `below_reward`; it and those above get `reward`. A plane whose amount is the number
    0 is not touched.
    """
    tree = forest.trees
    amounts = {"visits": visits, "pending": pending, "total": reward}
    amounts = {name: amount for name, amount in amounts.items() if not isinstance(amount, int | float) or amount}
    inner = jnp.zeros(len(tree), bool) if below is None else below != Forest.NONE

    def climbing(state: tuple[Array, Array, dict[str, Array]]) -> Array:
        return jnp.any(state[0] != Forest.NONE)

    def climb(state: tuple[Array, Array, dict[str, Array]]) -> tuple[Array, Array, dict[str, Array]]:
        node, under, planes = state
        at = (tree, jnp.where(node == Forest.NONE, forest.places, node))
        added = dict(amounts)
        if below is not None:
            under = under & (node != below)
            added["total"] = jnp.where(under, below_reward, reward)
        planes = {name: plane.at[at].add(added[name], mode="drop") for name, plane in planes.items()}
        up = jnp.where(node == Forest.NONE, Forest.NONE, forest.parent[tree, node])
        return up, under, planes

    start = jnp.where(which, node, Forest.NONE)
    planes = {name: getattr(forest, name) for name in amounts}
    return replace(forest, **jax.lax.while_loop(climbing, climb, (start, inner, planes))[2])


def close(forest: Forest, which: Bool[Array, " T"], node: Int[Array, " T"], expansions: int) -> Forest:
    """Closes nodes, and every ancestor whose children are all closed by that and that was expanded `expansions` times.

    Selection never comes back to an exhausted subtree.
    """
    tree = forest.trees

    def climbing(state: tuple[Array, Array]) -> Array:
        return jnp.any(state[0] != Forest.NONE)

    def climb(state: tuple[Array, Array]) -> tuple[Array, Array]:
        node, closed = state
        closed = closed.at[tree, jnp.where(node == Forest.NONE, forest.places, node)].set(True, mode="drop")
        up = jnp.where(node == Forest.NONE, Forest.NONE, forest.parent[tree, node])
        child = forest.children[tree, up]
        exhausted = jnp.all((child == Forest.NONE) | closed[tree[:, None], child], axis=1)
        exhausted = exhausted & (forest.drawn[tree, up] >= expansions)
        return jnp.where(exhausted, up, Forest.NONE), closed

    start = jnp.where(which, node, Forest.NONE)
    _, closed = jax.lax.while_loop(climbing, climb, (start, forest.closed))
    return replace(forest, closed=closed)
