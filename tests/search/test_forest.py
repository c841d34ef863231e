"""Trees as arrays against the plain algorithm: selection, simulation, backup and closing, with scripted candidates."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from search import forest as forests
from search.config import SearchConfig
from search.forest import Forest, Growth, empty, plant
from search.rollouts import Orders
from search.selection import SelectionConfig
from search.widening import Widening
from tests.search.oracle import Candidate, Oracle
from tests.search.scripted_forest import Case, Host, Script, grow_forest, turn

CASES = [
    Case(SelectionConfig(), trees=12),
    Case(SelectionConfig(exploration=0.4, schedule="linear"), window=2, width=5, depth=3, rollouts=24),
    Case(SelectionConfig(exploration=1.0, schedule="exponential"), window=4, width=2, depth=6),
    Case(SelectionConfig(exploration=0.0), width=1, depth=3, rollouts=2, trees=16),
    Case(SelectionConfig(), window=2, value_weight=0.5),
    Case(SelectionConfig(schedule="linear"), window=4, value_weight=1.0),
    Case(SelectionConfig(rule="puct", exploration=1.25)),
    Case(SelectionConfig(rule="puct", exploration=1.25), window=4, value_weight=0.5, width=8, depth=3, rollouts=30),
    Case(SelectionConfig(rule="puct", exploration=0.5), window=2, value_weight=1.0, depth=5),
    Case(SelectionConfig(rule="gumbel", exploration=1.25)),
    Case(SelectionConfig(rule="gumbel"), window=4, value_weight=0.5, width=8, depth=3, rollouts=30),
    Case(SelectionConfig(rule="gumbel", visit_weight=5.0, value_scale=1.0), window=2, value_weight=1.0),
    Case(SelectionConfig(), widening=Widening(4)),
    Case(SelectionConfig(exploration=0.5), window=2, width=1, depth=3, rollouts=30, widening=Widening(8, 2.0)),
    Case(SelectionConfig(rule="puct", exploration=0.5), window=4, value_weight=0.5, width=2, widening=Widening(5, 0.7)),
    Case(SelectionConfig(rule="puct"), value_weight=1.0, width=2, depth=3, widening=Widening(3, 1.0)),
    Case(SelectionConfig(rule="boltzmann"), width=1, rollouts=30, trees=16, widening=Widening(16)),
    Case(SelectionConfig(rule="boltzmann", sharpness=0.0), window=4, value_weight=0.5, widening=Widening(4)),
    Case(SelectionConfig(rule="boltzmann", exhausted=0.0), window=2, width=2, value_weight=1.0, widening=Widening(5)),
    Case(SelectionConfig(reselect=True)),
    Case(SelectionConfig(reselect=True, rule="puct"), window=4, value_weight=0.5, depth=3),
    Case(SelectionConfig(reselect=True, rule="gumbel"), window=2, value_weight=1.0, depth=3),
]  # fmt: skip


@dataclasses.dataclass
class Grown:
    case: Case
    numbers: list[int]
    forest: Forest
    hosts: list[Host]
    oracles: list[Oracle]


@pytest.fixture(scope="module", params=CASES, ids=str)
def grown(request) -> Grown:
    """The arrays (on the host) and the oracle's trees, with candidates and verdicts that come at once."""
    case = request.param
    numbers = list(range(case.trees))
    forest, hosts = grow_forest(case, numbers)
    seeds = case.seeds(numbers)
    return Grown(case, numbers, forest, hosts, [Script(n, case).oracle(seeds[n]) for n in numbers])


def same_tree(forest: Forest, t: int, oracle: Oracle) -> None:
    """Asserts that a tree is the oracle's: node by node, its rollouts, and nothing in the places beyond."""
    nodes, width = oracle.nodes, forest.children.shape[2]
    count = len(nodes)
    assert forest.count[t] == count
    assert (forest.drawn[t, :count] > 0).tolist() == [node.expanded for node in nodes]
    for name in ("parent", "terminal", "visits", "total", "closed", "pending", "reward", "judged"):
        assert getattr(forest, name)[t, :count].tolist() == [getattr(node, name) for node in nodes], name
    slots = [[Forest.NONE if s is None else s for s in node.slots] for node in nodes]
    slots = [row + [Forest.NONE] * (width - len(row)) for row in slots]
    assert forest.children[t, :count].tolist() == slots
    assert (forest.rollouts[t], forest.asked[t]) == (oracle.done, len(oracle.asked))
    assert (forest.parent[t, count:] == Forest.NONE).all()
    for name in ("visits", "total", "pending", "terminal", "closed", "drawn"):
        assert not getattr(forest, name)[t, count:].any()


def test_trees_are_the_oracles_node_by_node(grown):
    for t, oracle in enumerate(grown.oracles):
        same_tree(grown.forest, t, oracle)
        assert grown.hosts[t].asked == oracle.asked


