"""Trees as arrays against the plain algorithm: selection, simulation, backup and closing, with scripted candidates."""

from __future__ import annotations

import dataclasses
import functools
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from o1coder_jax.errors import UserError
from o1coder_jax.sampling import fold, seed_for, uniforms
from search import forest as forests
from search.backup import settle
from search.forest import Forest, empty, grow, nodes_needed, plant
from search.selection import SelectionConfig, child_scores, descend
from tests.search.oracle import Oracle

TREES, WIDTH, DEPTH, ROLLOUTS = 12, 3, 4, 20
NODES = nodes_needed(rollouts=ROLLOUTS, depth=DEPTH, width=WIDTH)
ALL = jnp.ones(TREES, bool)


class Script:
    """What the candidates of one tree are: a function of the node's path of slots, and of the script's number.

    Scripts differ in shape: how often a candidate is terminal, merged away, or could not be checked.
    """

    def __init__(self, number: int):
        rng = random.Random(number)
        self.number = number
        self.terminal = rng.choice([0.0, 0.2, 0.5, 1.0])
        self.merged = rng.choice([0.0, 0.3, 0.9])
        self.unchecked = rng.choice([0.0, 0.0, 0.3, 1.0])
        self.paths: list[tuple[int, ...]] = [()]

    def candidates(self, node: int) -> list[bool | None]:
        path = self.paths[node]
        rng = random.Random(f"{self.number} {path}")
        out: list[bool | None] = []
        for slot in range(WIDTH):
            merged = slot > 0 and rng.random() < self.merged
            out.append(None if merged else len(path) + 1 >= DEPTH or rng.random() < self.terminal)
            if not merged:
                self.paths.append((*path, slot))
        return out

    def reward(self, node: int) -> float | None:
        rng = random.Random(f"{self.number} {self.paths[node]} reward")
        return None if rng.random() < self.unchecked else rng.choice([0.0, 0.1, 0.25, 0.75, 1.0])


@functools.partial(jax.jit, static_argnames=("config",))
def turn(forest, settles, reward, counted, grows, fresh, terminal, *, config):
    forest = settle(forest, settles, reward, counted)
    forest, child = grow(forest, grows, fresh, terminal)
    return descend(forest, settles | grows, config=config, rollouts=ROLLOUTS), child


def grow_forest(config: SelectionConfig) -> tuple[Forest, list[Script]]:
    """Runs all scripts to their end in lockstep, as the search does, but without a model."""
    scripts = [Script(number) for number in range(TREES)]
    seeds = fold(jnp.tile(seed_for(7), (TREES, 1)), jnp.arange(TREES))
    forest = plant(empty(TREES, NODES, WIDTH), ALL, seeds)
    while True:
        cursor, terminal, rollouts, closed = jax.device_get(
            (forest.cursor, forest.terminal, forest.rollouts, forest.closed)
        )
        orders = [np.zeros(TREES, bool), np.zeros(TREES, np.float32), np.zeros(TREES, bool), np.zeros(TREES, bool)]
        fresh, ends = np.zeros((TREES, WIDTH), bool), np.zeros((TREES, WIDTH), bool)
        for t, script in enumerate(scripts):
            if rollouts[t] >= ROLLOUTS or closed[t, 0]:
                continue
            node = int(cursor[t])
            if terminal[t, node]:
                reward = script.reward(node)
                orders[0][t], orders[1][t], orders[2][t] = True, reward or 0.0, reward is not None
            else:
                drawn = script.candidates(node)
                orders[3][t] = True
                fresh[t], ends[t] = [d is not None for d in drawn], [bool(d) for d in drawn]
        if not (orders[0] | orders[3]).any():
            return forest, scripts
        forest, _ = turn(forest, *orders, fresh, ends, config=config)


CONFIGS = [
    SelectionConfig(exploration=2.0),
    SelectionConfig(exploration=0.4, schedule="linear"),
    SelectionConfig(exploration=1.0, schedule="exponential"),
    SelectionConfig(exploration=0.0),
]


@pytest.fixture(scope="module", params=CONFIGS, ids=lambda config: f"{config.schedule}-{config.exploration}")
def pair(request) -> tuple[Forest, list[Oracle]]:
    """The arrays (on the host) and the oracle's trees."""
    forest, scripts = grow_forest(request.param)
    oracles = []
    for t in range(TREES):
        script = Script(t)
        oracles.append(
            Oracle(np.asarray(forest.seed[t]), ROLLOUTS, request.param, script.candidates, script.reward).grow()
        )
        assert script.paths == scripts[t].paths
    return jax.device_get(forest), oracles


