"""T search trees as arrays, grown in lockstep.

Shapes: T trees, N node places in each, K children of a node at most, C of them from one expansion, R rollouts of a
tree, W of them that may await their verdicts. Node 0 is the root. No operation crosses trees, so a mesh can split T
freely.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Mass:
    """How much of what the policy draws a tree has not reached yet; kept for the boltzmann rule alone.

    Attributes:
      chance: (T, N), the probability of a step where it was drawn.
      left: (T, N), of what the policy draws below a node, the share that no rollout has reached.
      vain: (T,), expansions that brought nothing new.
    """

    chance: Float[Array, "T N"]
    left: Float[Array, "T N"]
    vain: Int[Array, " T"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Forest:
    """The trees.

    Attributes:
      parent: (T, N), NONE for the root and for free places.
      children: (T, N, K), NONE where there is no child.
      visits: (T, N), N of the UCT formula.
      total: (T, N), Q: the sum of the rewards backed up through a node.
      pending: (T, N), rollouts that passed a node and await their verdict: visits without reward (virtual loss).
      prior: (T, N), log-probability of a node among its siblings, as the preset weighs it.
      value: (T, N), the process reward model's opinion in [0, 1].
      reward: (T, N), of a terminal that was judged.
      judged, terminal: (T, N), flags; no child may follow a terminal.
      drawn: (T, N), how often a node was expanded; as often as it may be where the last time was in vain.
      closed: (T, N), nothing new can be learned below: a terminal that was reached, or a node that may not be expanded
        again and all of whose children are closed.
      count: (T,), places in use.
      cursor: (T,), where the running rollout stands; `walking` (T,), whether there is one.
      leaf: (T,), the first node that the running rollout added, NONE before that.
      rollouts: (T,), rollouts that have reached their end.
      asked, settled: (T,), verdicts that were asked for, and those that were backed up.
      waiting, waiting_leaf: (T, W), end and `leaf` of rollout number i of those asked for, at i modulo W.
      ends, leaves, again: (T, R), for each rollout that has reached its end: the node there, its `leaf`, and whether
        it came once more to a terminal that was judged before; NONE, NONE and False for those to come.
      seed: (T, 2), key data; a tree's random choices depend on it alone.
      mass: see there.
    """

    NONE: ClassVar[int] = -1

    parent: Int[Array, "T N"]
    children: Int[Array, "T N K"]
    visits: Int[Array, "T N"]
    total: Float[Array, "T N"]
    pending: Int[Array, "T N"]
    prior: Float[Array, "T N"]
    value: Float[Array, "T N"]
    reward: Float[Array, "T N"]
    judged: Bool[Array, "T N"]
    drawn: Int[Array, "T N"]
    terminal: Bool[Array, "T N"]
    closed: Bool[Array, "T N"]
    count: Int[Array, " T"]
    cursor: Int[Array, " T"]
    walking: Bool[Array, " T"]
    leaf: Int[Array, " T"]
    rollouts: Int[Array, " T"]
    asked: Int[Array, " T"]
    settled: Int[Array, " T"]
    waiting: Int[Array, "T W"]
    waiting_leaf: Int[Array, "T W"]
    ends: Int[Array, "T R"]
    leaves: Int[Array, "T R"]
    again: Bool[Array, "T R"]
    seed: UInt32[Array, "T 2"]
    mass: Mass | None = None

    @property
    def trees(self) -> Int[Array, " T"]:
        """0..T-1, to index with."""
        return jnp.arange(self.parent.shape[0])

    @property
    def places(self) -> int:
        """N: as a node's number, out of range, so that a scatter drops it."""
        return self.parent.shape[1]