@pytest.mark.parametrize("late", [1, 2])
def test_neither_late_verdicts_nor_other_places_change_a_tree(grown, late):
    """Candidates and verdicts come turns later and in any order, and the trees stand in each other's places."""
    order = np.random.default_rng(late).permutation(grown.numbers).tolist()
    forest, hosts = grow_forest(grown.case, order, late=late)
    for t, number in enumerate(order):
        same_tree(forest, t, grown.oracles[number])
        assert hosts[t].asked == grown.oracles[number].asked


@pytest.mark.parametrize("case", [CASES[2], CASES[10]], ids=str)
def test_tree_alone_is_the_tree_in_company(case):
    for number in range(case.trees):
        forest, _ = grow_forest(case, [number])
        same_tree(forest, 0, Script(number, case).oracle(case.seeds([number])[0]))


@pytest.mark.parametrize("preset", ["own", "paper", "o1coder", "puct", "gumbel", "boltzmann"])
def test_every_preset_is_among_the_cases(preset):
    rules = SearchConfig(preset=preset).resolved().rules
    assert (rules.selection, rules.window, rules.value_weight) in [
        (case.selection, case.window, case.value_weight) for case in CASES
    ]


def test_no_terminal_is_reached_twice_unless_asked_for(grown):
    for host in grown.hosts:
        if not grown.case.selection.reselect:
            assert len(set(host.asked)) == len(host.asked)
    if not grown.case.selection.reselect:
        assert grown.forest.visits[grown.forest.terminal].max() == 1
    else:
        assert grown.forest.visits[grown.forest.terminal].max() > 1


def test_nothing_is_pending_in_the_end(grown):
    assert not grown.forest.pending.any()
    assert (grown.forest.asked == grown.forest.settled).all()


VERDICTS_ALONE = [case for case in CASES if not (case.value_weight or case.selection.reselect)]


@pytest.mark.parametrize("grown", VERDICTS_ALONE, indirect=True, ids=str)
def test_what_could_not_be_checked_leaves_no_trace(grown):
    """Visits and totals are sums over the checked terminals below, each once: nothing else counts in these cases."""
    unchecked = 0
    for t, (host, oracle) in enumerate(zip(grown.hosts, grown.oracles, strict=True)):
        rewards = {node: host.script.reward(node) for node in host.asked}
        unchecked += sum(reward is None for reward in rewards.values())
        for number in range(len(oracle.nodes)):
            below = [r for node, r in rewards.items() if r is not None and number in oracle.path(node)]
            assert grown.forest.visits[t, number] == len(below)
            assert grown.forest.total[t, number] == sum(below)
    assert unchecked


def test_the_scripts_cover_every_ending(grown):
    """Full trees, exhausted ones, and such as were stopped; merged candidates; otherwise the rest would say little."""
    rollouts, closed = grown.forest.rollouts, grown.forest.closed[:, 0]
    full = rollouts == grown.case.rollouts
    stopped = ~full & ~closed
    several = grown.case.width * grown.case.widening.expansions > 1
    assert not several or (full.any() and stopped.any())  # with one child there is one path
    assert closed.any() != grown.case.selection.reselect
    merged = any(None in node.slots for oracle in grown.oracles for node in oracle.nodes)
    assert merged == several


def test_trees_without_orders_stay_as_they_are():
    case = CASES[0]
    forest, _ = grow_forest(case, list(range(case.trees)))
    no, many = np.zeros(case.trees, bool), (case.trees, case.width)
    some, numbers = np.ones(many, bool), np.ones(many, np.float32)
    orders = Orders(no, np.ones(case.trees, np.float32), ~no, Growth(no, some, some, numbers, numbers), no)
    kept = turn(jax.tree.map(jnp.array, forest), orders, rules=case.rules)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(kept), forest)


def test_planting_clears_the_chosen_trees_only():
    case = CASES[0]
    forest, _ = grow_forest(case, list(range(case.trees)))
    which = np.arange(case.trees) % 2 == 0
    planted = plant(jax.tree.map(jnp.array, forest), jnp.asarray(which), jnp.asarray(forest.seed + 1))
    fresh = dataclasses.replace(empty(case.trees, case.nodes, case.width, case.window), seed=forest.seed + 1)
    for t in range(case.trees):
        expected = fresh if which[t] else forest
        jax.tree.map(lambda a, b, t=t: np.testing.assert_array_equal(a[t], b[t]), planted, expected)


def test_needed_nodes_bound_the_worst_tree():
    """Nothing is terminal before the depth limit, so that every rollout expands as much as it can."""
    assert forests.nodes_needed(rollouts=1, depth=2, width=3) == 7
    case, depth = CASES[0], [0]

    def expand(node: int) -> list[Candidate]:
        depth.extend([depth[node] + 1] * case.width)
        return [Candidate(depth[node] + 1 >= case.depth)] * case.width

    oracle = Oracle(np.zeros(2, np.uint32), case.rollouts, case.selection, expand, lambda node: 0.0)
    assert len(oracle.grow().nodes) <= case.nodes