def test_trees_have_the_oracles_nodes(pair):
    forest, oracles = pair
    for t, oracle in enumerate(oracles):
        count = len(oracle.nodes)
        assert forest.count[t] == count
        assert forest.parent[t, :count].tolist() == [node.parent for node in oracle.nodes]
        assert forest.terminal[t, :count].tolist() == [node.terminal for node in oracle.nodes]


def test_children_stand_in_the_slots_of_their_candidates(pair):
    forest, oracles = pair
    for t, oracle in enumerate(oracles):
        for i, node in enumerate(oracle.nodes):
            slots = node.slots or [None] * WIDTH
            assert forest.children[t, i].tolist() == [Forest.NONE if s is None else s for s in slots]


def test_visits_are_the_oracles(pair):
    forest, oracles = pair
    for t, oracle in enumerate(oracles):
        assert forest.visits[t, : len(oracle.nodes)].tolist() == [node.visits for node in oracle.nodes]


def test_rewards_are_the_oracles(pair):
    forest, oracles = pair
    for t, oracle in enumerate(oracles):
        expected = [node.total for node in oracle.nodes]
        np.testing.assert_allclose(forest.total[t, : len(expected)], expected, atol=1e-5)


def test_closed_nodes_are_the_oracles(pair):
    forest, oracles = pair
    for t, oracle in enumerate(oracles):
        assert forest.closed[t, : len(oracle.nodes)].tolist() == [node.closed for node in oracle.nodes]


def test_rollouts_are_the_oracles(pair):
    forest, oracles = pair
    assert forest.rollouts.tolist() == [oracle.done for oracle in oracles]


def test_scripts_cover_every_case(pair):
    """Full trees and exhausted ones, merged candidates, unchecked terminals, and paths of every length."""
    _, oracles = pair
    nodes = [node for oracle in oracles for node in oracle.nodes]
    assert {oracle.nodes[0].closed for oracle in oracles} == {True, False}
    assert any(None in node.slots for node in nodes)
    assert any(node.terminal and node.closed and not node.visits for node in nodes)
    assert {len(walk) for oracle in oracles for walk in oracle.walks} == {2, 3, 4, 5}


def test_no_terminal_is_visited_twice(pair):
    forest, _ = pair
    assert forest.visits[forest.terminal].max() == 1


def test_unused_places_stay_empty(pair):
    forest, oracles = pair
    for t, oracle in enumerate(oracles):
        rest = slice(len(oracle.nodes), None)
        assert not forest.visits[t, rest].any()
        assert not forest.terminal[t, rest].any()
        assert (forest.parent[t, rest] == Forest.NONE).all()


def test_depth_counts_steps_from_the_root(pair):
    forest, oracles = pair
    for t, oracle in enumerate(oracles):
        for i, node in enumerate(oracle.nodes[1:], 1):
            assert forest.depth[t, i] == forest.depth[t, node.parent] + 1


def first_choices(seeds: jax.Array) -> np.ndarray:
    """Where the first rollout of each tree goes, from a root with four open children."""
    trees = len(seeds)
    all_of = jnp.ones(trees, bool)
    forest = plant(empty(trees, 5, 4), all_of, seeds)
    forest, _ = grow(forest, all_of, jnp.ones((trees, 4), bool), jnp.ones((trees, 4), bool))
    return np.asarray(descend(forest, all_of, config=SelectionConfig(), rollouts=10).cursor)


def test_unvisited_children_are_drawn_evenly():
    """First rollouts of 6,000 trees, by chi-square with 3 degrees of freedom (p = 1e-4)."""
    trees = 6000
    chosen = first_choices(fold(jnp.tile(seed_for(11), (trees, 1)), jnp.arange(trees)))
    counts = np.bincount(chosen, minlength=5)[1:]
    assert ((counts - trees / 4) ** 2 / (trees / 4)).sum() < 21.1


