"""A value head on the policy: it rates steps from the policy's own pages, and no token is computed twice for it."""

from __future__ import annotations

import dataclasses
import zlib

import numpy as np
import pytest
from flax import nnx

from o1coder_jax import model_config
from o1coder_jax.errors import UserError
from o1coder_jax.policy import Policy
from o1coder_jax.prm import RewardModel
from o1coder_jax.sampling import seed_for
from search import waves
from search.config import BaselineConfig
from search.finished import FinishedTrees, provenance_of
from search.selection import SelectionConfig
from search.tree import Tree
from search.waves import Search
from tests.search.by_hand import ByHand
from tests.search.oracle import Candidate, Oracle
from tests.search.scripted import CONFIG, PROBLEMS, grown, head, policy, same, searching
from tests.search.test_opinions import check_opinions
from tests.search.test_pools import DEEP, LIKE, alike
from tests.search.test_waves import check_log_probabilities, compiled
from tests.tiny import SHAPE

MIXED = dataclasses.replace(CONFIG, value_weight=0.5)
PUCT = dataclasses.replace(MIXED, selection=SelectionConfig(rule="puct", exploration=1.25), rollouts=10, depth=4)


@pytest.fixture(scope="module")
def coder() -> Policy:
    return head().on(policy())


@pytest.fixture(scope="module")
def trees(coder) -> dict[str, Tree]:
    return grown(MIXED, policy=coder)


def unique(trees: dict[str, Tree]) -> int:
    """Tokens of prompts and nodes."""
    return sum(len(tree.prompt) + sum(len(node.tokens) for node in tree.nodes) for tree in trees.values())


def check_oracle(config, trees: dict[str, Tree]) -> None:
    """The plain algorithm over the same candidates, with their values, comes to the same visits and values."""
    for tree in trees.values():
        asked = 1

        def expand(node, tree=tree):
            nonlocal asked
            children = tree.nodes[asked : asked + config.samples]
            assert [child.parent for child in children] == [node] * config.samples
            asked += config.samples
            return [Candidate(child.terminal, child.prior, child.opinion) for child in children]

        seed = np.asarray(seed_for(0, 1, zlib.crc32(tree.problem.id.encode())))
        oracle = Oracle(
            seed,
            config.rollouts,
            config.selection,
            expand,
            lambda node, tree=tree: tree.nodes[node].reward,
            value_weight=config.value_weight,
        ).grow()
        assert asked == len(tree.nodes)
        assert [node.visits for node in tree.nodes] == [node.visits for node in oracle.nodes]
        for node, expected in zip(tree.nodes, oracle.nodes, strict=True):
            assert node.value == (pytest.approx(expected.total / node.visits, abs=1e-5) if node.visits else None)


# With the model.


def test_values_equal_an_uncached_forward_pass(coder, trees):
    check_opinions(RewardModel(coder.graph, coder.weights, ""), trees)


def test_steps_are_drawn_as_without_a_head(coder, trees):
    """Scores of the next token come from the state that was kept, of paths at every depth."""
    assert max(node.depth for tree in trees.values() for node in tree.nodes) == CONFIG.depth
    check_log_probabilities(coder, trees)
    plain = grown(policy=policy())
    for name, tree in grown(policy=coder).items():
        same(tree, plain[name])


def test_values_of_scanned_layers_with_windows_are_as_exact(monkeypatch):
    """All keys are then in one array, and what is far away is hidden."""
    monkeypatch.setattr(model_config, "UNROLLED_LAYERS", 1)
    deep = head().on(policy(shape=dataclasses.replace(SHAPE, sliding_window=5, full_layers=1)))
    found = grown(dataclasses.replace(MIXED, pages=MIXED.path_pages + 2), PROBLEMS[:4], policy=deep)
    assert any(node.depth > 1 for tree in found.values() for node in tree.nodes)
    check_opinions(RewardModel(deep.graph, deep.weights, ""), found)


def test_every_token_is_computed_once(coder):
    search = searching(MIXED, policy=coder)
    trees = {tree.problem.id: tree for tree in search}
    assert search.counters.fed == unique(trees)
    assert (search.counters.rated, search.counters.reread) == (0, 0)


def test_other_problems_and_another_head_compile_nothing(coder, trees, caplog):
    other = head(2, of="random-3").on(policy(3))
    assert compiled(caplog, lambda: searching(MIXED, PROBLEMS[:5], policy=other, seed=5)) == []


def test_functions_are_compiled_once(coder, caplog):
    names = compiled(caplog, lambda: searching(dataclasses.replace(MIXED, depth=2, trees=2), policy=coder))
    assert [names.count(name) for name in ("read", "value", "wave", "turn")] == [1, 1, 1, 1]
    assert "rate" not in names