def empty(trees: int, nodes: int, width: int, window: int, rollouts: int = 0, *, mass: bool = False) -> Forest:
    """Trees that are only a root. The ends of further than `rollouts` rollouts are not kept."""

    def full(value: float, dtype: type, *shape: int) -> Array:  # buffers that are donated must not be shared
        return jnp.full((trees, *shape), value, dtype)

    return Forest(
        parent=full(Forest.NONE, jnp.int32, nodes),
        children=full(Forest.NONE, jnp.int32, nodes, width),
        visits=full(0, jnp.int32, nodes),
        total=full(0, jnp.float32, nodes),
        pending=full(0, jnp.int32, nodes),
        prior=full(0, jnp.float32, nodes),
        value=full(0, jnp.float32, nodes),
        reward=full(0, jnp.float32, nodes),
        judged=full(False, jnp.bool_, nodes),
        drawn=full(0, jnp.int16, nodes),
        terminal=full(False, jnp.bool_, nodes),
        closed=full(False, jnp.bool_, nodes),
        count=full(1, jnp.int32),
        cursor=full(0, jnp.int32),
        walking=full(False, jnp.bool_),
        leaf=full(Forest.NONE, jnp.int32),
        rollouts=full(0, jnp.int32),
        asked=full(0, jnp.int32),
        settled=full(0, jnp.int32),
        waiting=full(Forest.NONE, jnp.int32, window),
        waiting_leaf=full(Forest.NONE, jnp.int32, window),
        ends=full(Forest.NONE, jnp.int32, rollouts),
        leaves=full(Forest.NONE, jnp.int32, rollouts),
        again=full(False, jnp.bool_, rollouts),
        seed=full(0, jnp.uint32, 2),
        mass=Mass(full(1, jnp.float32, nodes), full(1, jnp.float32, nodes), full(0, jnp.int32)) if mass else None,
    )


def plant(forest: Forest, which: Bool[Array, " T"], seed: UInt32[Array, "T 2"]) -> Forest:
    """Clears the chosen trees down to a root with a new seed."""
    trees, nodes, width = forest.children.shape
    window, rollouts = forest.waiting.shape[1], forest.ends.shape[1]
    fresh = replace(empty(trees, nodes, width, window, rollouts, mass=forest.mass is not None), seed=seed)

    def choose(new: Array, old: Array) -> Array:
        return jnp.where(which.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    return jax.tree.map(choose, fresh, forest)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Growth:
    """Children for the nodes under the cursors.

    Attributes:
      which: (T,), the trees that grow.
      fresh: (T, C), candidates that become children; at least one at a first expansion, and places must be left.
      terminal: (T, C), candidates after which nothing may follow.
      prior, value: (T, C), as in `Forest`; `chance` as in `Mass`, if there is one.
    """

    which: Bool[Any, " T"]
    fresh: Bool[Any, "T C"]
    terminal: Bool[Any, "T C"]
    prior: Float[Any, "T C"]
    value: Float[Any, "T C"]
    chance: Float[Any, "T C"] | None = None


def grow(forest: Forest, new: Growth) -> Forest:
    """Attaches children, numbered on from `count` in the order of the candidates."""
    fresh = new.fresh & new.which[:, None]
    node = jnp.where(fresh, forest.count[:, None] + jnp.cumsum(fresh, axis=1) - 1, Forest.NONE)
    tree = forest.trees
    at = (tree[:, None], jnp.where(fresh, node, forest.places))  # out of range: dropped
    cursor = jnp.where(new.which, forest.cursor, forest.places)
    children = _with_children(forest, cursor, node)

    def put(plane: Array, value: Array) -> Array:
        return plane.at[at].set(value, mode="drop")

    mass = forest.mass
    if mass is not None and new.chance is not None:
        mass = replace(mass, chance=put(mass.chance, new.chance))
    return replace(
        forest,
        parent=put(forest.parent, forest.cursor[:, None]),
        children=children,
        terminal=put(forest.terminal, new.terminal),
        prior=put(forest.prior, new.prior),
        value=put(forest.value, new.value),
        drawn=forest.drawn.at[tree, cursor].add(1, mode="drop"),
        count=forest.count + jnp.sum(fresh, axis=1),
        mass=mass,
    )


def _with_children(forest: Forest, cursor: Int[Array, " T"], node: Int[Array, "T C"]) -> Int[Array, "T N K"]:
    """The children with those of one expansion more; where a node has no more than one, a row is written whole."""
    tree, width = forest.trees, node.shape[1]
    if forest.children.shape[2] == width:
        return forest.children.at[tree, cursor].set(node, mode="drop")
    place = forest.drawn[tree, forest.cursor][:, None] * width + jnp.arange(width)
    return forest.children.at[tree[:, None], cursor[:, None], place].set(node, mode="drop")


def nodes_needed(*, rollouts: int, depth: int, width: int) -> int:
    """Places a tree can use at most: each rollout gives children to at most `depth` nodes."""
    return 1 + rollouts * depth * width