def test_choice_of_child_does_not_follow_from_what_the_candidates_drew():
    """Where the first candidate's first token was drawn high, the first child is chosen as often as elsewhere."""
    trees = 6000
    seeds = fold(jnp.tile(seed_for(11), (trees, 1)), jnp.arange(trees))
    first_draw = np.asarray(uniforms(fold(seeds, jnp.zeros(trees, jnp.int32)), jnp.zeros(trees, jnp.int32)))
    chosen = first_choices(seeds)[first_draw > 0.8]
    assert abs((chosen == 1).mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / len(chosen))


def one_tree() -> Forest:
    """A root with visits 4 and three children: visits 2, 1 and 1, totals 1.0, 0.25 and 0.0."""
    forest = empty(1, 4, 3)
    forest, _ = grow(forest, jnp.ones(1, bool), jnp.ones((1, 3), bool), jnp.zeros((1, 3), bool))
    return dataclasses.replace(
        forest, visits=jnp.array([[4, 2, 1, 1]]), total=jnp.array([[1.25, 1.0, 0.25, 0.0]], jnp.float32)
    )


def scores(forest: Forest, exploration: float) -> list[float]:
    tree = jax.tree.map(lambda leaf: leaf[0], forest)
    chance = jnp.array([0.1, 0.9, 0.5])
    return child_scores(tree, jnp.array(0), jnp.array(exploration), chance).tolist()


def test_uct_by_hand():
    spread = np.sqrt(np.log(4) / np.array([2, 1, 1]))
    assert scores(one_tree(), 2.0) == pytest.approx((np.array([0.5, 0.25, 0.0]) + 2.0 * spread).tolist())


def test_closed_child_is_never_chosen():
    forest = dataclasses.replace(one_tree(), closed=jnp.array([[False, True, False, False]]))
    assert scores(forest, 2.0)[0] == -np.inf


def test_unvisited_child_comes_before_the_best():
    forest = dataclasses.replace(one_tree(), visits=jnp.array([[4, 2, 0, 0]]))
    ranked = np.argsort(scores(forest, 100.0))[::-1].tolist()
    assert ranked[:2] == [1, 2]


@pytest.mark.parametrize(
    ("schedule", "weights"),
    [("constant", (2.0, 2.0, 2.0)), ("linear", (2.0, 1.1, 0.2)), ("exponential", (2.0, 2 * 0.1**0.5, 0.2))],
)
def test_exploration_falls_to_a_tenth_by_its_schedule(schedule, weights):
    config = SelectionConfig(exploration=2.0, schedule=schedule)
    assert [float(config.weight(jnp.float32(p))) for p in (0.0, 0.5, 1.0)] == pytest.approx(list(weights))


def test_negative_exploration_is_refused():
    with pytest.raises(UserError, match="exploration is -1"):
        SelectionConfig(exploration=-1)


def test_trees_that_are_not_chosen_stay_as_they_are():
    forest, _ = grow_forest(CONFIGS[1])
    none = jnp.zeros(TREES, bool)
    kept, _ = turn(
        forest, none, jnp.ones(TREES), ~none, none, jnp.ones((TREES, WIDTH), bool), jnp.ones((TREES, WIDTH), bool),
        config=CONFIGS[1],
    )  # fmt: skip
    jax.tree.map(np.testing.assert_array_equal, kept, forest)


def test_planting_clears_the_chosen_trees_only():
    forest, _ = grow_forest(CONFIGS[1])
    which = jnp.arange(TREES) % 2 == 0
    planted = plant(forest, which, forest.seed + 1)
    fresh = dataclasses.replace(empty(TREES, NODES, WIDTH), seed=forest.seed + 1)
    for t in range(TREES):
        expected = fresh if t % 2 == 0 else forest
        jax.tree.map(lambda a, b, t=t: np.testing.assert_array_equal(a[t], b[t]), planted, expected)


def test_needed_nodes_bound_the_worst_tree():
    """Nothing is terminal before the depth limit, so that every rollout expands as much as it can."""
    assert forests.nodes_needed(rollouts=1, depth=2, width=3) == 7
    oracle = Oracle(np.zeros(2, np.uint32), ROLLOUTS, CONFIGS[3], lambda node: [False] * WIDTH, lambda node: 0.0)
    depth = [0]

    def expand(node: int) -> list[bool | None]:
        depth.extend([depth[node] + 1] * WIDTH)
        return [depth[node] + 1 >= DEPTH] * WIDTH

    oracle.expand = expand
    assert len(oracle.grow().nodes) <= NODES
