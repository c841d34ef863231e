"""Progressive widening: a node is expanded again as it is visited more, or when all below it is known.

A node that N rollouts passed may have been expanded 1 + c sqrt(N) times (Couetoux et al. 2011), and once more whenever
all its children are exhausted; never more often than `expansions`, and not again after an expansion that brought only
steps that were there already while nothing else is open below. So a search that knows all of what it has drawn goes
on drawing instead of ending, and spends its tokens where they bring something new.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from search.forest import Forest


@dataclass(frozen=True)
class Widening:
    """How often a node may be expanded: `expansions` times at most, and by its visits with `weight` c."""

    expansions: int = 1
    weight: float = 0.0


ONCE = Widening()


def spent(forest: Forest, node: Int[Array, " T"]) -> Bool[Array, " T"]:
    """Whether all children of a node are closed."""
    child = forest.children[forest.trees, node]
    return jnp.all((child == Forest.NONE) | forest.closed[forest.trees[:, None], child], axis=1)


def due(forest: Forest, node: Int[Array, " T"], leaf: Int[Array, " T"], widening: Widening) -> Bool[Array, " T"]:
    """Whether a walk that has added nothing yet stops at this expanded node, for it to be expanded again."""
    number = forest.drawn[forest.trees, node]
    passed = (forest.visits + forest.pending)[forest.trees, node]
    wanted = spent(forest, node) | (number < 1 + widening.weight * jnp.sqrt(passed))
    return (leaf == Forest.NONE) & (number < widening.expansions) & wanted


Closing = Callable[[Forest, Bool[Array, " T"], Int[Array, " T"]], Forest]
"""Closes nodes (T,) of the chosen trees (T,), and what is exhausted by that."""


def give_up(
    forest: Forest,
    grew: Bool[Array, " T"],
    brought: Bool[Array, " T"],
    widening: Widening,
    closing: Closing,
    *,
    in_vain: bool = True,
) -> Forest:
    """Closes nodes that were expanded in vain, with what is exhausted by that; their walks begin again at the root.

    Args:
      grew: trees whose cursor's node was expanded; `brought` where that gave it a new child.
      in_vain: one expansion in vain is enough, where all else is known; otherwise the last that is allowed.
    """
    tree, cursor = forest.trees, forest.cursor
    done = grew & spent(forest, cursor)
    if in_vain:
        vain = jnp.where(done & ~brought, cursor, forest.places)
        forest = replace(forest, drawn=forest.drawn.at[tree, vain].set(widening.expansions, mode="drop"))
    forest = closing(forest, done & (forest.drawn[tree, cursor] >= widening.expansions), cursor)
    lost = forest.walking & forest.closed[tree, cursor] & ~forest.terminal[tree, cursor]
    return replace(
        forest,
        cursor=jnp.where(lost, 0, cursor),
        leaf=jnp.where(lost, Forest.NONE, forest.leaf),
        walking=forest.walking & ~(lost & forest.closed[:, 0]),
    )
