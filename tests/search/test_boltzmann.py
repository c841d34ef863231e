"""The boltzmann rule on policies that are written down: what it draws, what it costs, and which settings it refuses."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from o1coder_jax.errors import UserError
from o1coder_jax.sampling import SamplingConfig, fold, seed_for
from search.config import SearchConfig
from search.forest import Forest, Growth, empty, nodes_needed, plant
from search.rollouts import Orders, Rules
from search.selection import SelectionConfig
from search.waves import _finite
from search.widening import Widening
from tests.search.scripted_forest import turn

Path = tuple[int, ...]
Policy = Mapping[Path, list[float]]
"""The probabilities of what follows a path; a path that is none of the keys is an end."""

DRAWS = 16


@dataclass
class Drawn:
    """Of each tree: the ends in the order they were reached, and the paths of the nodes that were drawn at."""

    ends: list[list[Path]]
    at: list[list[Path]]


def grow(policy: Policy, trees: int, rollouts: int, reward: Callable[[Path], float], sharpness: float) -> Drawn:
    """Grows trees whose candidates are drawn from `policy`, one at a time."""
    depth = 1 + max(map(len, policy))
    rules = Rules(rollouts, 1, 0.0, SelectionConfig(rule="boltzmann", sharpness=sharpness), Widening(DRAWS))
    forest = empty(trees, nodes_needed(rollouts=rollouts, depth=depth, width=1), DRAWS, 1, rollouts, mass=True)
    seeds = fold(jnp.tile(seed_for(3), (trees, 1)), jnp.arange(trees))
    forest = plant(forest, jnp.ones(trees, bool), seeds)
    rng = np.random.default_rng(0)
    paths: list[list[Path]] = [[()] for _ in range(trees)]
    drawn = Drawn([[] for _ in range(trees)], [[] for _ in range(trees)])
    seen: Forest = jax.device_get(forest)
    for _ in range(DRAWS * len(policy) * rollouts):
        settles = (seen.asked > seen.settled) & ~seen.walking
        which = seen.walking.copy()
        worth = np.array([reward(ends[-1]) if ends else 0.0 for ends in drawn.ends], np.float32)
        fresh, terminal = np.zeros((2, trees, 1), bool)
        nothing, chance = np.zeros((2, trees, 1), np.float32)
        for t in np.flatnonzero(which):
            path = paths[t][seen.cursor[t]]
            drawn.at[t].append(path)
            step = int(rng.choice(len(policy[path]), p=policy[path]))
            new = (*path, step)
            if new not in paths[t]:
                paths[t].append(new)
                fresh[t], terminal[t], chance[t] = True, new not in policy, policy[path][step]
        growth = Growth(which, fresh, terminal, nothing, nothing, chance)
        forest = turn(forest, Orders(settles, worth, settles, growth, np.ones(trees, bool)), rules=rules)
        before, seen = seen, jax.device_get(forest)
        for t in np.flatnonzero(seen.asked > before.asked):
            drawn.ends[t].append(paths[t][seen.waiting[t, 0]])
        if not (seen.walking.any() or (seen.asked > seen.settled).any()):
            return drawn
    raise AssertionError("some tree does not come to an end")


def nothing(path: Path) -> float:
    return 0.0


# Ten ends of 0.1 under one step of 0.7, and an end of 0.3.
BUSH: Policy = {(): [0.7, 0.3], (0,): [0.1] * 10}


@pytest.fixture(scope="module")
def bush() -> Drawn:
    return grow(BUSH, 1500, 2, nothing, 0.0)


def test_first_end_is_a_draw_from_the_policy(bush: Drawn):
    share = np.mean([ends[0] == (1,) for ends in bush.ends])
    assert abs(share - 0.3) < 3 * math.sqrt(0.3 * 0.7 / len(bush.ends))


def test_new_step_is_reached_by_what_is_not_covered_twice(bush: Drawn):
    """After an end below the first step, of which 0.9 is left: at the root U = 0.3 counts as a draw's weight, and as
    the chance that it brings something; below, U = 0.9 counts alike, where a walk came there with 0.7 x 0.9."""
    second = [ends[1] for ends in bush.ends if ends[0] != (1,)]
    expected = 0.3**2 / (0.3**2 + 0.63 * 0.9)
    assert abs(np.mean([end == (1,) for end in second]) - expected) < 3 * math.sqrt(expected / len(second))


@pytest.mark.parametrize(("sharpness", "expected"), [(0.0, 0.5), (2.0, 0.88)])
def test_reward_draws_walks_by_its_exponential(sharpness: float, expected: float):
    """With an end below each of two equal steps, one of them rewarded: exp(2) to 1 that the third is below that."""
    policy: Policy = {(): [0.5, 0.5], (0,): [0.25] * 4, (1,): [0.25] * 4}
    drawn = grow(policy, 600, 3, lambda path: float(path[0] == 0), sharpness)
    third = [ends[2][0] == 0 for ends in drawn.ends if ends[0][0] != ends[1][0]]
    assert abs(np.mean(third) - expected) < 3 * math.sqrt(expected * (1 - expected) / len(third))


def test_no_end_is_reached_twice_and_all_are_when_rollouts_allow():
    policy: Policy = {(): [0.4, 0.6], (0,): [0.5, 0.5], (1,): [0.3, 0.7]}
    drawn = grow(policy, 200, 8, nothing, 2.0)
    assert all(max(Counter(ends).values()) == 1 for ends in drawn.ends)
    assert np.mean([len(ends) for ends in drawn.ends]) > 3


def test_node_that_is_given_up_is_not_left_to_draw_above():
    """Where an unlikely sibling was not found in all draws that are allowed, its share is no reason to come again."""
    policy: Policy = {(): [0.95, 0.05], (0,): [0.88, 0.12]}
    drawn = grow(policy, 1000, 5, nothing, 2.0)
    at_root = [at.count(()) - 1 for at in drawn.at if at.count((0,)) == DRAWS]
    assert len(at_root) > 30 and np.mean(at_root) < 8  # 13 where what was given up stayed


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"sharpness": math.nan}, "sharpness is nan; it must lie in"),
        ({"sharpness": math.inf}, "sharpness is inf; it must lie in"),
        ({"sharpness": -1.0}, r"sharpness is -1\.0; it must lie in"),
        ({"exhausted": math.nan}, "exhausted is nan; it must lie in"),
        ({"exhausted": 1.0}, "exhausted is 1.0, which closes every node"),
        ({"exploration": math.nan}, "exploration is nan; it must lie in"),
        ({"rule": "boltzmann", "reselect": True}, "reselect is true, but the boltzmann rule draws no path twice"),
    ],
)
def test_wrong_settings_of_the_choice_are_refused(settings: dict, line: str):
    with pytest.raises(UserError, match=line):
        SelectionConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"expansions": 40_000}, "expansions is 40000; it must be at most 1000"),
        ({"expansions": 4, "widening": 1.0}, r"widening is 1\.0, but the boltzmann rule chooses itself"),
        ({"expansions": 4, "widening": math.nan}, "widening is nan; it must be a number"),
        ({"merge_identical": False}, "merge_identical is false"),
        ({"sampling": SamplingConfig(temperature=0.0)}, "temperature is 0, so that the boltzmann rule draws one path"),
    ],
)
def test_settings_that_contradict_the_rule_are_refused(settings: dict, line: str):
    with pytest.raises(UserError, match=line):
        SearchConfig(preset="boltzmann", **settings)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_model_whose_numbers_are_none_is_refused(value: float):
    with pytest.raises(UserError, match="the policy's log-probability of a step is"):
        _finite(value, "the policy's log-probability")
