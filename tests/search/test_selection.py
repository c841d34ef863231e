"""The rules by hand: which child a rollout moves to, and the schedule of sequential halving."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from o1coder_jax.errors import UserError
from o1coder_jax.sampling import fold, seed_for, uniforms
from search.forest import Forest, Growth, empty, grow, plant
from search.rollouts import Orders, Rules, move
from search.selection import (
    SelectionConfig,
    family,
    gumbel_inner,
    gumbel_root,
    halving_table,
    puct,
    uct,
)
from tests.search.oracle import considered

PRIORS = np.log([0.5, 0.3, 0.2])
VALUES = [0.9, 0.6, 0.1]
CHANCE = jnp.array([[0.1, 0.9, 0.5]])


def one_tree(**planes: list[float]) -> Forest:
    """A root with visits 4 and three children: visits 2, 1 and 1, totals 1.0, 0.25 and 0.0."""
    yes, three = np.ones(1, bool), np.ones((1, 3), bool)
    growth = Growth(yes, three, ~three, PRIORS[None].astype(np.float32), np.float32([VALUES]))
    forest = grow(empty(1, 4, 3, 1), growth)
    planes = {"visits": [4, 2, 1, 1], "total": [1.25, 1.0, 0.25, 0.0]} | planes
    return dataclasses.replace(
        forest, **{name: jnp.array([plane], getattr(forest, name).dtype) for name, plane in planes.items()}
    )


def kin_of(forest: Forest, *, use_value: bool = False):
    return family(forest, jnp.zeros(1, jnp.int32), use_value=use_value)


def softmax(logits) -> np.ndarray:
    mass = np.exp(np.asarray(logits) - np.max(logits))
    return mass / mass.sum()


def test_uct_by_hand():
    spread = np.sqrt(np.log(4) / np.array([2, 1, 1]))
    scores = uct(kin_of(one_tree()), jnp.array([2.0]), CHANCE)[0]
    assert scores.tolist() == pytest.approx((np.array([0.5, 0.25, 0.0]) + 2.0 * spread).tolist())


def test_rollouts_that_await_their_verdict_count_as_visits_without_reward():
    forest = one_tree(visits=[4, 2, 1, 1], pending=[3, 2, 1, 0])
    spread = np.sqrt(np.log(7) / np.array([4, 2, 1]))
    scores = uct(kin_of(forest), jnp.array([2.0]), CHANCE)[0]
    assert scores.tolist() == pytest.approx((np.array([0.25, 0.125, 0.0]) + 2.0 * spread).tolist())


def test_unvisited_children_come_first_at_random():
    forest = one_tree(visits=[4, 4, 0, 0], total=[4.0, 4.0, 0.0, 0.0])
    scores = uct(kin_of(forest), jnp.array([0.0]), CHANCE)[0]
    assert scores.tolist() == pytest.approx([-np.inf, 0.9, 0.5])


def test_puct_by_hand():
    scores = puct(kin_of(one_tree()), jnp.array([1.5]))[0]
    expected = np.array([0.5, 0.25, 0.0]) + 1.5 * np.array([0.5, 0.3, 0.2]) * 2 / np.array([3, 2, 2])
    assert scores.tolist() == pytest.approx(expected.tolist())


def test_unvisited_child_has_its_own_value_or_the_mean_of_its_parent():
    forest = one_tree(visits=[4, 3, 1, 0], total=[1.25, 1.0, 0.25, 0.0])
    assert kin_of(forest).mean[0].tolist() == pytest.approx([1 / 3, 0.25, 1.25 / 4])
    assert kin_of(forest, use_value=True).mean[0].tolist() == pytest.approx([1 / 3, 0.25, VALUES[2]])


def test_improved_policy_by_hand():
    config = SelectionConfig(rule="gumbel", visit_weight=3.0, value_scale=2.0)
    policy = softmax(PRIORS + (3 + 2) * 2.0 * np.array([0.5, 0.25, 0.0]))
    scores = gumbel_inner(kin_of(one_tree()), config)[0]
    assert scores.tolist() == pytest.approx((policy - np.array([2, 1, 1]) / 5).tolist(), abs=1e-6)


def test_halving_chooses_among_the_children_whose_turn_it_is():
    """At the fifth of 12 rollouts over three children, children with one visit are due."""
    config = SelectionConfig(rule="gumbel", visit_weight=3.0, value_scale=2.0)
    noise, table = jnp.array([[0.0, 0.5, 2.0]]), jnp.asarray(halving_table(3, 12))
    assert table[3, 4] == 1
    scores = gumbel_root(kin_of(one_tree()), config, noise, table)[0]
    worth = np.array([0.0, 0.5, 2.0]) + PRIORS + 10 * np.array([0.5, 0.25, 0.0])
    assert scores.tolist() == pytest.approx([-np.inf, *worth[1:]], abs=1e-6)


def test_halving_falls_back_to_all_open_children():
    """Where all children that are due are closed."""
    config = SelectionConfig(rule="gumbel")
    table = jnp.asarray(halving_table(3, 12))
    forest = one_tree(closed=[False, False, True, True])
    scores = gumbel_root(kin_of(forest), config, jnp.zeros((1, 3)), table)[0]
    assert np.isfinite(scores).tolist() == [True, False, False]


@pytest.mark.parametrize("rule", ["uct", "puct", "inner", "root"])
def test_closed_child_is_never_chosen(rule):
    kin = kin_of(one_tree(closed=[False, True, False, False]))
    config = SelectionConfig(rule="gumbel")
    scores = {
        "uct": lambda: uct(kin, jnp.array([2.0]), CHANCE),
        "puct": lambda: puct(kin, jnp.array([2.0])),
        "inner": lambda: gumbel_inner(kin, config),
        "root": lambda: gumbel_root(kin, config, jnp.ones((1, 3)), jnp.asarray(halving_table(3, 12))),
    }[rule]()[0]
    assert scores[0] == -np.inf
    assert np.isfinite(scores[1:]).any()


# By hand: ceil(log2 k) phases of budget / (phases * children left) visits each, at least one; children are halved
# down to two, and what is left of the budget goes on with these.
HALVING = {
    (1, 4): [0, 1, 2, 3],
    (2, 6): [0, 0, 1, 1, 2, 2],
    (3, 12): [0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 4, 4],
    (4, 8): [0, 0, 0, 0, 1, 1, 2, 2],
    (4, 16): [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5],
    (8, 10): [0, 0, 0, 0, 0, 0, 0, 0, 1, 1],
    (5, 3): [0, 0, 0],
}


@pytest.mark.parametrize(("children", "budget"), HALVING)
def test_halving_by_hand(children, budget):
    assert halving_table(children, budget)[children].tolist() == HALVING[children, budget]
    assert considered(children, budget) == HALVING[children, budget]


def test_halving_is_that_of_mctx():
    pytest.importorskip("mctx", reason="needs mctx: pip install -e '.[bench]'")
    from mctx._src.seq_halving import get_table_of_considered_visits

    for budget in (1, 2, 7, 16, 50):
        expected = np.array(get_table_of_considered_visits(9, budget))
        np.testing.assert_array_equal(halving_table(9, budget)[1:], expected[1:])


@pytest.mark.parametrize(
    ("schedule", "weights"),
    [("constant", (2.0, 2.0, 2.0)), ("linear", (2.0, 1.1, 0.2)), ("exponential", (2.0, 2 * 0.1**0.5, 0.2))],
)
def test_exploration_falls_to_a_tenth_by_its_schedule(schedule, weights):
    config = SelectionConfig(exploration=2.0, schedule=schedule)
    assert [float(config.weight(jnp.float32(p))) for p in (0.0, 0.5, 1.0)] == pytest.approx(list(weights))


@pytest.mark.parametrize("name", ["exploration", "visit_weight", "value_scale"])
def test_negative_weights_are_refused(name):
    with pytest.raises(UserError, match=f"{name} is -1"):
        SelectionConfig(**{name: -1})


def first_choices(seeds: np.ndarray, rule: str = "uct") -> np.ndarray:
    """Where the first rollout of each tree goes, from a root with four open children."""
    trees = len(seeds)
    yes, four = np.ones(trees, bool), np.ones((trees, 4), bool)
    numbers = np.zeros((trees, 4), np.float32)
    rules = Rules(10, 1, 0.0, SelectionConfig(rule=rule))
    nothing = Growth(~yes, four, four, numbers, numbers)
    forest = plant(empty(trees, 5, 4, 1), jnp.asarray(yes), jnp.asarray(seeds))
    forest = move(forest, Orders(~yes, numbers[:, 0], ~yes, nothing, yes), rules)
    grows = dataclasses.replace(nothing, which=yes)
    return np.asarray(move(forest, Orders(~yes, numbers[:, 0], ~yes, grows, yes), rules).waiting[:, 0])


@pytest.mark.parametrize("rule", ["uct", "gumbel"])
def test_first_choices_are_drawn_evenly(rule):
    """First rollouts of 6,000 trees, by chi-square with 3 degrees of freedom (p = 1e-4)."""
    trees = 6000
    chosen = first_choices(np.asarray(fold(jnp.tile(seed_for(11), (trees, 1)), jnp.arange(trees))), rule)
    counts = np.bincount(chosen, minlength=5)[1:]
    assert counts.sum() == trees
    assert ((counts - trees / 4) ** 2 / (trees / 4)).sum() < 21.1


def test_choice_of_child_does_not_follow_from_what_the_candidates_drew():
    """Where the first candidate's first token was drawn high, the first child is chosen as often as elsewhere."""
    trees = 6000
    seeds = fold(jnp.tile(seed_for(11), (trees, 1)), jnp.arange(trees))
    first_draw = np.asarray(uniforms(fold(seeds, jnp.zeros(trees, jnp.int32)), jnp.zeros(trees, jnp.int32)))
    chosen = first_choices(np.asarray(seeds))[first_draw > 0.8]
    assert abs((chosen == 1).mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / len(chosen))


def test_child_that_could_not_be_checked_keeps_its_turn():
    """After three rollouts, one of them without a verdict, the child that was not visited is due."""
    forest = dataclasses.replace(
        one_tree(visits=[2, 0, 1, 1], total=[0.5, 0.0, 0.5, 0.0]), rollouts=jnp.full(1, 3, jnp.int32)
    )
    table = jnp.asarray(halving_table(3, 12))
    scores = gumbel_root(kin_of(forest), SelectionConfig(rule="gumbel"), jnp.zeros((1, 3)), table)[0]
    assert np.isfinite(scores).tolist() == [True, False, False]
