"""Pools of pages that are too small for the forest: the same trees, however much must be read again."""

from __future__ import annotations

import dataclasses
import types

import pytest

from o1coder_jax.errors import UserError
from o1coder_jax.records import Problem
from search import waves
from search.tree import Tree
from search.waves import Search
from tests.search.by_hand import ByHand
from tests.search.scripted import CONFIG, PROBLEMS, Late, grown, instant, policy, same, searching
from tests.tiny import one_device

DEEP = dataclasses.replace(CONFIG, depth=4, rollouts=10, merge_identical=True)
LIKE = [dataclasses.replace(problem, statement=f"some words that all have {problem.id}") for problem in PROBLEMS]


@pytest.fixture(scope="module")
def coder():
    return policy()


@pytest.fixture
def by_hand(monkeypatch, coder):
    """Searches on a device that only keeps account of its pages."""
    monkeypatch.setattr(waves, "Device", ByHand)

    def grow(config, *, rated=False, problems=PROBLEMS, judge=instant) -> tuple[Search, dict[str, Tree]]:
        model = types.SimpleNamespace() if rated else None
        search = Search(coder, problems, judge, config, one_device(), seed=0, iteration=1, reward_model=model)
        return search, {tree.problem.id: tree for tree in search}

    return grow


def alike(first: dict[str, Tree], second: dict[str, Tree]) -> None:
    assert sorted(first) == sorted(second)
    for name, tree in first.items():
        same(tree, second[name], tolerance=0)
        opinions = [[node.opinion for node in one.nodes] for one in (tree, second[name])]
        assert opinions[0] == opinions[1]


@pytest.mark.parametrize("problems", [PROBLEMS, LIKE], ids=["own prompts", "shared prefix"])
@pytest.mark.parametrize("rated", [False, True])
@pytest.mark.parametrize("slots", [1, 8, 20])
def test_every_pool_that_is_allowed_gives_the_same_trees(by_hand, slots, rated, problems: list[Problem]):
    for page_tokens in (1, 3):
        sizes = {"slots": slots, "page_tokens": page_tokens, "prompt_tokens": 8}
        config = dataclasses.replace(DEEP, value_weight=0.5 if rated else 0.0, **sizes)
        search, ample = by_hand(config, rated=rated, problems=problems)
        assert search.counters.reread == 0
        fed = search.counters.fed
        for more in (0, 2, 9):
            small = dataclasses.replace(config, pages=config.path_pages + more)
            search, trees = by_hand(small, rated=rated, problems=problems)
            alike(trees, ample)
            assert search.counters.fed == fed + search.counters.reread
            if more == 0:
                assert search.counters.reread > 0


def test_late_verdicts_do_not_block_a_small_pool(by_hand):
    config = dataclasses.replace(DEEP, pages=DEEP.path_pages, window=3)
    ample = by_hand(dataclasses.replace(config, pages=0))[1]
    alike(by_hand(config, judge=Late(0))[1], ample)


def test_programs_that_are_weighed_do_not_spoil_a_small_pool(by_hand):
    """Pages of candidates that were not picked are given up before their step was put there."""
    config = dataclasses.replace(DEEP, best_code_only=True, pages=DEEP.path_pages)
    alike(by_hand(config)[1], by_hand(dataclasses.replace(config, pages=0))[1])


def test_trees_that_end_as_they_grow_do_not_spoil_a_small_pool(by_hand):
    """With values alone a tree may end in the turn in which its last candidates are attached."""
    config = dataclasses.replace(DEEP, value_weight=1.0, rollouts=4, pages=DEEP.path_pages)
    alike(by_hand(config, rated=True)[1], by_hand(dataclasses.replace(config, pages=0), rated=True)[1])


@pytest.mark.parametrize("rated", [False, True])
def test_reward_model_reads_every_token_once(by_hand, rated):
    search, trees = by_hand(dataclasses.replace(DEEP, value_weight=0.5 * rated), rated=rated)
    unique = sum(len(tree.prompt) + sum(len(node.tokens) for node in tree.nodes) for tree in trees.values())
    assert search.counters.rated == rated * unique


def test_prefix_of_all_prompts_is_read_once(by_hand):
    config = dataclasses.replace(DEEP, prompt_tokens=8)
    search, together = by_hand(config, problems=LIKE)
    alone = [by_hand(config, problems=[problem]) for problem in LIKE]
    alike(together, {name: tree for _, trees in alone for name, tree in trees.items()})
    prefix = len(waves.common_prefix([tree.prompt for tree in together.values()], config.page_tokens))
    assert prefix >= config.page_tokens
    assert search.counters.fed == sum(one.counters.fed for one, _ in alone) - prefix * (len(LIKE) - 1)


def test_fewer_pages_than_a_path_are_refused(by_hand):
    with pytest.raises(UserError, match=rf"search\.pages {DEEP.path_pages - 1} is too few: .* need {DEEP.path_pages};"):
        by_hand(dataclasses.replace(DEEP, pages=DEEP.path_pages - 1))
    with pytest.raises(UserError, match=r"search\.pages 1 is too few"):
        by_hand(dataclasses.replace(DEEP, pages=1))


def test_a_small_pool_gives_the_same_trees(coder):
    """With the model: what is read again is what was computed first."""
    config = dataclasses.replace(CONFIG, pages=CONFIG.path_pages + 2)
    ample = grown(policy=coder)
    search = searching(config, policy=coder)
    for tree in search:
        same(tree, ample[tree.problem.id])
    assert search.counters.reread > 0


def test_a_shared_prefix_gives_the_same_trees(coder):
    config = dataclasses.replace(CONFIG, prompt_tokens=8)
    together = grown(config, LIKE, policy=coder)
    for problem in LIKE[:3]:
        same(grown(config, [problem], policy=coder)[problem.id], together[problem.id])
