"""Rollouts on the device: all trees take their moves at once.

A rollout is one walk. From the root it moves to a child for as long as there are any; at a node without children it
stops, the node is expanded, and the walk goes on below (that is the paper's random simulation, all of which stays in
the tree), until it comes to a terminal. Its verdict is asked for, and the next rollout starts at the root as long
as no more than W verdicts are missing: rollout r of those that need one sees exactly the verdicts of the first r - W.
Where the process reward model alone says what a leaf is worth, the walk ends at the first node that it added.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from search.backup import close, pass_through
from search.boltzmann import arms, begin_again, spend
from search.forest import Forest, Growth, grow
from search.selection import (
    SelectionConfig,
    chances,
    family,
    gumbel_inner,
    gumbel_noise,
    gumbel_root,
    halving_table,
    puct,
    uct,
)
from search.widening import ONCE, Widening, due, give_up

_NEXT = -2  # as `leaf`: the node that the walk moves to next is the first that it added


@dataclass(frozen=True)
class Rules:
    """What the moves of a tree depend on; static.

    Attributes:
      rollouts: of a tree.
      window: W.
      value_weight: of the process reward model's opinion in the worth of a leaf, in [0, 1].
      selection, widening: see there.
    """

    rollouts: int
    window: int
    value_weight: float
    selection: SelectionConfig
    widening: Widening = ONCE

    @property
    def simulates(self) -> bool:
        """Whether a walk goes on below the first node that it added."""
        return self.value_weight < 1


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Orders:
    """What the host tells the trees in a turn.

    Attributes:
      settles: (T,), the oldest verdict that is missing has come; `reward` (T,) is its worth, and `counted` (T,)
        False where nothing could be checked.
      growth: candidates that were read.
      starts: (T,), whether further rollouts may start.
    """

    settles: Bool[Any, " T"]
    reward: Float[Any, " T"]
    counted: Bool[Any, " T"]
    growth: Growth
    starts: Bool[Any, " T"]


def move(forest: Forest, orders: Orders, rules: Rules) -> Forest:
    """Attaches children, backs up verdicts, and lets every tree walk until it needs something of the host.

    No tree does both of the first in one turn. In this order each plane is read after it was written, in place; in the
    other XLA keeps copies of `parent` and `value` for the backup.
    """
    which, brought = orders.growth.which, jnp.any(orders.growth.fresh, axis=1)
    first = which & brought & (forest.leaf == Forest.NONE)
    forest = replace(grow(forest, orders.growth), leaf=jnp.where(first, _NEXT, forest.leaf))
    if rules.widening.expansions > 1:
        boltzmann = rules.selection.rule == "boltzmann"
        closing = functools.partial(_close, rules=rules)
        forest = give_up(forest, which, brought, rules.widening, closing, in_vain=not boltzmann)
        if boltzmann:
            forest = begin_again(forest, which & ~brought, orders.starts)
    forest = _settle(forest, orders, rules)

    def body(state: tuple[Forest, Array]) -> tuple[Forest, Array]:
        forest, _ = state
        forest = _start(forest, orders.starts, rules)
        forest = _walk(forest, rules)
        forest, arrived = _arrive(forest, rules)
        return forest, jnp.any(arrived & _can_start(forest, orders.starts, rules))

    return jax.lax.while_loop(lambda state: state[1], body, (forest, jnp.array(True)))[0]


def _close(forest: Forest, which: Bool[Array, " T"], node: Int[Array, " T"], rules: Rules) -> Forest:
    """Closes nodes to which no walk shall come again, and what is exhausted by that."""
    if rules.selection.rule == "boltzmann":
        return spend(forest, which, node, rules.selection, rules.widening.expansions)
    return close(forest, which, node, rules.widening.expansions)


def _can_start(forest: Forest, starts: Bool[Array, " T"], rules: Rules) -> Bool[Array, " T"]:
    room = forest.asked - forest.settled < rules.window
    return starts & ~forest.walking & (forest.rollouts < rules.rollouts) & room & ~forest.closed[:, 0]


def _start(forest: Forest, starts: Bool[Array, " T"], rules: Rules) -> Forest:
    begins = _can_start(forest, starts, rules)
    return replace(
        forest,
        cursor=jnp.where(begins, 0, forest.cursor),
        leaf=jnp.where(begins, Forest.NONE, forest.leaf),
        walking=forest.walking | begins,
    )


def _walk(forest: Forest, rules: Rules) -> Forest:
    config = rules.selection
    tree = forest.trees
    exploration = config.weight(forest.rollouts / max(rules.rollouts - 1, 1))
    if config.rule == "gumbel":
        noise = gumbel_noise(forest)
        table = jnp.asarray(halving_table(forest.children.shape[2], rules.rollouts))

    def moving(cursor: Array, leaf: Array) -> Array:
        inside = forest.walking & (forest.drawn[tree, cursor] > 0) & ~forest.closed[tree, cursor]
        if config.rule == "boltzmann":
            inside = inside & ~_draws_afresh(forest, cursor, leaf, rules)
        elif rules.widening.expansions > 1:
            inside = inside & ~due(forest, cursor, leaf, rules.widening)
        return inside if rules.simulates else inside & ((leaf == Forest.NONE) | (leaf == _NEXT))

    def step(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        cursor, leaf, goes = state
        kin = family(forest, cursor, use_value=rules.value_weight > 0)
        if config.rule == "uct":
            score = uct(kin, exploration, chances(forest, cursor))
        elif config.rule == "puct":
            score = puct(kin, exploration)
        elif config.rule == "boltzmann":
            score = arms(forest, kin, config, rules.widening.expansions).children
        else:
            root = gumbel_root(kin, config, noise, table)
            score = jnp.where((cursor == 0)[:, None], root, gumbel_inner(kin, config))
        if rules.widening.expansions > 1:
            old = jnp.arange(score.shape[1]) < _older(forest, cursor, rules)[:, None]
            score = jnp.where((leaf == _NEXT)[:, None] & old, -jnp.inf, score)
        chosen = jnp.take_along_axis(kin.child, jnp.argmax(score, axis=1)[:, None], axis=1)[:, 0]
        leaf = jnp.where(goes & (leaf == _NEXT), chosen, leaf)
        cursor = jnp.where(goes, chosen, cursor)
        return cursor, leaf, moving(cursor, leaf)

    start = (forest.cursor, forest.leaf, moving(forest.cursor, forest.leaf))
    cursor, leaf, _ = jax.lax.while_loop(lambda state: jnp.any(state[2]), step, start)
    return replace(forest, cursor=cursor, leaf=leaf)


def _draws_afresh(forest: Forest, node: Int[Array, " T"], leaf: Int[Array, " T"], rules: Rules) -> Bool[Array, " T"]:
    """Whether a walk by the boltzmann rule that has added nothing yet stops at this expanded node, to draw there."""
    kin = family(forest, node, use_value=rules.value_weight > 0)
    found = arms(forest, kin, rules.selection, rules.widening.expansions)
    return (leaf == Forest.NONE) & (found.fresh > jnp.max(found.children, axis=1))


def _older(forest: Forest, node: Int[Array, " T"], rules: Rules) -> Int[Array, " T"]:
    """Places of a node's children from all expansions but its last."""
    each = forest.children.shape[2] // rules.widening.expansions
    return (forest.drawn[forest.trees, node] - 1) * each


