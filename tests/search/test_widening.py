"""Whole searches that expand nodes again: the plain algorithm's trees, and no token that is computed twice."""

from __future__ import annotations

import dataclasses
import math
import zlib
from unittest import mock

import numpy as np
import pytest

from o1coder_jax.sampling import seed_for
from search import waves
from search.tree import Node, Tree
from tests.search.by_hand import ByHand
from tests.search.oracle import Candidate, Oracle
from tests.search.scripted import CONFIG, PROBLEMS, grown, head, policy, searching
from tests.search.test_pools import alike
from tests.search.test_waves import check_log_probabilities, compiled

WIDE = dataclasses.replace(CONFIG, samples=2, expansions=4, widening=1.0, rollouts=12, merge_identical=True)
DRAWN_ON = dataclasses.replace(CONFIG, preset="boltzmann", rollouts=12, merge_identical=True)
ONE = dataclasses.replace(WIDE, samples=1, depth=4, merge_identical=False)

Draws = list[tuple[int, list[tuple[int, ...]], list[bool]]]


@pytest.fixture(scope="module")
def coder():
    return policy()


@pytest.fixture(scope="module", params=[WIDE, DRAWN_ON], ids=["widening", "boltzmann"])
def config(request):
    return request.param


@pytest.fixture(scope="module")
def found(coder, config) -> tuple[dict[str, Tree], dict[str, Draws]]:
    """The trees, and of each its expansions in order: the node, the candidates' tokens, and which became children."""
    draws: dict[str, Draws] = {}
    attach = Tree.attach

    def noted(tree, candidates, **settings):
        fresh = attach(tree, candidates, **settings)
        tokens = [candidate.tokens for candidate in candidates]
        draws.setdefault(tree.problem.id, []).append((candidates[0].parent, tokens, fresh))
        return fresh

    with mock.patch.object(Tree, "attach", noted):
        return grown(config, policy=coder), draws


def test_trees_are_those_of_the_plain_algorithm(found, config):
    """The oracle walks through the same candidates, in the same order; None for those that repeat a child."""
    trees, draws = found
    rules = config.resolved().rules
    for tree in trees.values():
        expansions, children = iter(draws[tree.problem.id]), iter(tree.nodes[1:])

        def expand(node, expansions=expansions, children=children):
            parent, _, fresh = next(expansions)
            assert parent == node
            return [candidate(next(children)) if is_new else None for is_new in fresh]

        seed = np.asarray(seed_for(0, 1, zlib.crc32(tree.problem.id.encode())))
        oracle = Oracle(
            seed,
            rules.rollouts,
            rules.selection,
            expand,
            lambda node, tree=tree: tree.nodes[node].reward,
            expansions=rules.widening.expansions,
            widening=rules.widening.weight,
        ).grow()
        assert next(expansions, None) is None
        assert next(children, None) is None
        assert [node.visits for node in tree.nodes] == [node.visits for node in oracle.nodes]
        for node, expected in zip(tree.nodes, oracle.nodes, strict=True):
            assert node.value == (pytest.approx(expected.total / node.visits) if node.visits else None)


def candidate(node: Node) -> Candidate:
    return Candidate(node.terminal, chance=math.exp(node.log_probability))


def test_candidates_that_repeat_a_child_are_none(found):
    again = vain = 0
    for name, tree in found[0].items():
        known: dict[int, set[tuple[int, ...]]] = {}
        for parent, tokens, fresh in found[1][name]:
            seen = known.setdefault(parent, set())
            again += bool(seen)
            vain += bool(seen) and not any(fresh)
            for step, is_new in zip(tokens, fresh, strict=True):
                assert is_new == (step not in seen)
                seen.add(step)
        for parent, seen in known.items():
            assert {node.tokens for node in tree.nodes if node.parent == parent} == seen
    assert again > vain > 0  # both happen, else this says little


def test_paths_that_are_opened_again_go_on_from_the_state_that_was_kept(coder, found):
    check_log_probabilities(coder, found[0])


def test_other_problems_compile_nothing(found, config, caplog):
    assert compiled(caplog, lambda: searching(config, PROBLEMS[:5], policy=policy(3), seed=5)) == []


@pytest.fixture
def by_hand(monkeypatch):
    """Searches on a device that only keeps account of its pages, and of the states of their nodes."""
    monkeypatch.setattr(waves, "Device", ByHand)

    def grow(config, coder):
        search = searching(config, PROBLEMS[:4], policy=coder)
        return search.counters, {tree.problem.id: tree for tree in search}

    return grow


def test_every_token_is_computed_once(by_hand, coder):
    """But the last of a step that nobody continued, which only a value head asks for."""
    counters, trees = by_hand(ONE, coder)
    nodes = [(tree.number, node) for tree in trees.values() for node in tree.nodes[1:]]
    continued = {(number, node.parent) for number, node in nodes}
    assert len(nodes) > 1.5 * len(continued)  # many were opened more than once
    prompts = sum(len(tree.prompt) - 1 for tree in trees.values())
    assert counters.fed == prompts + sum(len(node.tokens) - 1 for _, node in nodes) + len(continued)

    counters, trees = by_hand(dataclasses.replace(ONE, value_weight=0.5), head().on(coder))
    assert counters.fed == sum(
        len(tree.prompt) + sum(len(node.tokens) for node in tree.nodes) for tree in trees.values()
    )


@pytest.mark.parametrize(("rated", "merge"), [(False, True), (True, False)])
def test_every_pool_that_is_allowed_gives_the_same_trees(by_hand, coder, rated, merge):
    config = dataclasses.replace(ONE, merge_identical=merge, value_weight=0.5 * rated)
    coder = head().on(coder) if rated else coder
    ample, trees = by_hand(config, coder)
    assert ample.reread == 0
    for changes in ({"pages": config.path_pages}, {"pages": config.path_pages + 9}, {"paging": False}):
        small, others = by_hand(dataclasses.replace(config, **changes), coder)
        alike(others, trees)
        assert small.fed == ample.fed + small.reread > ample.fed
