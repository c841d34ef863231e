"""T search trees as arrays, grown in lockstep.

Shapes: T trees, N node places in each, K children of a node at most. Node 0 is the root. Everything here works on
one tree and is mapped over T by `jax.vmap`, so no operation crosses trees and a mesh can shard T freely.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Forest:
    """The trees.

    Attributes:
      parent: (T, N), NONE for the root and for free places.
      children: (T, N, K), NONE where there is no child.
      visits: (T, N), N of the UCT formula.
      total: (T, N), Q: the sum of the rewards backed up through a node.
      depth: (T, N), steps from the root.
      expanded: (T, N), children were generated.
      terminal: (T, N), no child may follow.
      closed: (T, N), nothing new can be learned below: a visited terminal, or a node with closed children only.
      count: (T,), places in use.
      cursor: (T,), where the running rollout stands.
      rollouts: (T,), rollouts that are finished.
      seed: (T, 2), key data; a tree's random choices depend on it alone.
    """

    NONE: ClassVar[int] = -1

    parent: Int[Array, "T N"]
    children: Int[Array, "T N K"]
    visits: Int[Array, "T N"]
    total: Float[Array, "T N"]
    depth: Int[Array, "T N"]
    expanded: Bool[Array, "T N"]
    terminal: Bool[Array, "T N"]
    closed: Bool[Array, "T N"]
    count: Int[Array, " T"]
    cursor: Int[Array, " T"]
    rollouts: Int[Array, " T"]
    seed: UInt32[Array, "T 2"]


def empty(trees: int, nodes: int, width: int) -> Forest:
    """Trees that are only a root."""
    plane = (trees, nodes)
    return Forest(
        parent=jnp.full(plane, Forest.NONE, jnp.int32),
        children=jnp.full((*plane, width), Forest.NONE, jnp.int32),
        visits=jnp.zeros(plane, jnp.int32),
        total=jnp.zeros(plane, jnp.float32),
        depth=jnp.zeros(plane, jnp.int32),
        expanded=jnp.zeros(plane, bool),
        terminal=jnp.zeros(plane, bool),
        closed=jnp.zeros(plane, bool),
        count=jnp.ones(trees, jnp.int32),
        cursor=jnp.zeros(trees, jnp.int32),
        rollouts=jnp.zeros(trees, jnp.int32),
        seed=jnp.zeros((trees, 2), jnp.uint32),
    )


def plant(forest: Forest, which: Bool[Array, " T"], seed: UInt32[Array, "T 2"]) -> Forest:
    """Clears the chosen trees down to a root with a new seed."""
    trees, nodes, width = forest.children.shape
    fresh = replace(empty(trees, nodes, width), seed=seed)

    def choose(new: Array, old: Array) -> Array:
        return jnp.where(which.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    return jax.tree.map(choose, fresh, forest)


def grow(
    forest: Forest, which: Bool[Array, " T"], fresh: Bool[Array, "T K"], terminal: Bool[Array, "T K"]
) -> tuple[Forest, Int[Array, "T K"]]:
    """Gives the node under each chosen cursor its children.

    Args:
      which: the trees that grow.
      fresh: candidates that become children; at least one in a growing tree, and places must be left.
      terminal: candidates after which nothing may follow.

    Returns:
      The forest, and each candidate's node (NONE where it is not fresh): numbered in candidate order.
    """
    fresh = fresh & which[:, None]
    return jax.vmap(_grow_one)(forest, which, fresh, terminal)


def _grow_one(
    tree: Forest, grows: Bool[Array, ""], fresh: Bool[Array, " K"], terminal: Bool[Array, " K"]
) -> tuple[Forest, Int[Array, " K"]]:
    places = tree.parent.shape[0]
    node = jnp.where(fresh, tree.count + jnp.cumsum(fresh) - 1, Forest.NONE)
    at = jnp.where(fresh, node, places)  # out of range: dropped
    cursor = tree.cursor
    grown = replace(
        tree,
        parent=tree.parent.at[at].set(cursor, mode="drop"),
        children=tree.children.at[cursor].set(jnp.where(grows, node, tree.children[cursor])),
        depth=tree.depth.at[at].set(tree.depth[cursor] + 1, mode="drop"),
        terminal=tree.terminal.at[at].set(terminal, mode="drop"),
        expanded=tree.expanded.at[cursor].set(tree.expanded[cursor] | grows),
        count=tree.count + jnp.sum(fresh),
    )
    return grown, node


def nodes_needed(*, rollouts: int, depth: int, width: int) -> int:
    """Places a tree can use at most: each rollout expands at most `depth` nodes."""
    return 1 + rollouts * depth * width