def _arrive(forest: Forest, rules: Rules) -> tuple[Forest, Bool[Array, " T"]]:
    """Ends the walks that came to a terminal, or to a leaf whose worth is known."""
    tree, node = forest.trees, forest.cursor
    terminal = forest.walking & forest.terminal[tree, node]
    known = terminal & forest.judged[tree, node] if rules.selection.reselect else jnp.zeros_like(terminal)
    asks = terminal & ~known
    arrived = terminal
    slot = (jnp.where(asks, tree, len(tree)), forest.asked % rules.window)
    forest = replace(
        forest,
        waiting=forest.waiting.at[slot].set(node, mode="drop"),
        waiting_leaf=forest.waiting_leaf.at[slot].set(forest.leaf, mode="drop"),
        asked=forest.asked + asks,
    )
    if rules.window > 1:
        forest = pass_through(forest, asks, node, pending=1)
    if rules.selection.reselect:
        # As published: a terminal that is reached again counts a visit there, and its reward above it only.
        again = (jnp.where(known, tree, len(tree)), node)
        forest = replace(forest, visits=forest.visits.at[again].add(1, mode="drop"))
        above = forest.parent[tree, node]
        forest = pass_through(forest, known, above, visits=1, reward=forest.reward[tree, node])
    else:
        forest = _close(forest, asks, node, rules)
    if not rules.simulates:
        valued = forest.walking & ~terminal & (forest.leaf == node)
        forest = pass_through(forest, valued, node, visits=1, reward=forest.value[tree, node])
        arrived = arrived | valued
    entry = (jnp.where(arrived, tree, len(tree)), forest.rollouts)
    forest = replace(
        forest,
        ends=forest.ends.at[entry].set(node, mode="drop"),
        leaves=forest.leaves.at[entry].set(forest.leaf, mode="drop"),
        again=forest.again.at[entry].set(known, mode="drop"),
        walking=forest.walking & ~arrived,
        rollouts=forest.rollouts + arrived,
    )
    return forest, arrived


def _settle(forest: Forest, orders: Orders, rules: Rules) -> Forest:
    """Backs up the verdicts of the oldest rollouts that await one.

    Every node on the path, the terminal included, gets N + 1 and Q + its reward, so value = Q / N holds everywhere.
    What could not be checked adds to neither, and takes its pending visit back.
    """
    tree = forest.trees
    slot = forest.settled % rules.window
    node, leaf = forest.waiting[tree, slot], forest.waiting_leaf[tree, slot]
    counted = orders.counted & orders.settles
    reward = jnp.where(counted, orders.reward, 0.0)
    opinion = forest.value[tree, leaf]
    mixed = (1 - rules.value_weight) * reward + rules.value_weight * opinion
    # A terminal's verdict is its worth; an opinion is only mixed in where a walk went on below its leaf.
    has_leaf = (leaf != Forest.NONE) & (leaf != node) & (rules.value_weight > 0)
    above = jnp.where(has_leaf & counted, mixed, reward)
    forest = pass_through(
        forest,
        orders.settles,
        node,
        visits=counted.astype(jnp.int32),
        pending=-1 if rules.window > 1 else 0,
        reward=above,
        below=jnp.where(has_leaf, leaf, Forest.NONE),
        below_reward=reward,
    )
    at = (jnp.where(orders.settles, tree, len(tree)), node)
    return replace(
        forest,
        reward=forest.reward.at[at].set(reward, mode="drop"),
        judged=forest.judged.at[at].set(counted, mode="drop"),
        settled=forest.settled + orders.settles,
    )