def test_trees_are_those_of_the_plain_algorithm(trees):
    check_oracle(MIXED, trees)


def test_small_pool_and_no_pages_give_the_same_trees_and_values(coder, trees):
    for changes in ({"pages": MIXED.path_pages + 1}, {"paging": False}):
        search = searching(dataclasses.replace(MIXED, **changes), policy=coder)
        found = {tree.problem.id: tree for tree in search}
        assert search.counters.fed > unique(found)
        check_opinions(RewardModel(coder.graph, coder.weights, ""), found)
        for name, tree in found.items():
            assert [node.tokens for node in tree.nodes] == [node.tokens for node in trees[name].nodes]
            assert [node.visits for node in tree.nodes] == [node.visits for node in trees[name].nodes]


def test_killed_search_keeps_what_has_ended_and_grows_the_rest(coder, trees, tmp_path):
    provenance = provenance_of(
        "r", 1, MIXED, policy=coder.fingerprint, tokenizer="phrases", seed=0, reward_model=coder.head
    )
    first = FinishedTrees(tmp_path / "trees.jsonl", PROBLEMS, provenance)
    for _, tree in zip(range(3), searching(MIXED, policy=coder), strict=False):
        first.add(tree)
    first.close()
    again = FinishedTrees(tmp_path / "trees.jsonl", PROBLEMS, provenance)
    assert len(again.kept) == 3
    rest = grown(MIXED, policy=coder, without=again.kept)
    again.close()
    assert sorted([*again.kept, *rest]) == sorted(trees)
    for name, tree in {**again.kept, **rest}.items():
        same(tree, trees[name])
        opinions = [[node.opinion or 0.0 for node in one.nodes] for one in (tree, trees[name])]
        np.testing.assert_allclose(*opinions, atol=1e-5)


def test_head_of_other_weights_is_refused():
    with pytest.raises(UserError, match="head-1 reads the states of the policy other, not those of random-8"):
        head(of="other").on(policy())


def test_head_shares_the_arrays_of_the_policy():
    plain = policy()
    model = nnx.merge(*(lambda p: (p.graph, p.weights))(head().on(plain)))
    assert model.embedding[...] is nnx.merge(plain.graph, plain.weights).embedding[...]


# Without a model.


@pytest.fixture
def by_hand(monkeypatch):
    """Searches on a device that only keeps account of its pages, and of the states of their nodes."""
    monkeypatch.setattr(waves, "Device", ByHand)

    def grow(config, coder, problems=PROBLEMS) -> tuple[Search, dict[str, Tree]]:
        search = searching(config, problems, policy=coder)
        return search, {tree.problem.id: tree for tree in search}

    return grow


@pytest.mark.parametrize("problems", [PROBLEMS, LIKE], ids=["own prompts", "shared prefix"])
@pytest.mark.parametrize("slots", [1, 8, 20])
def test_every_pool_that_is_allowed_gives_the_same_trees(by_hand, coder, slots, problems):
    for page_tokens in (1, 3):
        config = dataclasses.replace(
            DEEP, value_weight=0.5, slots=slots, page_tokens=page_tokens, prompt_tokens=8, merge_identical=True
        )
        search, ample = by_hand(config, coder, problems)
        assert search.counters.reread == 0
        for more in (0, 2, 9):
            small, trees = by_hand(dataclasses.replace(config, pages=config.path_pages + more), coder, problems)
            alike(trees, ample)
            assert small.counters.fed == search.counters.fed + small.counters.reread
            assert small.counters.reread > 0 or more


@pytest.mark.parametrize(
    "config", [MIXED, PUCT, dataclasses.replace(MIXED, value_weight=1.0)], ids=["mixed", "puct", "values alone"]
)
def test_scripted_values_give_the_trees_of_the_plain_algorithm(by_hand, coder, config):
    config = dataclasses.replace(config, merge_identical=False)
    search, trees = by_hand(config, coder)
    assert search.counters.fed == unique(trees)
    check_oracle(config, trees)


@pytest.mark.parametrize("kind", ["beam", "best_of_n"])
def test_baselines_rank_by_the_head_and_read_every_token_once(by_hand, coder, kind):
    """Their paths begin at the root again and again; its state is kept."""
    baseline = BaselineConfig(kind=kind, beams=2, ranking="prm_min")
    config = dataclasses.replace(CONFIG, baseline=baseline, rollouts=6, merge_identical=False)
    search, trees = by_hand(config, coder)
    assert search.counters.fed == unique(trees)
    assert all(node.opinion is not None for tree in trees.values() for node in tree.nodes[1:])
    small = dataclasses.replace(config, pages=config.resolved().path_pages)
    alike(by_hand(small, coder)[1], trees)
