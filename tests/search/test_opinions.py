"""A process reward model in the search: what it reads, what it says, and what that is worth."""

from __future__ import annotations

import dataclasses
import types

import numpy as np
import pytest
from flax import nnx

from o1coder_jax.errors import UserError
from o1coder_jax.prm import RewardModel, score_tokens
from search import waves
from search.growing import Growing
from search.tree import Node, Tree
from search.waves import Search
from tests.search.by_hand import ByHand
from tests.search.scripted import CONFIG, PIECES, PROBLEMS, instant, policy, same
from tests.tiny import LENGTH, SHAPE, decoder, one_device

MIXED = dataclasses.replace(CONFIG, value_weight=0.5, merge_identical=True)


@pytest.fixture(scope="module")
def coder():
    return policy()


@pytest.fixture(scope="module")
def model() -> RewardModel:
    """With a shape of its own: its pages are no copies of the policy's."""
    shape = dataclasses.replace(SHAPE, layers=1, kv_heads=1)
    return RewardModel(*nnx.split(decoder(shape, len(PIECES), seed=3, value_head=True)), "random")


def grown(coder, model, config, problems=PROBLEMS) -> tuple[Search, dict[str, Tree]]:
    search = Search(coder, problems, instant, config, one_device(), seed=0, iteration=1, reward_model=model)
    return search, {tree.problem.id: tree for tree in search}


@pytest.fixture(scope="module")
def mixed(coder, model) -> tuple[Search, dict[str, Tree]]:
    return grown(coder, model, MIXED)


def check_opinions(model: RewardModel, trees: dict[str, Tree]) -> None:
    nodes = [(tree, index) for tree in trees.values() for index in range(1, len(tree.nodes))]
    tokens = np.zeros((len(nodes), LENGTH), np.int32)
    last = []
    for row, (tree, index) in enumerate(nodes):
        path = [*tree.prompt, *(token for i in tree.path(index) for token in tree.nodes[i].tokens)]
        tokens[row, : len(path)] = path
        last.append(len(path) - 1)
    whole = np.asarray(score_tokens(model.graph, model.weights, tokens, np.ones_like(tokens)))
    expected = whole[np.arange(len(nodes)), last]
    assert expected.std() > 0.05
    np.testing.assert_allclose([tree.nodes[index].opinion for tree, index in nodes], expected, atol=1e-4)


def test_opinions_equal_the_forward_pass_over_the_path(model, mixed):
    check_opinions(model, mixed[1])


def test_opinions_hold_in_a_small_pool(coder, model, mixed):
    search, trees = grown(coder, model, dataclasses.replace(MIXED, pages=MIXED.path_pages + 1))
    assert search.counters.reread > 0
    check_opinions(model, trees)
    for name, tree in trees.items():
        same(tree, mixed[1][name])


def test_search_without_its_reward_model_is_refused(coder):
    with pytest.raises(UserError, match=r"search\.value_weight is not 0, but there is no process reward model"):
        grown(coder, None, MIXED)


@pytest.fixture
def walks(monkeypatch, coder):
    """Trees with the terminals that their rollouts came to, each with the tree's size when it came there."""
    monkeypatch.setattr(waves, "Device", ByHand)
    ends: dict[str, list[tuple[Node, int]]] = {}
    ask = Growing.ask

    def asking(self, node):
        ends.setdefault(self.tree.problem.id, []).append((node, len(self.tree.nodes)))
        ask(self, node)

    monkeypatch.setattr(Growing, "ask", asking)

    def grow(weight: float):
        config = dataclasses.replace(CONFIG, value_weight=weight, depth=4, rollouts=12)
        return config, grown(coder, types.SimpleNamespace(), config)[1], ends

    return grow


def test_opinion_of_the_leaf_is_mixed_in_from_the_leaf_upwards(walks):
    _, trees, ends = walks(0.25)
    mixes = 0
    for name, tree in trees.items():
        total, before = np.zeros(len(tree.nodes)), 1
        for end, size in ends[name]:
            path = tree.path(next(i for i, node in enumerate(tree.nodes) if node is end))
            leaf = next((node for node in path if node >= before), None)
            before = size
            if end.reward is None:
                continue
            worth = end.reward
            if leaf is not None and leaf != path[-1]:
                worth = 0.75 * end.reward + 0.25 * tree.nodes[leaf].opinion
                mixes += 1
            for node in [0, *path]:
                total[node] += end.reward if leaf is not None and node > leaf else worth
        for node, expected in zip(tree.nodes, total, strict=True):
            assert node.value == (pytest.approx(expected / node.visits, abs=1e-5) if node.visits else None)
    assert mixes


def test_opinion_alone_is_the_worth_of_a_leaf(walks):
    """No walk goes on below the first node that it added; only terminals are judged."""
    _, trees, _ = walks(1.0)
    valued = 0
    for tree in trees.values():
        total = np.zeros(len(tree.nodes))
        visits = np.zeros(len(tree.nodes), int)
        for index in reversed(range(len(tree.nodes))):
            node = tree.nodes[index]
            own = node.visits - visits[index]
            worth = node.reward or 0.0 if node.terminal else node.opinion
            if index:
                assert own in (0, 1)
                valued += own and not node.terminal
            else:
                assert own == 0
            total[index] += own * (worth or 0.0)
            if index:
                total[node.parent] += total[index]
                visits[node.parent] += node.visits
            assert node.value == (pytest.approx(total[index] / node.visits, abs=1e-5) if node.visits else None)
    assert valued
