"""Finished trees to records: every visited leaf once, with its whole path and where it came from."""

from __future__ import annotations

import json

import pytest

from o1coder_jax.records import (
    Judgement,
    PairRecord,
    ProcessRecord,
    Verdict,
    content_hash,
    sibling_pairs,
    to_line,
)
from o1coder_jax.steps import Action
from search.harvest import Provenance, harvest
from search.tree import Node, Rollout, Tree
from tests.search.scripted import PROBLEMS

PROVENANCE = Provenance(run="run", iteration=3, policy="weights", tokenizer="phrases")
ACCEPTED = Judgement(Verdict.ACCEPTED, compiled=True, passed=4, total=4)
WRONG = Judgement(Verdict.WRONG_ANSWER, compiled=True, passed=2, total=4)
UNCHECKED = Judgement(Verdict.INFRA_ERROR, compiled=False, passed=0, total=4)


@pytest.fixture
def tree() -> Tree:
    """root -> 1 define -> 4 accepted, 5 wrong, 6 refine (not visited); root -> 2 malformed, 3 unchecked; 6 -> 7 depth.

    Rollouts ended at 4, 2, 3 and 5; none came to 6.
    """
    nodes = [
        Node(-1, 0),
        Node(0, 1, (1, 7), "1. define: a", Action.DEFINE, -0.5),
        Node(0, 1, (7,), "", Action.NONE, -2.0, ended="malformed", reward=0.0),
        Node(0, 1, (4, 8), "3. code: A", Action.CODE, -1.0, "code", "A", UNCHECKED, None),
        Node(1, 2, (5, 8), "3. code: B", Action.CODE, -1.5, "code", "B", ACCEPTED, 1.0),
        Node(1, 2, (6, 8), "3. code: C", Action.CODE, -0.1, "code", "C", WRONG, 0.55),
        Node(1, 2, (3, 7), "2. refine: c", Action.REFINE, -0.2),
        Node(6, 3, (2, 7), "1. define: b", Action.DEFINE, -0.3, ended="depth"),
    ]
    tree = Tree(5, PROBLEMS[0], (0, 3), nodes)
    tree.finish([Rollout(4), Rollout(2), Rollout(3), Rollout(5)])
    return tree


@pytest.fixture
def records(tree) -> list[ProcessRecord]:
    return harvest(tree, PROVENANCE)


def test_records_come_back_from_json(records):
    assert [ProcessRecord.from_json(json.loads(to_line(record))) for record in records] == records


def test_every_visited_leaf_is_recorded_once(records):
    assert [record.steps[-1].node for record in records] == [2, 4, 5]


def test_steps_are_the_path_from_the_root(records):
    assert [[(step.parent, step.node) for step in record.steps] for record in records] == [
        [(0, 2)],
        [(0, 1), (1, 4)],
        [(0, 1), (1, 5)],
    ]


def test_step_holds_what_its_node_does(tree, records):
    step, node = records[1].steps[0], tree.nodes[1]
    assert (step.tokens, step.text, step.action, step.log_probability) == ((1, 7), node.text, 1, -0.5)
    assert (step.visits, step.value) == (2, pytest.approx(1.55 / 2))


def test_value_of_the_last_step_is_the_reward(records):
    assert [record.steps[-1].value for record in records] == [pytest.approx(record.reward) for record in records]


def test_only_accepted_programs_are_correct(records):
    assert [record.correct for record in records] == [False, True, False]


def test_verdict_and_program_are_those_of_the_leaf(records):
    assert [(record.verdict, record.code) for record in records] == [
        (None, None),
        (Verdict.ACCEPTED, "B"),
        (Verdict.WRONG_ANSWER, "C"),
    ]


def test_record_says_how_its_path_ended(records):
    assert [record.ended for record in records] == ["malformed", "code", "code"]


def test_records_say_where_they_come_from(tree, records):
    for record in records:
        assert (record.run, record.iteration, record.policy, record.tokenizer) == ("run", 3, "weights", "phrases")
        assert (record.problem_id, record.tree, record.prompt_tokens) == (tree.problem.id, 5, (0, 3))
        assert record.tests == content_hash([test.to_json() for test in tree.problem.tests])


def test_unvisited_node_has_no_value(tree):
    assert [node.value is None for node in tree.nodes] == [False, False, False, True, False, False, True, True]


def test_root_counts_the_rollouts_that_could_be_checked(tree):
    assert (tree.nodes[0].visits, tree.nodes[0].value) == (3, pytest.approx(1.55 / 3))


def test_path_that_went_no_further_is_recorded_as_open():
    """Where the reward model alone values a leaf, nothing ends there."""
    nodes = [Node(-1, 0), Node(0, 1, (1, 7), "1. define: a", Action.DEFINE, opinion=0.75)]
    tree = Tree(0, PROBLEMS[0], (0,), nodes, value_weight=1.0)
    tree.finish([Rollout(1, 1)])
    [record] = harvest(tree, PROVENANCE)
    assert (record.ended, record.reward, record.steps[0].value) == ("", None, 0.75)


def test_pairs_are_siblings_and_the_better_one_wins(tree, records):
    found = sibling_pairs(records, 0.1)
    assert [(pair.winner.node, pair.loser.node, pair.path_tokens) for pair in found] == [(1, 2, ()), (4, 5, (1, 7))]
    assert (found[1].winner.value, found[1].loser.value) == (1.0, pytest.approx(0.55))
    assert {(pair.problem_id, pair.tree, pair.prompt_tokens) for pair in found} == {(tree.problem.id, 5, (0, 3))}


def test_pairs_come_back_from_json(records):
    found = sibling_pairs(records, 0.1)
    assert [PairRecord.from_json(json.loads(to_line(pair))) for pair in found] == found


def test_tree_with_an_accepted_program_is_solved(tree):
    assert tree.solved
    tree.nodes[4].judgement = WRONG
    assert not tree.solved
