"""Where a rollout goes next: UCT over what is open, chance among what was never visited.

A rollout is one walk. While the cursor's node has children it moves to one of them; at a node without children it
stops, and the node is expanded (or, being terminal, settled). The random simulation of the paper is the same walk
going on below the first new node, and the whole of it stays in the tree.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from o1coder_jax.errors import UserError
from search.forest import Forest

SELECTION = 2**31 - 1  # folded into a tree's seed before its rollout; candidates fold in their small numbers instead


@dataclass(frozen=True)
class SelectionConfig:
    """Exploration of UCT.

    Attributes:
      exploration: c in Q/N + c * sqrt(ln N_parent / N).
      schedule: how c goes from its full value to a tenth over the rollouts.
    """

    exploration: float = 2.0
    schedule: Literal["constant", "linear", "exponential"] = "constant"

    def __post_init__(self) -> None:
        if self.exploration < 0:
            raise UserError(f"search.selection.exploration is {self.exploration}; it must not be negative")

    def weight(self, progress: Float[Array, ""]) -> Float[Array, ""]:
        """c when `progress` in [0, 1] of the rollouts are done."""
        decay = {"constant": progress * 0 + 1, "linear": 1 - 0.9 * progress, "exponential": 0.1**progress}
        return self.exploration * decay[self.schedule]


def descend(forest: Forest, which: Bool[Array, " T"], *, config: SelectionConfig, rollouts: int) -> Forest:
    """Moves the chosen cursors down to a node without children."""

    def one(tree: Forest, moves: Bool[Array, ""]) -> Forest:
        walked = _walk(tree, config.weight(tree.rollouts / max(rollouts - 1, 1)))
        return replace(tree, cursor=jnp.where(moves, walked, tree.cursor))

    return jax.vmap(one)(forest, which)


def _walk(tree: Forest, exploration: Float[Array, ""]) -> Int[Array, ""]:
    selection_key = jax.random.fold_in(jax.random.wrap_key_data(tree.seed), SELECTION)
    rollout_key = jax.random.fold_in(selection_key, tree.rollouts)

    def inside(node: Array) -> Array:
        return tree.expanded[node] & ~tree.closed[node]

    def step(node: Array) -> Array:
        chance = jax.random.uniform(jax.random.fold_in(rollout_key, node), tree.children[node].shape)
        return tree.children[node][jnp.argmax(child_scores(tree, node, exploration, chance))]

    return jax.lax.while_loop(inside, step, tree.cursor)


def child_scores(
    tree: Forest, node: Int[Array, ""], exploration: Float[Array, ""], chance: Float[Array, " K"]
) -> Float[Array, " K"]:
    """UCT of each child (Kocsis and Szepesvari 2006); never-visited ones come first in random order.

    Children that are absent or closed get minus infinity.
    """
    child = tree.children[node]
    visits = tree.visits[child].astype(jnp.float32)
    parent_visits = jnp.maximum(tree.visits[node], 1).astype(jnp.float32)
    some = jnp.maximum(visits, 1)
    uct = tree.total[child] / some + exploration * jnp.sqrt(jnp.log(parent_visits) / some)
    open_child = (child != Forest.NONE) & ~tree.closed[child]
    unvisited = open_child & (visits == 0)
    # Not one score with a large bonus: added to a large number, chance would be rounded to few values.
    return jnp.where(jnp.any(unvisited), jnp.where(unvisited, chance, -jnp.inf), jnp.where(open_child, uct, -jnp.inf))
